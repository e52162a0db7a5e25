"""Segmentation training and prediction with MMSegmentation, through its registries.

Importing this package registers all that the segmentors of config/segmentors/ name, but for those
that make their labels online (`clip_wsss.segmentation.segmentor.online_module`).
"""

from clip_wsss.segmentation.compat import provide_operators

provide_operators()  # before anything imports mmseg.models

from mmengine.registry import init_default_scope, registry  # noqa: E402

from clip_wsss.segmentation import (  # noqa: E402
    backbones,
    data,
    heads,
    hooks,
    losses,
    schedule,
    transforms,
    warmup_poly,
)

init_default_scope("mmseg")  # where MMEngine looks names up
# What is in no registry is unknown; MMEngine would import a module of that name.
registry.get_object_from_string = lambda name: None

__all__ = [
    "backbones", "data", "heads", "hooks", "losses", "schedule", "transforms", "warmup_poly",
]  # fmt: skip
