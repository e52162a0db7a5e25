"""CLIP-based weakly supervised semantic segmentation: one module a stage."""

__version__ = "0.1.0"
