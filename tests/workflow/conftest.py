"""A copy of the project in a temporary folder, and real Snakemake in it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from plans import plan

ROOT = Path(__file__).parents[2]

RUNS = """\
name\tbase\ttexts\tcam\taffinity\tmasks\tsegmentation\tinference\tseed\tnote
plain\t-\tphoto\tplain\t-\t-\t-\t-\t0\t
full\tplain\tsharpest\tsoftmax\tcaa\tcrf\tcgl\tdefault\t0\t
fixed\tplain\tphoto\tsoftmax\tcaa\tcrf\t-\t-\t0\t
truth\tfull\t-\t-\t-\tground-truth\tall-pixels\tdefault\t0\t
"""


@dataclass
class Result:
    """What a call of Snakemake printed, and how it ended."""

    code: int
    text: str
    log: str = ""  # Snakemake's own, with everything

    @property
    def jobs(self) -> dict[str, int]:
        """Jobs of the plan by rule, as our lines or those of Snakemake's own logger have them."""
        lines = re.compile(r"^(?:\d+ jobs|Job stats):\n((?:.+\n)+?)(?:total|$)", re.MULTILINE)
        block = lines.search(self.text)
        counts = re.findall(r"^ *(\w+)\s+(\d+)$", block[1] if block else "", re.MULTILINE)
        return _by_kind((rule, int(number)) for rule, number in counts)

    @property
    def executed(self) -> dict[str, int]:
        """Jobs that were run to their end, by rule."""
        finished = re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", self.log)
        return _by_kind((rule, 1) for rule in finished)

    @property
    def nothing_to_do(self) -> bool:
        return "Nothing to be done" in self.text


def _by_kind(counts) -> dict[str, int]:
    """Sum of counts by rule, the passes of the maps being one, and so on; without the target."""
    found: dict[str, int] = {}
    for rule, number in counts:
        if rule in ("total", "all"):
            continue
        kind = rule.partition("_")[0]
        rule = kind if kind in ("maps", "texts", "inference", "labels") else rule
        found[rule] = found.get(rule, 0) + number
    return found


class Project:
    """A working copy of the project with a config of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True)
        for name in ("Snakefile", "workflow", "config", "src", "profiles"):
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(source, folder / name, ignore=ignore)
            else:
                shutil.copy(source, folder / name)
        self.config = yaml.safe_load((folder / "config/config.yaml").read_text("utf-8"))

    def cut_down(self) -> None:
        """Make the demo small: a dozen images, two runs, a short training."""
        self.config["demo"].update(train=8, val=4)
        self.config["compute"].update(shards=1)
        self.config["evaluation"].update(bootstrap=20, panels=2)
        for entry in self.config["segmentation"].values():
            entry["iterations"] = 4
        self.config["masks"]["wrapped"] = {"refinement": "crf", "crf": {"image": "wrapped-bgr"}}
        self.write_runs(RUNS)

    def write_runs(self, text: str) -> None:
        (self.folder / "config/runs/test.tsv").write_text(text, encoding="utf-8")
        self.config["runs"]["tables"] = ["config/runs/test.tsv"]

    def write_config(self) -> None:
        """Write the config as it is now."""
        text = yaml.safe_dump(self.config)
        (self.folder / "test.yaml").write_text(text, encoding="utf-8")

    def snakemake(
        self, *options: str, cores: int = 2, timeout: int = 1800, config: str = "test.yaml"
    ) -> Result:
        """Run Snakemake with the config as it is now, or with another file's."""
        self.write_config()
        words = ["--configfile", config, "--cores", str(cores), *options]
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src")}  # the copy, not this
        if "-n" in options:
            return Result(*plan(words, self.folder, environment))
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        logs = sorted((self.folder / ".snakemake/log").glob("*.log"))
        log = logs[-1].read_text("utf-8") if logs else ""
        return Result(done.returncode, done.stdout + done.stderr, log)


def hashes(folder: Path) -> dict[str, str]:
    """File -> digest, without what differs by design: times, provenance, the report."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        aside = name.startswith(("logs/", "benchmarks/")) or path.name == "provenance.json"
        aside = aside or path.name == ".snakemake_timestamp" or path.stem == "cost"
        aside = aside or name == "report.html" or "work" in name.split("/")
        if path.is_file() and not aside:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Project:
    """The cut-down demo, run once for all tests; they restore what they change."""
    project = Project(tmp_path_factory.mktemp("small") / "project")
    project.cut_down()
    result = project.snakemake()
    assert result.code == 0, result.text
    return project
