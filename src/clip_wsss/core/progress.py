"""What a job leaves in its log for the cost table, and how it is read there.

The time that images took is without the start of the process and its imports, which Snakemake's
benchmarks count too.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

log_ = logging.getLogger(__name__)
_LINE = re.compile(r": (\d+) images in (\d+\.\d+) s$", re.MULTILINE)
_DEVICE = re.compile(r" ran on (.+)$", re.MULTILINE)
_MADE = re.compile(r" INFO made (.+)$", re.MULTILINE)
_RESUMED = re.compile(r" goes on from .+$", re.MULTILINE)
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


def log_made(sidecar: str | Path) -> None:
    """Leave in the log that a job has made what a sidecar speaks of."""
    log_.info("made %s", sidecar)


def log_device(device: str) -> None:
    """Leave in the log which processor or GPU a job ran on."""
    log_.info("ran on %s", device)


@dataclass(frozen=True)
class JobLog:
    """What the log of a job says.

    Attributes:
        made: the sidecars of what it made.
        devices: what it ran on, each once.
        resumed: whether an earlier job, which was stopped, had done a part of its work.
        loops: images and seconds of its loops over images; None: no line of a loop.
        ended: when its last line was written, in seconds since 1970; None: no line says it.
    """

    made: tuple[Path, ...]
    devices: tuple[str, ...]
    resumed: bool
    loops: tuple[int, float] | None
    ended: float | None


def read_log(log: Path) -> JobLog:
    """Read the log of a job."""
    text = log.read_text(encoding="utf-8", errors="replace")
    loops, times = _LINE.findall(text), _TIME.findall(text)
    end = datetime.fromisoformat(times[-1].replace(",", ".")).timestamp() if times else None
    images = sum(int(number) for number, _ in loops)
    return JobLog(
        made=tuple(map(Path, _MADE.findall(text))),
        devices=tuple(dict.fromkeys(_DEVICE.findall(text))),
        resumed=_RESUMED.search(text) is not None,
        loops=(images, sum(float(taken) for _, taken in loops)) if images else None,
        ended=end,
    )
