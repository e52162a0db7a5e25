"""SCLIP (Wang et al., ECCV 2024): correlative self-attention, the rest of the block as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from clip_wsss.cams.patch_text import RebuiltSettings, patch_text_maps

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class SclipSettings(RebuiltSettings):
    """SCLIP; the defaults are those of its public code."""

    residual: bool = Field(
        True, description="whether what enters the last block is added to its attention"
    )
    ffn: bool = Field(True, description="whether the last block's MLP follows")


def sclip(context: MapContext, settings: SclipSettings) -> Tensor:
    """softmax(q q^T / sqrt(d)) + softmax(k k^T / sqrt(d)), a sum: (K, gh, gw) float32 in [0, 1]."""
    from torch.nn.functional import scaled_dot_product_attention as attend

    return patch_text_maps(context, lambda q, k, v: attend(q, q, v) + attend(k, k, v), settings)
