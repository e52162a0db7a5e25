"""Data and results under DVC: pinned, pushed, pulled, and current for Snakemake."""

import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from clip_wsss.demo.build import build

pytestmark = [pytest.mark.workflow, pytest.mark.e2e, pytest.mark.xdist_group("small")]


def _run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _dvc(folder, *command):
    return _run(folder, sys.executable, "-m", "dvc", *command)


def _git(folder, *command):
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    return _run(folder, "git", *who, *command)


@pytest.fixture(scope="module")
def tracked(small, tmp_path_factory):
    """The small project as a Git repository with its data and results in DVC."""
    folder = tmp_path_factory.mktemp("tracked") / "origin"
    shutil.copytree(small.folder, folder)
    for name in (".gitignore", ".dvcignore", "dvc.yaml"):
        shutil.copy(ROOT / name, folder / name)
    _git(folder, "init", "-q", "-b", "main")
    _dvc(folder, "init", "-q")
    for pin, path in (("data.dvc", "data/demo"), ("results.dvc", "results/demo")):
        (folder / pin).write_text(f"outs:\n- path: {path}\n", encoding="utf-8")
    _dvc(folder, "commit", "-q", "--force", "data.dvc", "results.dvc")
    _dvc(folder, "remote", "add", "-q", "-d", "store", str(folder.parent / "store"))
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "first")
    return folder


def test_push_pull_and_nothing_to_do(small, tracked, tmp_path):
    _dvc(tracked, "push", "-q")
    clone = tmp_path / "clone"
    _git(tmp_path, "clone", "-q", str(tracked), str(clone))
    _dvc(clone, "pull", "-q")
    assert "up to date" in _dvc(clone, "status")
    assert "miou" in _dvc(clone, "metrics", "show") or "initial" in _dvc(clone, "metrics", "show")
    assert "file://" in _dvc(clone, "plots", "show")
    here = small.folder
    try:
        small.folder = clone
        assert small.snakemake("--touch").code == 0
        result = small.snakemake("-n")
        assert result.nothing_to_do, result.jobs
        code = clone / "src/clip_wsss/masks/refinements/crf.py"
        text = code.read_text(encoding="utf-8")
        code.write_text(text.replace("1e-5", "2e-5"), encoding="utf-8")
        assert small.snakemake("-n").jobs["masks"] == 2, "the sidecars know what made them"
        code.write_text(text, encoding="utf-8")
        assert small.snakemake("-n").nothing_to_do
    finally:
        small.folder = here
    assert "up to date" in _dvc(clone, "status")


def test_the_same_run_leaves_the_pin_as_it_is(tracked):
    before = (tracked / "data.dvc").read_bytes()
    _dvc(tracked, "commit", "-q", "--force", "data.dvc")
    assert (tracked / "data.dvc").read_bytes() == before


def test_the_shipped_pin_is_that_of_the_demo(tmp_path):
    """The scenes are the same bytes on every machine, or this fails there."""
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text("utf-8"))["demo"]
    build(tmp_path / "data/demo", settings)
    shutil.copy(ROOT / "data.dvc", tmp_path)
    _git(tmp_path, "init", "-q")
    _dvc(tmp_path, "init", "-q")
    _dvc(tmp_path, "commit", "-q", "--force", "data.dvc")
    assert (tmp_path / "data.dvc").read_bytes() == (ROOT / "data.dvc").read_bytes()
