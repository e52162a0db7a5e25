"""Is a label with a confidence of 0.95 right 95 % of the time, and what does each mu keep?"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from clip_wsss.errors import InputError
from clip_wsss.imageio import CONFIDENCE_STEPS

# Lower edges of the calibration's bins: hundredths, from 0.9 thousandths, from 0.99
# ten-thousandths, so that every usual mu is an edge.
CONFIDENCE_EDGES = np.concatenate(
    [np.arange(0, 90) / 100, np.arange(900, 990) / 1000, np.arange(9900, 10001) / 10000]
)

MUS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # what the mu curve shows


class Calibration:
    """How often labels of a given confidence are right.

    Bins are closed below and open above, but for the last, which is 1 alone. The edges are
    compared as float32, as the loss compares a confidence with mu, so the pixels that a mu keeps
    are exactly those of the bins with `lower >= mu`, where mu is an edge.
    """

    def __init__(self):
        steps = (np.arange(CONFIDENCE_STEPS + 1) / CONFIDENCE_STEPS).astype(np.float32)
        edges = CONFIDENCE_EDGES.astype(np.float32)
        self._bin = np.searchsorted(edges, steps, side="right") - 1
        self._pixels = np.zeros((CONFIDENCE_STEPS + 1, 2), np.int64)  # wrong, right

    def add(self, confidence: np.ndarray, correct: np.ndarray, counted: np.ndarray) -> None:
        """Add an image: confidence (H, W) float32, correct and counted (H, W) bool."""
        step = np.rint(confidence[counted].astype(np.float64) * CONFIDENCE_STEPS).astype(np.intp)
        cell = step * 2 + correct[counted]
        self._pixels += np.bincount(cell, minlength=self._pixels.size).reshape(-1, 2)

    def table(self) -> pd.DataFrame:
        """Return lower (edge of the bin), confidence (mean in it), pixels, correct.

        An empty bin has the confidence NaN.
        """
        pixels = self._pixels.sum(axis=1)
        bins = len(CONFIDENCE_EDGES)
        total = np.bincount(self._bin, pixels, bins)
        weight = np.bincount(self._bin, pixels * np.arange(len(pixels), dtype=np.float64), bins)
        mean = np.divide(
            weight, total * CONFIDENCE_STEPS, out=np.full(bins, np.nan), where=total > 0
        )
        right = np.bincount(self._bin, self._pixels[:, 1], bins)
        return pd.DataFrame(
            {
                "lower": CONFIDENCE_EDGES,
                "confidence": mean,
                "pixels": total.astype(np.int64),
                "correct": right.astype(np.int64),
            }
        )


def mu_curve(calibration: pd.DataFrame, mus: Iterable[float]) -> pd.DataFrame:
    """Return what each mu keeps: mu, kept (share of the pixels), precision (share right of them).

    Args:
        calibration: what `Calibration.table` gives.
        mus: thresholds, each an edge of its bins.

    Raises:
        InputError: a mu that is no edge.
    """
    total, rows = int(calibration["pixels"].sum()), []
    for mu in mus:
        if not np.isclose(calibration["lower"], mu, rtol=0, atol=1e-9).any():
            raise InputError(f"mu: {mu} is no edge of the bins; use hundredths, or 1/10000 steps")
        kept = calibration[calibration["lower"] >= mu - 1e-9]
        pixels, correct = int(kept["pixels"].sum()), int(kept["correct"].sum())
        rows.append(
            (mu, pixels / total if total else np.nan, correct / pixels if pixels else np.nan)
        )
    return pd.DataFrame(rows, columns=["mu", "kept", "precision"])
