"""How long images took, from loops to the tables by way of a log."""

import logging
import time
from datetime import datetime

import pytest

from clip_wsss.core.progress import (
    devices_of,
    ended,
    in_loops,
    log_device,
    log_resumed,
    over_images,
    resumed,
)


def test_a_log_says_how_long_the_images_took(tmp_path, monkeypatch, caplog):
    log = tmp_path / "job.log"
    handler = logging.FileHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("clip_wsss.core.progress")
    monkeypatch.setattr(logger, "handlers", [handler])
    caplog.set_level(logging.INFO, logger.name)  # which forgets what it was not enabled for
    clock = iter([10.0, 14.0, 20.0, 21.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert list(over_images(iter("abc"), 3, "masks 1of2")) == list("abc")
    assert list(over_images(range(2), 2, "predicting")) == [0, 1]
    assert in_loops([log]) == (5, pytest.approx(4 + 1))
    assert in_loops([log, log]) == (10, pytest.approx(10))


def test_logs_that_do_not_say_it(tmp_path):
    (tmp_path / "old.log").write_text("images in 3 s\n")
    for logs in ([tmp_path / "old.log"], [tmp_path / "none.log"], []):
        assert in_loops(logs) is None
    assert ended(tmp_path / "old.log") is None is ended(tmp_path / "none.log")


def test_what_went_on_from_an_earlier_job_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO, "clip_wsss.core.progress")
    log_resumed("training", "iter_10")
    assert caplog.messages == ["training: goes on from iter_10"]
    for line, wanted in (
        (caplog.messages[0], True),
        ("inputs, settings and code are unchanged: nothing was computed", True),
        ("training: 10 images in 1.000 s", False),
    ):
        (tmp_path / "a.log").write_text(f"2026-01-01 00:00:00,000 INFO {line}\n2026 INFO made x\n")
        assert resumed(tmp_path / "a.log") is wanted
    assert not resumed(tmp_path / "none.log")


def test_what_jobs_ran_on(tmp_path, caplog):
    caplog.set_level(logging.INFO, "clip_wsss.core.progress")
    logs = [tmp_path / name for name in "abcd"]
    for log, device in zip(logs, ("A 1 (x)", "B", "A 1 (x)"), strict=False):
        log_device(device)
        log.write_text(f"2026-01-01 00:00:00,000 INFO {caplog.messages[-1]}\n2026 INFO made x\n")
    assert devices_of(logs) == ["A 1 (x)", "B"]
    assert devices_of(logs[3:]) == []


def test_the_end_of_a_log(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("2026-01-01 00:00:00,000 INFO a\n2026-01-01 00:01:00,500 INFO b\n  more\n")
    assert ended(log) == datetime(2026, 1, 1, 0, 1, 0, 500_000).timestamp()
