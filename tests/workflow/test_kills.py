"""kill -9 of Snakemake and of its jobs, at random moments of every stage: nothing is lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Result, hashes

from clip_wsss.core.files import sha256

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.xdist_group("small"),
]

SEED = int(os.environ.get("CLIP_WSSS_KILL_SEED", "0"))
HANG = 900  # seconds, against a hang only
STAGES = {  # stage -> what its jobs have made, in the folders of data and results
    "data": ("../../data/demo/ImageSets/Segmentation/*.txt", "data/sidecar.json"),
    "texts": ("features/*/image_features.*", "texts/sharpest*/text_features.*"),
    "maps": ("cam/*/*of*", "affinity/*/*of*"),
    "masks": ("masks/*/*of*",),
    "segmentation": ("segmentation/*/seed0/checkpoint.*",),
    "inference": ("inference/*/seed0/val.*",),
    "score": ("score/*/*/score.json", "score/*/*/sidecar.json", "score/segmentation/*/*/*.json"),
    "tables": ("tables/test.csv", "tables/sidecar.json"),
    "report": ("report.html", "report.json"),
}


TIMES = {  # stage -> what says how long its jobs took
    "data": "data.tsv",
    "texts": "texts/*.tsv",
    "maps": "maps/*/*.tsv",
    "masks": "masks/*/*.tsv",
    "segmentation": "segmentation/*/seed0.tsv",
    "inference": "inference-1.tsv",
    "score": "score*.tsv",
}


def benchmark(path: Path) -> float:
    """Seconds of a job, by Snakemake's benchmark."""
    return float(path.read_text(encoding="utf-8").splitlines()[1].split("\t")[0])


class Run:
    """Snakemake that makes some files of a project, killed at will."""

    def __init__(self, folder: Path, files: list[str], *options: str):
        command = [sys.executable, "-m", "snakemake", "--configfile", "test.yaml", "--cores", "2"]
        self.folder, self.log = folder, folder / "kills.log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*command, *options, "--", *files],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(folder / "src")},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def job(self) -> int | None:
        """A job that runs; None once Snakemake has ended."""
        end = time.monotonic() + HANG
        while self.process.poll() is None:
            assert time.monotonic() < end
            for pid in processes(self.folder / ".snakemake/scripts"):
                if parent(pid) == self.process.pid:
                    return pid
            time.sleep(0.02)
        return None

    def ended(self) -> Result:
        """The result, once no process of it is left (ten minutes are for a busy machine)."""
        code, end = self.process.wait(HANG), time.monotonic() + 600
        while left := processes(self.folder):
            assert time.monotonic() < end, f"left behind: {left}"
            time.sleep(0.1)
        return Result(code, self.log.read_text(encoding="utf-8"))


def processes(folder: Path) -> list[int]:
    """Processes whose command names a folder, without those that have ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            named = str(folder).encode() in path.read_bytes()
        except OSError:
            continue
        if named and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def killed(pid: int) -> bool:
    """Kill a process, and say whether it still ran."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        os.kill(pid, signal.SIGKILL)
    except OSError:  # it was faster
        return False
    return state not in ("Z", "X")


def removed(files: list[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks for processes in /proc")
def test_a_killed_run_goes_on_to_the_same_bytes(small, tmp_path):
    draw = random.Random(SEED)
    print(f"CLIP_WSSS_KILL_SEED={SEED}")
    folder = tmp_path / "project"
    shutil.copytree(small.folder, folder)
    results = folder / "results/demo"
    for stage, patterns in STAGES.items():
        seconds = min(
            map(benchmark, (results / "benchmarks").glob(TIMES.get(stage, "-"))), default=5
        )
        gone = [path.resolve() for pattern in patterns for path in results.glob(pattern)]
        assert gone, stage
        files = [path.relative_to(folder).as_posix() for path in gone]
        # Three moments a stage; where the run was faster than the moment, there is another one.
        kills = 0
        while kills < 1:
            removed(gone)
            run = Run(folder, files)
            pid, took = run.job(), draw.uniform(0, seconds)
            assert pid is not None, run.ended().text
            time.sleep(took)
            kills += killed(run.process.pid)
            print(f"{stage}: Snakemake, {took:.2f} s after its job began, {kills} hit")
            run.ended()
        assert Run(folder, ["all"], "--unlock").ended().code == 0  # as the README says
        while kills < 3:
            run, last = Run(folder, files, "--retries", "9"), None
            while kills < 3 and (pid := run.job()) is not None:
                if pid == last:
                    time.sleep(0.02)
                    continue
                time.sleep(took := draw.uniform(0, seconds))
                kills += killed(pid)
                print(f"{stage}: a job, {took:.2f} s after it began, {kills} hit")
                last = pid
            result = run.ended()
            assert result.code == 0, result.text
            if kills < 3:
                removed(gone)
    result = Run(folder, ["all"]).ended()
    assert result.code == 0, result.text
    assert hashes(results) == hashes(small.folder / "results/demo")
    assert sha256(folder / "data") == sha256(small.folder / "data")
    assert not list(results.rglob("*.part"))
    assert Run(folder, ["all"], "-n").ended().nothing_to_do
