"""Segmentation training and prediction with MMSegmentation, through its registries.

Importing this package registers all that the segmentors of config/segmentors/ name.
"""

from clip_wsss.segmentation.compat import provide_operators

provide_operators()  # before anything imports mmseg.models

from clip_wsss.segmentation import (  # noqa: E402
    backbones,
    data,
    heads,
    hooks,
    losses,
    schedule,
)

__all__ = ["backbones", "data", "heads", "hooks", "losses", "schedule"]
