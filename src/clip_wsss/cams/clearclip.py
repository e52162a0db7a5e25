"""ClearCLIP (Lan et al., ECCV 2024): query-query attention, no residual and no MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_wsss.cams.patch_text import RebuiltSettings, patch_text_maps

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class ClearClipSettings(RebuiltSettings):
    """ClearCLIP; the defaults are the paper's."""


def clearclip(context: MapContext, settings: ClearClipSettings) -> Tensor:
    """Softmax of q q^T / sqrt(d) in the last block: (K, gh, gw) float32 in [0, 1]."""
    from torch.nn.functional import scaled_dot_product_attention

    return patch_text_maps(context, lambda q, k, v: scaled_dot_product_attention(q, q, v), settings)
