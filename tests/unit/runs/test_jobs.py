"""What every job does around its one call: sidecars, checks, one-line errors."""

import errno
import json
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clip_wsss.core.archives import encode_image, write_archive
from clip_wsss.core.devices import device_name
from clip_wsss.core.errors import InputError
from clip_wsss.core.processes import parallel_map
from clip_wsss.core.progress import read_log
from clip_wsss.runs.jobs import Made, job

STAMP = {"stage": "masks", "key": "abc", "code": "1", "numerics": {}}


@pytest.fixture(autouse=True)
def _logging():
    yield
    logging.captureWarnings(False)
    logging.basicConfig(force=True)


@pytest.fixture
def made(tmp_path):
    (tmp_path / "maps.npz").write_bytes(b"maps")
    outputs, inputs = {"masks": tmp_path / "masks.zip"}, {"maps": [tmp_path / "maps.npz"]}
    return Made(tmp_path / "masks.json", STAMP, outputs, inputs)


def work(tmp_path, made, content=b"masks", reads=()):
    """Run a job that writes its output where it is needed; whether it was."""
    with job(tmp_path / "job.log", reads=reads, makes=[made]) as found:
        if found.needed:
            (tmp_path / "masks.zip").write_bytes(content)
    return found.needed


def test_outputs_are_made_once_and_kept_while_nothing_changes(tmp_path, made):
    assert work(tmp_path, made)
    assert json.loads((tmp_path / "masks.json").read_text())["stamp"] == STAMP
    assert not work(tmp_path, made, b"other")
    assert (tmp_path / "masks.zip").read_bytes() == b"masks"
    assert "nothing was computed" in (log := (tmp_path / "job.log").read_text())
    assert "ran on" not in log, "nothing ran"


@pytest.mark.parametrize("change", ["input", "output", "stamp", "sidecar"])
def test_a_change_of_anything_makes_them_again(tmp_path, made, change):
    work(tmp_path, made)
    if change == "input":
        (tmp_path / "maps.npz").write_bytes(b"others")
    elif change == "output":
        (tmp_path / "masks.zip").write_bytes(b"edited")
    elif change == "sidecar":
        (tmp_path / "masks.json").unlink()
    else:
        stamp = {**STAMP, "code": "2"}
        made = Made(made.sidecar, stamp, made.outputs, made.inputs)
    assert work(tmp_path, made)
    assert (tmp_path / "masks.zip").read_bytes() == b"masks"


@pytest.mark.parametrize("device", [None, "cpu", "auto"])
def test_the_log_says_what_a_job_ran_on(tmp_path, made, monkeypatch, device):
    # FAULTS 15: the table of costs may be made elsewhere, and masks and scores use no GPU.
    torch = SimpleNamespace(cuda=SimpleNamespace(
        is_available=lambda: True, get_device_name=lambda one: f"a GPU ({one})"))  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", torch)
    with job(tmp_path / "job.log", makes=[replace(made, device=device)]):
        made.outputs["masks"].write_text("masks")
    wanted = "a GPU (None)" if device == "auto" else device_name("cpu")
    said = read_log(tmp_path / "job.log")
    assert (said.devices, said.made) == ((wanted,), (Path(made.sidecar),))
    recorded = json.loads(Path(made.sidecar).read_text())["device"]
    assert recorded == (None if device is None else wanted)


def test_a_failed_job_leaves_no_sidecar(tmp_path, made):
    with pytest.raises(SystemExit), job(tmp_path / "job.log", makes=[made]):
        raise InputError("x.jpg: is bad; replace it")
    assert not (tmp_path / "masks.json").exists()
    assert "x.jpg: is bad" in (tmp_path / "job.log").read_text()


def test_inputs_are_checked_before_the_work(tmp_path, made, capsys):
    work(tmp_path, made)
    other = Made(tmp_path / "other.json", STAMP, {}, {})
    with job(tmp_path / "job.log", reads=[(made.sidecar, STAMP)], makes=[other]):
        pass
    (tmp_path / "masks.zip").write_bytes(b"edited")
    started = []
    with pytest.raises(SystemExit), job(tmp_path / "job.log", reads=[(made.sidecar, STAMP)]):
        started.append(1)
    assert not started
    line = capsys.readouterr().err
    assert line.startswith(f"error: {tmp_path / 'masks.zip'}: changed")
    assert line.endswith(f" (log: {tmp_path / 'job.log'})\n")
    stale = {**STAMP, "key": "other"}
    with pytest.raises(SystemExit), job(tmp_path / "job.log", reads=[(made.sidecar, stale)]):
        started.append(1)
    assert not started


