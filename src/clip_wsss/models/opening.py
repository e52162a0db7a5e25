"""Towers by their entries of `models`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clip_wsss.models.clip import load_clip

if TYPE_CHECKING:
    import torch

    from clip_wsss.models.tower import Tower


def open_tower(model: dict[str, Any], device: str | torch.device = "cpu") -> Tower:
    """Load an entry of `models` whose attention or features a method asks for, in float32.

    Raises:
        InputError: as the loader of the entry's library.
    """
    if model.get("library") == "timm":
        # By its name: its code counts for those alone that name such a tower (`clip_wsss.runs`).
        return import_module("clip_wsss.models.timm_tower").load_timm(model, device)
    return load_clip(model, device=device)
