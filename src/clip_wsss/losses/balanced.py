"""A loss in which background and foreground weigh the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.losses.pixels import Pixels


def balanced(pixels: Pixels) -> Tensor:
    """Half the mean over the foreground pixels that count, half that over the background's.

    Some trainings from ImageNet weights became NaN with the plain mean.
    """
    foreground = pixels.label > 0
    parts = (pixels.counts & foreground, pixels.counts & ~foreground)
    total: Any = sum(pixels.mean(pixels.losses, part) for part in parts)
    return total / 2
