import subprocess
import sys

import pytest

from clip_wsss.core import devices

HOLD = "from clip_wsss.core.devices import free_gpu; print(free_gpu(2), flush=True); input()"


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """Start processes that each take a GPU of two, and end them after the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    started = []

    def start() -> tuple[subprocess.Popen, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_jobs_take_different_gpus_and_give_them_back(jobs):
    first, taken = jobs()
    assert taken == 0
    assert jobs()[1] == 1
    first.kill()
    first.wait()
    assert jobs()[1] == 0


def test_a_job_keeps_its_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_held", {})
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    assert devices.free_gpu(2) == devices.free_gpu(2) == 0
