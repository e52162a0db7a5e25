"""Which GPU a job takes where several jobs run side by side."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clip_wsss.core.errors import InputError

if TYPE_CHECKING:
    import torch

_held: dict[int, object] = {}  # locks of this process, which end with it


def torch_device(device: str | torch.device) -> torch.device:
    """The device of a job: `auto` is CUDA where there is one, and a card that no other job holds.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda is asked for, but this machine has none; set cpu or auto")
    if device.type == "cuda" and device.index is None:
        take_free_gpu()
    return device


def take_free_gpu() -> None:
    """Make a GPU that no other job holds the current one, unless a launcher has chosen it."""
    import torch

    if "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(free_gpu(torch.cuda.device_count()))


def free_gpu(count: int) -> int:
    """Return the index of a GPU that no other job of this suite holds, and hold it.

    The choice is a file lock for each GPU in the folder for temporary files, which the system
    lifts when the process ends, however it ends. Where all are held (more jobs than GPUs), the
    first one is shared.

    Args:
        count: GPUs that this process can see, at least 1.
    """
    if _held:
        return next(iter(_held))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    for index in range(count):
        name = visible[index] if len(visible) == count and visible[index] else str(index)
        path = Path(tempfile.gettempdir()) / f"clip-wsss-{os.getuid()}-gpu-{name}.lock"
        lock = open(path, "w", encoding="utf-8")  # noqa: SIM115 -- held until the process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held[index] = lock
        return index
    return 0
