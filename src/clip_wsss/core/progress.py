"""Progress over images, which leaves in the job's log how long they took.

That is without the start of the process and its imports, which Snakemake's benchmarks count too.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

log_ = logging.getLogger(__name__)
_LINE = re.compile(r": (\d+) images in (\d+\.\d+) s$", re.MULTILINE)
_DEVICE = re.compile(r" ran on (.+)$", re.MULTILINE)
_RESUMED = re.compile(r" (goes on from .+|nothing was computed)$", re.MULTILINE)
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) ", re.MULTILINE)
T = TypeVar("T")


def over_images(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items with a bar on the terminal and, after the last, a line in the log."""
    begun, number = time.perf_counter(), 0
    for item in tqdm(items, total=total, desc=what, unit="image", disable=None):
        yield item
        number += 1
    log_images(what, number, begun)


def log_images(what: str, number: int, begun: float) -> None:
    """Leave in the log how long a number of images took, since a `time.perf_counter()`."""
    log_.info("%s: %d images in %.3f s", what, number, time.perf_counter() - begun)


def log_resumed(what: str, done: str) -> None:
    """Leave in the log that a job goes on from what an earlier one, which was stopped, has done."""
    log_.info("%s: goes on from %s", what, done)


def log_device(device: str) -> None:
    """Leave in the log which processor or GPU a job ran on."""
    log_.info("ran on %s", device)


def devices_of(logs: Iterable[Path]) -> list[str]:
    """What some jobs ran on, each once; a log may say nothing."""
    return [*dict.fromkeys(device for log in logs for device in _DEVICE.findall(_text(log)))]


def resumed(log: Path) -> bool:
    """Whether a log says that its job did not do all of its work."""
    return _RESUMED.search(_text(log)) is not None


def in_loops(logs: Iterable[Path]) -> tuple[int, float] | None:
    """Images and seconds of the loops of some jobs; None where a log has no line of a loop."""
    images, seconds = 0, 0.0
    for log in logs:
        found = _LINE.findall(_text(log))
        if not found:
            return None
        images += sum(int(number) for number, _ in found)
        seconds += sum(float(taken) for _, taken in found)
    return (images, seconds) if images else None


def ended(log: Path) -> float | None:
    """When the last line of a log was written, in seconds since 1970; None where none says it."""
    times = _TIME.findall(_text(log))
    return datetime.fromisoformat(times[-1].replace(",", ".")).timestamp() if times else None


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
