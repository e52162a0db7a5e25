"""Processes that end with the one that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import clip_wsss
from clip_wsss.core.processes import parallel_map

SOURCE = Path(clip_wsss.__file__).parents[1]
POOL = """
import os, time
from clip_wsss.core.processes import parallel_map

def work(_):
    os.write(1, b"%d%c" % (os.getpid(), 10))  # at once, whatever the other writes
    time.sleep(1000)

if __name__ == "__main__":
    with parallel_map(2) as mapped:
        list(mapped(work, range(2)))
"""
MODULE = """
import os, subprocess, sys
module = [sys.executable, "-m", "clip_wsss.core.processes", str(os.getpid()), "sleeper", "300"]
subprocess.run(module)
"""
JOB = """
import os, subprocess, sys
subprocess.run([sys.executable, "job.py"])
"""
BODY = """
import os, time
from clip_wsss.runs.jobs import job

with job("job.log"):
    print(os.getpid(), flush=True)
    time.sleep(1000)
"""
SLEEPER = """
import os, sys, time
print(os.getpid(), *sys.argv[1:], flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize(("script", "processes"), [(POOL, 2), (MODULE, 1), (JOB, 1)])
def test_nothing_outlives_a_killed_parent(tmp_path, script, processes):
    (tmp_path / "parent.py").write_text(script)
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "job.py").write_text(BODY)
    owner = subprocess.Popen(
        [sys.executable, "parent.py"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(SOURCE)])},
    )
    lines = [owner.stdout.readline().split() for _ in range(processes)]
    assert all(line[1:] == (["300"] if script == MODULE else []) for line in lines)
    children = {int(line[0]) for line in lines}
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    end = time.monotonic() + 600  # against a hang only
    while children:
        children = {pid for pid in children if _runs(pid)}
        assert time.monotonic() < end
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # a process that ended is there until someone asks how
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not os.path.isdir("/proc/self")


def test_ctrl_c_is_left_to_the_parent():
    """A terminal sends it to every process; that of an idle worker would end in a traceback."""
    with parallel_map(2) as mapped:
        assert list(mapped(interrupted, range(4))) == [0, 1, 2, 3]


def interrupted(number):
    os.kill(os.getpid(), signal.SIGINT)
    return number
