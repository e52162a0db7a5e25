import subprocess
import sys
from types import SimpleNamespace

import pytest

from clip_wsss.core import devices

HOLD = (
    "from clip_wsss.core.devices import free_gpus; print(*free_gpus({}, {}), flush=True); input()"
)
NAMES = ["6f1c", "MIG-02", "aa/b"]


@pytest.fixture
def jobs(monkeypatch, tmp_path):
    """Start processes that each take GPUs, and end them after the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    started = []

    def start(names: list[str], number: int = 1) -> tuple[subprocess.Popen, list[str]]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(names, number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, [names[int(index)] for index in process.stdout.readline().split()]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_jobs_take_different_gpus_and_give_them_back(jobs):
    first, taken = jobs(NAMES)
    assert taken == ["6f1c"]
    assert jobs(NAMES, 2)[1] == ["MIG-02", "aa/b"]
    assert jobs(NAMES, 2)[1] == ["6f1c", "MIG-02"]  # all are held: shared
    first.kill()
    first.wait()
    assert jobs(NAMES)[1] == ["6f1c"]


def test_two_allocations_of_one_machine_have_names_in_common_and_no_numbers(jobs):
    """Each sees its own GPUs from 0."""
    assert jobs(["a", "b"])[1] == ["a"]
    assert jobs(["c"])[1] == ["c"]
    assert jobs(["b", "a"])[1] == ["b"]
    assert jobs(["a", "d"])[1] == ["d"]


def test_a_job_keeps_its_gpu_and_takes_more_beside_it(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "_held", {})
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    assert devices.free_gpus(NAMES, 1) == devices.free_gpus(NAMES, 1) == [0]
    assert devices.free_gpus(NAMES, 2) == [0, 1]
    assert devices.free_gpus(NAMES, 1) == [0]
    monkeypatch.setattr(devices, "gpu_names", lambda: NAMES)
    assert devices.take_free_gpus(2) == "GPU-6f1c,MIG-02"


def test_parts_of_a_gpu_have_names_of_their_own():
    """PyTorch may state the UUID of the GPU for each of its parts; the variable names the part."""
    assert devices._names(["MIG-1", " MIG-2"], ["u", "u"]) == ["MIG-1", "MIG-2"]
    assert devices._names(["0", "1"], ["u", "v"]) == ["u", "v"]
    assert devices._names([""], ["u"]) == ["u"]


@pytest.mark.parametrize(
    ("device", "there", "name"),
    [
        ("auto", True, "current"),
        ("cuda", True, "current"),
        ("cuda:1", True, "cuda:1"),
        ("cpu", True, None),
        ("auto", False, None),  # hidden from the process, or torch has no CUDA
        ("cuda", False, "cuda"),
    ],
)
def test_the_name_of_what_a_process_runs_on(monkeypatch, device, there, name):
    cuda = SimpleNamespace(is_available=lambda: there, get_device_name=lambda one: one or "current")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    processor = devices.device_name("cpu")
    assert processor not in ("current", "cpu", "")
    assert devices.device_name(device) == (name or processor)
    monkeypatch.delitem(sys.modules, "torch")
    assert devices.device_name("auto") == processor, "without torch nothing ran on a GPU"
