"""What a mask refinement gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MaskContext:
    """An image with its scores at full resolution.

    A mask refinement is `fn(context)` or `fn(context, settings)` and returns (1 + K, H, W) float32,
    whose argmax is the label and whose maximum is the confidence.

    Attributes:
        scores: (1 + K, H, W) float16 in [0, 1], background first, not normalised; of a prediction
            the probabilities of all classes.
        image: (H, W, 3) uint8.
        keys: the K classes of the scores, 0-based.
        id: of the image.
        maps: (K, gh, gw) float32 in [0, 1], on the grid; None for a prediction.
        device: torch's, for refinements that use it.
    """

    scores: np.ndarray
    image: np.ndarray
    keys: Sequence[int] = ()
    id: str = ""
    maps: np.ndarray | None = None
    device: str = "cpu"

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[:2]
