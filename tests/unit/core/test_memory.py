import pytest

from clip_wsss.core import memory
from clip_wsss.core.errors import InputError
from clip_wsss.core.memory import available, check_memory, fitting


def test_what_is_available_is_the_least_limit(tmp_path, monkeypatch):
    # FAULTS 17
    files = {
        "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
        "/proc/self/status": "VmSize: 1000 kB\n",
        "/proc/self/cgroup": "0::/job/step\n",
        "/sys/fs/cgroup/job/memory.max": "4000000\n",
        "/sys/fs/cgroup/job/memory.current": "1500000\n",
        "/sys/fs/cgroup/job/memory.stat": "anon 7\ninactive_file 500000\n",
        "/sys/fs/cgroup/job/step/memory.max": "max\n",
    }
    monkeypatch.setattr(memory, "_lines", lambda path: files.get(str(path), "").splitlines())
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (-1, -1))
    assert available() == 3_000_000  # the job's limit, less what is used but for the cache
    files["/proc/meminfo"] = "MemAvailable: 2000 kB\n"
    assert available() == 2_048_000
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (2_000_000, -1))
    assert available() == 2_000_000 - 1_024_000
    files.clear()
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (-1, -1))
    assert available() is None


def test_what_would_not_fit_is_said(monkeypatch):
    # FAULTS 17
    monkeypatch.setattr(memory, "available", lambda device: 10**9)
    check_memory(10**9, "a.jpg: its maps", "scale it down")
    line = r"a\.jpg: its maps takes about 2\.5 GB of memory, and 1\.0 GB are free; scale it down$"
    with pytest.raises(InputError, match=line):
        check_memory(25 * 10**8, "a.jpg: its maps", "scale it down")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate "
                     "memory: you tried to allocate 1 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate"),
    ],
)  # fmt: skip
def test_want_of_memory_is_one_line(error):
    # FAULTS 17
    with (
        pytest.raises(InputError, match=r"^a\.jpg: its mask does not fit into memory; scale it$"),
        fitting("a.jpg: its mask", "scale it"),
    ):
        raise error
    with pytest.raises(RuntimeError, match="shape"), fitting("a", "b"):
        raise RuntimeError("shape mismatch")
