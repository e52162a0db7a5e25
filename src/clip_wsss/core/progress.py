"""Progress over images, which leaves in the job's log how long they took.

That is without the start of the process and its imports, which Snakemake's benchmarks count too.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

log_ = logging.getLogger(__name__)
_LINE = re.compile(r": (\d+) images in (\d+\.\d+) s$", re.MULTILINE)
T = TypeVar("T")


def over_images(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield the items with a bar on the terminal and, after the last, a line in the log."""
    begun, number = time.perf_counter(), 0
    for item in tqdm(items, total=total, desc=what, unit="image", disable=None):
        yield item
        number += 1
    log_.info("%s: %d images in %.3f s", what, number, time.perf_counter() - begun)


def seconds_an_image(logs: Iterable[Path]) -> float | None:
    """The mean of some jobs by their logs; None where a log is missing or has no such line."""
    images, seconds = 0, 0.0
    for log in logs:
        found = _LINE.findall(log.read_text(encoding="utf-8")) if log.is_file() else []
        if not found:
            return None
        images += sum(int(number) for number, _ in found)
        seconds += sum(float(taken) for _, taken in found)
    return seconds / images if images else None
