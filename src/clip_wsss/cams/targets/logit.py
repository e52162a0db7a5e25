"""Plain GradCAM's target."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def logit(logits: Tensor, position: int, classes: int) -> Tensor:
    """The class's logit itself.

    Args:
        logits: (B, K + M) float32, of the K classes present in an image, then of the M background
            words.
        position: of the class, in 0..K-1.
        classes: K.

    Returns:
        (B,).
    """
    return logits[:, position]
