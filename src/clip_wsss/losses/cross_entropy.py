"""Plain cross entropy, whatever the confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.losses.pixels import Pixels


def cross_entropy(pixels: Pixels) -> Tensor:
    """The mean over all labelled pixels; mu must be 0, so that all count."""
    return pixels.mean(pixels.losses, pixels.counts)
