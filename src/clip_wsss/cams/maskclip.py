"""MaskCLIP (Zhou et al., ECCV 2022): the last block's values, each patch by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_wsss.cams.patch_text import RebuiltSettings, patch_text_maps

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class MaskClipSettings(RebuiltSettings):
    """MaskCLIP; the defaults are the paper's, its code keeps the residual and the MLP."""


def maskclip(context: MapContext, settings: MaskClipSettings) -> Tensor:
    """A patch attends to itself alone: (K, gh, gw) float32 in [0, 1]."""
    return patch_text_maps(context, lambda q, k, v: v, settings)