def test_of_several_outputs_those_are_made_that_are_missing(tmp_path, made):
    second = Made(tmp_path / "b.json", STAMP, {"b": tmp_path / "b.zip"}, {})
    (tmp_path / "b.zip").write_bytes(b"b")
    with job(tmp_path / "job.log", makes=[made, second]) as found:
        assert found.needed
        (tmp_path / "masks.zip").write_bytes(b"masks")
    (tmp_path / "b.json").unlink()
    before = (tmp_path / "masks.json").stat().st_mtime_ns
    with job(tmp_path / "job.log", makes=[made, second]) as found:
        assert found.missing == {second.sidecar}
    assert (tmp_path / "b.json").exists()
    assert (tmp_path / "masks.json").stat().st_mtime_ns == before


# ---- the machine (FAULTS 29) ---------------------------------------------------------------------


def killed(number):
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_pool():
    with parallel_map(2) as mapped:
        list(mapped(killed, range(2)))


class Killed(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, number):
        os.kill(os.getpid(), signal.SIGKILL)


def in_a_loader():
    list(torch.utils.data.DataLoader(Killed(), num_workers=1, multiprocessing_context="fork"))


def raised(error):
    def body():
        raise error

    return body


MEMORY = "lower compute.workers or compute.batch"
MACHINES = [
    (raised(OSError(errno.ENOSPC, "x")), "{folder}: No space left on device; make room, and run"),
    (raised(OSError(errno.EDQUOT, "x")), "{folder}: Disk quota exceeded; make room"),
    (raised(OSError("[Errno 28] No space left on device")), "{folder}: No space left on device"),
    (raised(OSError(errno.EROFS, "x", "/ro/a")), "/ro/a: Read-only file system; make it writable"),
    (raised(PermissionError(errno.EACCES, "x", "/a")), "/a: Permission denied; make it writable"),
    (raised(OSError(errno.ENAMETOOLONG, "x", "/b")), "/b: File name too long; shorten the name"),
    (raised(OSError(errno.EMFILE, "x", "/c")), "/c: Too many open files; allow more"),
    (raised(MemoryError("8 TiB")), "{folder}: memory ran out (8 TiB); close other programs"),
    (raised(torch.OutOfMemoryError("CUDA out of memory")), "{folder}: memory ran out (CUDA out"),
    (lambda: torch.empty(2**60), "{folder}: memory ran out"),
    (lambda: np.empty(2**58), "{folder}: memory ran out"),
    (in_a_pool, f"a worker process was killed, mostly for memory; close other programs, {MEMORY}"),
    (in_a_loader, "{folder}: a worker process was killed, mostly for memory; close other"),
]


@pytest.mark.parametrize(("body", "line"), MACHINES)
def test_a_machine_that_is_too_small_is_one_line(tmp_path, made, capsys, body, line):
    with pytest.raises(SystemExit), job(tmp_path / "job.log", makes=[made]):
        body()
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: " + line.format(folder=tmp_path))
    assert not (tmp_path / "masks.json").exists()


def test_another_fault_keeps_its_traceback(tmp_path, made):
    with pytest.raises(FileNotFoundError), job(tmp_path / "job.log", makes=[made]):
        (tmp_path / "none").read_bytes()
    assert "Traceback" in (tmp_path / "job.log").read_text()


def test_ctrl_c_ends_a_job_without_a_word(tmp_path, made, capsys):
    with pytest.raises(SystemExit) as ended, job(tmp_path / "job.log", makes=[made]):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "masks.json").exists()


def test_a_full_disk_leaves_nothing_half_written(tmp_path, made, capsys):
    """/dev/full is one: every write to it fails."""
    label = np.zeros((400, 500), np.uint8)
    (tmp_path / ".masks.zip.part").symlink_to("/dev/full")
    with pytest.raises(SystemExit), job(tmp_path / "job.log", makes=[made]):
        write_archive(tmp_path / "masks.zip", "masks", [encode_image("a", label, label)])
    assert "make room" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.log", "maps.npz"]
