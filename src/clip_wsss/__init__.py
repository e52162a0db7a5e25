"""CLIP-based weakly supervised semantic segmentation: one package a stage."""

from clip_wsss.core.methods import Names, Settings

__version__ = "0.1.0"
__all__ = ["Names", "Settings"]
