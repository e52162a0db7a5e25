"""Patches of a rebuilt last block compared with texts, without a backward pass.

What MaskCLIP, ClearCLIP, SCLIP and NACLIP share. They differ in how the last block's heads attend,
and in whether its residual and its MLP stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pydantic import Field

from clip_wsss.core.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext
    from clip_wsss.models.tower import Clip


class RebuiltSettings(Settings):
    """A rebuilt last block."""

    residual: bool = Field(
        False, description="whether what enters the last block is added to its attention"
    )
    ffn: bool = Field(False, description="whether the last block's MLP follows")
    logit_scale: float | None = Field(
        None, gt=0, description="what cosines are multiplied by; null: the model's own"
    )


def patch_text_maps(
    context: MapContext,
    mix: Callable[[Tensor, Tensor, Tensor], Tensor],
    settings: RebuiltSettings,
) -> Tensor:
    """Softmax over present classes and background words of each patch's cosine with the texts.

    Args:
        context: the image, with texts.
        mix: as of `clip_wsss.models.tower.Tower.rebuilt_patches`.
        settings: which parts of the last block stay.

    Returns:
        (K, gh, gw) float32 in [0, 1].
    """
    import torch

    assert context.texts is not None  # a CLIP has them
    assert context.background is not None
    clip, x = cast("Clip", context.tower), context.looked.streams[-1]
    kept = (settings.residual, settings.ffn)
    patches = clip.rebuilt_patches(x, mix, *kept, context.grid)[0]  # (N, E)
    texts = torch.cat([context.texts, context.background])  # (K + M, E)
    logits = (settings.logit_scale or clip.logit_scale) * patches @ texts.T
    return logits.softmax(dim=1)[:, : len(context.keys)].T.unflatten(1, context.grid)
