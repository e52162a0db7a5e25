"""How long images took, from loops to the tables by way of a log."""

import logging
import time

import pytest

from clip_wsss.core.progress import over_images, seconds_an_image


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
    assert seconds_an_image([log]) == pytest.approx((4 + 1) / 5)
    assert seconds_an_image([log, log]) == pytest.approx(1)


def test_logs_that_do_not_say_it(tmp_path):
    (tmp_path / "old.log").write_text("images in 3 s\n")
    assert seconds_an_image([tmp_path / "old.log"]) is None
    assert seconds_an_image([tmp_path / "none.log"]) is None
    assert seconds_an_image([]) is None
