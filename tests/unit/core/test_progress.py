"""What jobs leave in their logs for the cost table, and how it is read."""

import logging
import time
from datetime import datetime
from pathlib import Path

import pytest

from clip_wsss.core.progress import (
    JobLog,
    log_device,
    log_made,
    log_resumed,
    over_images,
    read_log,
)


@pytest.fixture
def log(tmp_path, monkeypatch, caplog):
    """A file that what is logged goes to, as in a job."""
    handler = logging.FileHandler(tmp_path / "job.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("clip_wsss.core.progress")
    monkeypatch.setattr(logger, "handlers", [handler])
    caplog.set_level(logging.INFO, logger.name)  # which forgets what it was not enabled for
    yield tmp_path / "job.log"
    handler.close()


def test_a_log_says_how_long_the_images_took(log, monkeypatch):
    clock = iter([10.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert list(over_images(iter("abc"), 3, "masks 1of2")) == list("abc")
    assert list(over_images(range(2), 2, "predicting")) == [0, 1]
    assert read_log(log).loops == (5, pytest.approx(4 + 1))


def test_a_log_says_what_was_made_and_on_what(log):
    log_resumed("training", "iter_10")
    for made in ("a/b c/val.json", Path("a/val.json")):
        log_made(made)
    for device in ("A 1 (x)", "B", "A 1 (x)"):
        log_device(device)
    said = read_log(log)
    assert said.made == (Path("a/b c/val.json"), Path("a/val.json"))
    assert (said.devices, said.resumed, said.loops) == (("A 1 (x)", "B"), True, None)


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "a.log"
    times = ("00:00:00,000", "00:00:30,000", "00:01:00,500")
    log.write_text("".join(f"2026-01-01 {time} INFO a\n" for time in times) + "  more\n")
    assert read_log(log).ended == datetime(2026, 1, 1, 0, 1, 0, 500_000).timestamp()


@pytest.mark.parametrize("text", [
    "", "images in 3 s\n",
    "inputs, settings and code are unchanged: nothing was computed\n", "\xff made\n",
])  # fmt: skip
def test_logs_that_say_nothing(tmp_path, text):
    (tmp_path / "a.log").write_bytes(text.encode("latin-1"))
    assert read_log(tmp_path / "a.log") == JobLog((), (), False, None, None)
