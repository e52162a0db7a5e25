"""Plans without Snakemake's imports, which take longer than the rest of a plan.

A process imports Snakemake and other libraries, and nothing of the package. Each plan is a fork of
it, which imports the package, the plugins and the workflow. What runs jobs is no fork: a plan and
the run before it never hash strings alike, so an order that depends on it is seen.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

TIMEOUT = 600


def plan(options: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """`python -m snakemake` with options that run no job: its exit status and what it printed."""
    process = _process()
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as printed:
        request = [printed.name, [str(word) for word in options], str(folder), environment]
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline()), printed.read()


@cache
def _process() -> subprocess.Popen:
    """It ends with this one, which holds the other end of its input."""
    command = [sys.executable, "-P", __file__]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def _be_snakemake(printed: str, options: list[str], folder: str, environment: dict) -> None:
    signal.alarm(TIMEOUT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(printed, os.O_WRONLY | os.O_APPEND), stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [folder, environment["PYTHONPATH"]]
    sys.argv = ["snakemake", *options]
    runpy.run_module("snakemake", run_name="__main__", alter_sys=True)


def _serve() -> None:
    import cv2  # noqa: F401
    import pydantic  # noqa: F401
    import snakemake.cli
    import snakemake.report.html_reporter  # noqa: F401

    assert "clip_wsss" not in sys.modules
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _be_snakemake(*json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
