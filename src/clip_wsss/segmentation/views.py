"""Logits averaged over views of an image whose long side is fixed (WeCLIP's test)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_long_side(image: Tensor, long_side: int) -> Tensor:
    """An image (1, 3, H, W), bilinear, its long side `long_side`, the other cut to an integer."""
    ratio = long_side / max(image.shape[2:])
    size = [max(1, int(side * ratio)) for side in image.shape[2:]]
    return F.interpolate(image, size, mode="bilinear", align_corners=False)


@torch.no_grad()
def mean_logits(
    forward: Callable[[Tensor], Tensor], image: Tensor, scales: Sequence[float], flip: bool
) -> Tensor:
    """The mean of the logits of several views, on the grid of the first scale.

    Args:
        forward: (1, 3, h, w) -> logits (1, C, gh, gw).
        image: (1, 3, H, W), normalised.
        scales: factors of the image, which set where pixels are taken exactly (not rounded sizes).
        flip: whether each scale is seen mirrored too.

    Returns:
        (1, C, gh, gw) float32.
    """
    total: Tensor | None = None
    for scale in scales:
        view = image
        if scale != 1:
            thin = min(image.shape[2:]) * scale < 1  # a side has a pixel at least
            sides = [max(1, int(side * scale)) for side in image.shape[2:]] if thin else None
            factor = None if thin else scale
            view = F.interpolate(image, sides, factor, mode="bilinear", align_corners=False)
        logits = forward(view).float()
        if flip:
            logits = (logits + forward(view.flip(3)).float().flip(3)) / 2
        if total is None:
            total = logits
        else:
            size = total.shape[2:]
            total = total + F.interpolate(logits, size, mode="bilinear", align_corners=False)
    assert total is not None  # there is a scale at least
    return total / len(scales)
