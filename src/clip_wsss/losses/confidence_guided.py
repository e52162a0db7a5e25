"""CLIP-ES's confidence-guided loss (CGL)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.losses.pixels import Pixels


def confidence_guided(pixels: Pixels) -> Tensor:
    """The mean over the pixels whose confidence is at least mu (paper, equation 8)."""
    return pixels.mean(pixels.losses, pixels.counts)
