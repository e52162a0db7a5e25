"""Softmax GradCAM of CLIP-ES, and GradCAM of other targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from clip_wsss.core.names import Names
from clip_wsss.core.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class GradCamSettings(Settings):
    """GradCAM at the output of the last block's first LayerNorm."""

    target: Annotated[str, Names("target")] = Field(
        "softmax", description="what GradCAM differentiates"
    )


def gradcam(context: MapContext, settings: GradCamSettings) -> Tensor:
    """ReLU(sum_k w_k A_k) (docs/parity.md, fact 7): (K, gh, gw) float32 >= 0.

    The pass computes those of a whole batch, of all texts and targets, at once
    (`clip_wsss.cams.backward.class_maps`); this is one image by itself.
    """
    from clip_wsss.cams.backward import gradcams, target_of

    return gradcams([[context]], [target_of(settings)])[0][0]
