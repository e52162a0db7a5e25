"""CLIP-ES's target: a class against the other classes of the image and the background words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def softmax(logits: Tensor, position: int, classes: int) -> Tensor:
    """The probability of the class among present classes and background words.

    Args:
        logits: (B, K + M) float32, of the K classes present in an image, then of the M background
            words.
        position: of the class, in 0..K-1.
        classes: K.

    Returns:
        (B,).
    """
    return logits.softmax(dim=-1)[:, position]
