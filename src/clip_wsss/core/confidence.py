"""Confidences as 8-bit codes with exact edges, so that a threshold on a code is one on the number.

A code stands for the confidences from its edge to the next one: 0.05 apart below 0.5, 0.01 apart
from there to 0.99, 0.001 apart from there to 1, which has a code of its own. Confidences, edges
and thresholds are compared as float32; for a mu that is an edge, `confidence >= mu` is then the
same question as `encode(confidence) >= encode(mu)`.
"""

from numbers import Real

import numpy as np

from clip_wsss.core.errors import InputError

DECIMAL_EDGES = np.r_[0:500:50, 500:990:10, 990:1001] / 1000  # float64, as one writes them
EDGES = DECIMAL_EDGES.astype(np.float32)  # (70,) lower edges of the codes
EDGES.flags.writeable = DECIMAL_EDGES.flags.writeable = False
FEW_PIXELS = 0.01  # of all, below which a training is told to see few
MU = 0.95  # the threshold of the papers and of the public code: a label counts from it on


def encode(confidence: np.ndarray | np.floating) -> np.ndarray:
    """Code of each confidence: the largest edge that is not above it.

    Args:
        confidence: float32, any shape, 0 or more; what rounding put above 1 counts as 1.

    Returns:
        uint8 of the same shape, 0..69.

    Raises:
        ValueError: a confidence is NaN, infinite or below 0.
    """
    confidence = np.asarray(confidence, dtype=np.float32)
    if not ((confidence >= 0) & (confidence < np.inf)).all():
        raise ValueError("a confidence is NaN, infinite or below 0")
    return (np.searchsorted(EDGES, confidence, side="right") - 1).astype(np.uint8)


def decode(codes: np.ndarray) -> np.ndarray:
    """Lower edge of each code, float32. Raises IndexError for a code above 69."""
    return EDGES[codes]


def check_mu(mu: float, key: str = "mu") -> None:
    """Raise InputError, which names `key`, unless mu is a number that is one of the edges."""
    if not isinstance(mu, Real):
        raise InputError(f"{key}: must be a number from 0 to 1; got {mu!r}")
    if np.float32(mu) not in EDGES:
        raise InputError(
            f"{key}: must be a step of the stored confidences (0.05 apart from 0 to 0.5, 0.01 "
            f"apart to 0.99, 0.001 apart to 1); got {mu}; change it, for example to "
            f"{DECIMAL_EDGES[np.abs(DECIMAL_EDGES - mu).argmin()]:g}"
        )
