"""What every job does around its one call: sidecars, checks, one-line errors."""

import json
import logging

import pytest

from clip_wsss.core.errors import InputError
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
    assert "nothing was computed" in (tmp_path / "job.log").read_text()


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
