"""CLIP-based weakly supervised semantic segmentation: one package a stage."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clip_wsss.core.names import Names
from clip_wsss.core.settings import Settings

if TYPE_CHECKING:
    from clip_wsss.api import PseudoMask, Segmenter, segment, segment_all

__version__ = "0.1.0"
__all__ = ["Names", "PseudoMask", "Segmenter", "Settings", "segment", "segment_all"]


def __getattr__(name: str) -> Any:
    """What `clip_wsss.api` offers, imported when it is first asked for."""
    if name in __all__:
        # By its name: its code counts for no job (`clip_wsss.runs.fingerprint`).
        return getattr(import_module("clip_wsss.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
