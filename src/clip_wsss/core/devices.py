"""Which GPU a job takes where several jobs run side by side, and what it is called."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
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
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(
            f"compute.device: must be auto, cpu, cuda or cuda:<number>; got {device!r}"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("compute.device: cuda is asked for, but there is no GPU; set cpu or auto")
    if device.type == "cuda" and device.index is None:
        take_free_gpu()
    return device


def device_name(device: str) -> str:
    """Return the model of the GPU that this process uses, or of its processor.

    Args:
        device: cpu, cuda, cuda:<number>, or auto: the GPU where torch, which the process then has
            loaded, sees one.
    """
    torch = sys.modules.get("torch")
    if device != "cpu" and torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name(device if ":" in device else None)
    if device not in ("cpu", "auto"):
        return device
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def take_free_gpu() -> None:
    """Make a GPU that no other job holds the current one, unless a launcher has chosen it."""
    import torch

    if "LOCAL_RANK" not in os.environ:
        torch.cuda.set_device(free_gpus(gpu_names(), 1)[0])


def take_free_gpus(number: int) -> str:
    """Hold several GPUs for the processes of a launcher: what CUDA_VISIBLE_DEVICES is for them."""
    names = gpu_names()
    chosen = [names[index] for index in free_gpus(names, number)]
    return ",".join(
        name if name.startswith("MIG-") else f"GPU-{name.removeprefix('GPU-')}" for name in chosen
    )


def gpu_names() -> list[str]:
    """A name of each GPU that this process sees, the same in whatever process and container.

    That is its UUID, of a part of a GPU (MIG) that of the part. Indices would not do: two
    allocations on one machine each count their own from 0.
    """
    import torch

    count = torch.cuda.device_count()
    return _names(
        os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","),
        [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)],
    )


def _names(visible: Sequence[str], uuids: Sequence[str]) -> list[str]:
    """Names of GPUs; PyTorch states the GPU's UUID for each of its parts, the variable the part."""
    parts = [name.strip() for name in visible if name.strip().startswith("MIG-")]
    return parts if len(parts) == len(uuids) else list(uuids)


def free_gpus(names: Sequence[str], number: int) -> list[int]:
    """Return the indices of GPUs that no other job of this suite holds, and hold them.

    The choice is a file lock for each GPU in the folder for temporary files, which the system
    lifts when the process ends, however it ends. Where too few are free (more jobs than GPUs), the
    first ones are shared.

    Args:
        names: of the GPUs that this process can see, at least `number`.
        number: how many are wanted; those that this process holds are among them.
    """
    for index, name in enumerate(names):
        if len(_held) < number and index not in _held and (lock := _locked(name)) is not None:
            _held[index] = lock
    others = [index for index in range(len(names)) if index not in _held]
    return sorted([*_held, *others][:number])


def _locked(name: str) -> object | None:
    """A lock on a GPU until the process ends; None if another one has it."""
    word = re.sub(r"[^A-Za-z0-9-]", "_", name)
    path = Path(tempfile.gettempdir()) / f"clip-wsss-{os.getuid()}-gpu-{word}.lock"
    lock = open(path, "w", encoding="utf-8")  # noqa: SIM115 -- held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
