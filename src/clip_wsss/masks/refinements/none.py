"""No mask refinement."""

from __future__ import annotations

import numpy as np

from clip_wsss.masks.context import MaskContext


def none(context: MaskContext) -> np.ndarray:
    """The scores as they are, float32: their maximum is the confidence."""
    return context.scores.astype(np.float32)
