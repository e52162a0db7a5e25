"""How much memory there is, so that what does not fit is said before it is taken."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from clip_wsss.core.errors import InputError

if TYPE_CHECKING:
    import torch


class TooLargeError(InputError):
    """What an image takes does not fit into memory; others may."""


SMALL = 1 << 28  # bytes that are not asked for
CGROUPS = Path("/sys/fs/cgroup")


def available(device: torch.device | None = None) -> int | None:
    """Bytes that may still be taken: of a GPU, or of the machine and this job's limits.

    None where the system does not say.
    """
    if device is not None and device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    free = _fields(Path("/proc/meminfo")).get("MemAvailable")
    if free is not None:
        yield free * 1024
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield max(0, limit - _fields(Path("/proc/self/status")).get("VmSize", 0) * 1024)
    groups = [line.partition("::")[2] for line in _lines(Path("/proc/self/cgroup"))]
    for group in filter(None, groups):  # version 2; a group has its own limit and its parents'
        place = CGROUPS / group.strip("/")
        for folder in (place, *place.parents):
            limits = _lines(folder / "memory.max")
            if limits and limits[0].isdigit():
                # The cache of files is given back before anything is killed.
                cache = _fields(folder / "memory.stat").get("inactive_file", 0)
                used = int(_lines(folder / "memory.current")[0])
                yield max(0, int(limits[0]) - used + cache)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _fields(path: Path) -> dict[str, int]:
    """Numbers of a file of names and numbers."""
    pairs = (line.replace(":", " ").split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}


def check_memory(needed: int, what: str, remedy: str, device: torch.device | None = None) -> None:
    """Refuse what would not fit.

    Args:
        needed: bytes, estimated.
        what: that takes them; it names the image.
        remedy: what to do about it.
        device: of a GPU; None: the machine.

    Raises:
        TooLargeError: fewer are available.
    """
    if needed < SMALL:
        return
    free = available(device)
    if free is not None and needed > free:
        raise TooLargeError(
            f"{what} takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            f"free; {remedy}"
        )


_WORDS = "out of memory", "can't allocate memory", "bad_alloc"


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory could not be had; torch has no type for it on a CPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    )


@contextmanager
def fitting(what: str, remedy: str) -> Iterator[None]:
    """Run a block whose want of memory is said in one line: what did not fit, and the remedy.

    Raises:
        TooLargeError: memory could not be had.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise TooLargeError(f"{what} does not fit into memory; {remedy}") from None
