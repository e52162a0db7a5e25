"""The workflow away from its checkout: another folder, a module, a wheel, a path with a space."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, RUNS, Result, hashes
from plans import plan

pytestmark = pytest.mark.workflow

RESULTS = "results/demo"


def call(folder, *command, path=ROOT / "src", timeout=1800):
    """Run a command with the package of this checkout, or by None with the installed one."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment | ({} if path is None else {"PYTHONPATH": str(path)}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Result(done.returncode, done.stdout + done.stderr)


def snakemake(folder, *options):
    words = ["--cores", "2", *options]
    if "-n" in options:
        return Result(*plan(words, folder, {**os.environ, "PYTHONPATH": str(ROOT / "src")}))
    return call(folder, sys.executable, "-m", "snakemake", *words)


def write_module(folder, *lines, config=None):
    """A workflow of the user's that has this one as a module."""
    lines = ["module clip_wsss:", f'    snakefile: "{ROOT}/Snakefile"', *lines]
    text = "\n".join(lines) + "\n\nuse rule * from clip_wsss as wsss_*\n"
    (folder / "Snakefile").write_text(text, encoding="utf-8")
    if config is not None:
        (folder / "mine.yaml").write_text(yaml.safe_dump({"wsss": config}), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    return folder


def test_from_an_empty_folder(folder, tmp_path):
    plan = snakemake(tmp_path, "-n", "-s", ROOT / "Snakefile", "--directory", folder)
    assert plan.code == 0, plan.text
    command = call(folder, sys.executable, "-m", "clip_wsss", "run", "--cores", "2", "-n")
    assert command.jobs == plan.jobs
    assert f"profile {ROOT / 'profiles/default'}" in command.text
    assert {path.name for path in folder.iterdir()} <= {".snakemake"}, "a plan writes nothing"


def test_the_files_of_the_user_come_first(folder):
    own = {"inherits": ["config/config.yaml"], "runs": {"tables": ["config/runs/ladder.tsv"]}}
    (folder / "mine.yaml").write_text(json.dumps(own), encoding="utf-8")
    (folder / "config/runs").mkdir(parents=True)
    table = "name\ttexts\tcam\nmine\tphoto\tsoftmax\n"
    (folder / "config/runs/ladder.tsv").write_text(table, encoding="utf-8")
    run = [sys.executable, "-m", "clip_wsss", "run", "--cores", "2", "-n"]
    result = call(folder, *run, "--configfile", "mine.yaml")
    assert result.jobs["maps"] == 1, result.text
    assert "masks" not in result.jobs


def test_as_a_module_with_the_demo_of_its_own(folder):
    write_module(folder)
    result = snakemake(folder, "-n")
    assert result.code == 0, result.text
    assert result.jobs["wsss_masks"] == 5


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (['    prefix: "mine"'], "prefix and replace_prefix cannot be used"),
        (["    config: {}"], "the config is empty"),
    ],
)
def test_what_a_module_cannot_do_is_said(folder, lines, problem):
    write_module(folder, *lines)
    result = snakemake(folder, "-n")
    assert result.code != 0
    assert problem in result.text
    assert "Traceback" not in result.text


def test_a_python_that_snakemake_cannot_run_is_refused(folder):
    environment = folder / "my environment"
    environment.symlink_to(sys.prefix)
    command = [environment / "bin/python", "-m", "snakemake", "-n", "-s", ROOT / "Snakefile"]
    result = call(folder, *command, "--cores", "2")
    assert result.code != 0
    assert "Snakemake cannot run a Python whose path holds a space" in result.text
    assert not result.jobs


def same_results(folder, small):
    """Compare results with those of a run in a checkout."""
    for name in ("data/demo", RESULTS):
        mine, theirs = hashes(folder / name), hashes(small.folder / name)
        assert mine.keys() == theirs.keys()
        assert [file for file in mine if mine[file] != theirs[file]] == []


@pytest.mark.long
@pytest.mark.xdist_group("small")
def test_a_module_gives_the_same_bytes(folder, small):
    write_module(folder, '    config: config["wsss"]', config=small.config)
    with (folder / "Snakefile").open("a", encoding="utf-8") as file:
        file.write(
            textwrap.dedent("""
                rule mine:
                    default_target: True
                    input: rules.wsss_all.input
                    output: "mine.txt"
                    shell: "touch {output}"
            """)
        )
    (folder / "config/runs").mkdir(parents=True)
    (folder / "config/runs/test.tsv").write_text(RUNS, encoding="utf-8")
    options = ["--configfile", "mine.yaml", "--workflow-profile", ROOT / "profiles/default"]
    result = snakemake(folder, *options)
    assert result.code == 0, result.text
    same_results(folder, small)
    assert snakemake(folder, *options, "-n").nothing_to_do


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> Path:
    """An environment with the wheel, and the other packages of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("src", "workflow", "config", "profiles"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("Snakefile", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-index"]
    built = call(folder, *pip, "wheel", *alone, "--no-build-isolation", "-w", folder, source)
    assert built.code == 0, built.text
    shutil.rmtree(source)
    made = call(folder, sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    assert made.code == 0, made.text
    python = folder / "venv/bin/python"
    own = call(folder, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    # A path in a .pth file brings packages, and not the .pth of this checkout that lies there.
    others = sysconfig.get_path("purelib")
    Path(own.text.strip(), "others.pth").write_text(f"{others}\n", encoding="utf-8")
    wheel = next(folder.glob("*.whl"))
    install = ["--python", python, "install", *alone, "--ignore-installed", wheel]
    installed = call(folder, *pip, *install)
    assert installed.code == 0, installed.text
    return folder / "venv/bin"


@pytest.mark.long
@pytest.mark.xdist_group("small")
def test_a_wheel_gives_the_same_bytes_in_a_folder_of_the_user(environment, folder, small):
    where = call(folder, environment / "python", "-c", "import clip_wsss as c; print(c)", path=None)
    assert str(environment.parent) in where.text, "the package of the wheel"
    (folder / "config/runs").mkdir(parents=True)
    (folder / "config/runs/test.tsv").write_text(RUNS, encoding="utf-8")
    (folder / "mine.yaml").write_text(yaml.safe_dump(small.config), encoding="utf-8")
    run = [environment / "clip-wsss", "run", "--cores", "2", "--configfile", "mine.yaml"]
    result = call(folder, *run, path=None)
    assert result.code == 0, result.text
    same_results(folder, small)
    assert call(folder, *run, "-n", path=None).nothing_to_do
    export = ["export", "full", "--configfile", "mine.yaml"]
    assert call(folder, environment / "clip-wsss", *export, path=None).code == 0
    assert len(list((folder / "export/full/masks/labels").glob("*.png"))) == 8
