"""Is a label with a confidence of 0.95 right 95 % of the time, and what does each mu keep?"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from clip_wsss.core.confidence import DECIMAL_EDGES, EDGES, check_mu

MUS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # what the mu curve shows


class Calibration:
    """How often labels of a given confidence are right.

    A bin is a code of `clip_wsss.core.confidence`: closed below and open above, but for the last,
    which is 1 alone. So the pixels that a mu keeps are exactly those of the bins with
    `lower >= mu`.
    """

    def __init__(self):
        self._pixels = np.zeros((len(EDGES), 2), np.int64)  # wrong, right

    def add(self, codes: np.ndarray, correct: np.ndarray, counted: np.ndarray) -> None:
        """Add an image: codes (H, W) uint8 of the confidences, correct and counted (H, W) bool."""
        cell = codes[counted] * np.uint8(2) + correct[counted]  # 139 at most
        self._pixels += np.bincount(cell, minlength=self._pixels.size).reshape(-1, 2)

    def merge(self, other: "Calibration") -> None:
        """Add what another one has counted."""
        self._pixels += other._pixels

    def table(self) -> pd.DataFrame:
        """Return lower (edge of the bin), confidence (mean in it), pixels, correct.

        Codes do not tell where in its bin a confidence lies, so the mean is taken to be the
        bin's middle, of the last bin 1. An empty bin has the confidence NaN.
        """
        pixels = self._pixels.sum(axis=1)
        upper = np.append(DECIMAL_EDGES[1:], 1)
        return pd.DataFrame(
            {
                "lower": DECIMAL_EDGES,
                "confidence": np.where(pixels > 0, (DECIMAL_EDGES + upper) / 2, np.nan),
                "pixels": pixels,
                "correct": self._pixels[:, 1],
            }
        )


def mu_curve(calibration: pd.DataFrame, mus: Iterable[float]) -> pd.DataFrame:
    """Return what each mu keeps: mu, kept (share of the pixels), precision (share right of them).

    Args:
        calibration: what `Calibration.table` gives.
        mus: thresholds, each an edge of its bins.

    Raises:
        InputError: a mu that is not an edge.
    """
    total, rows = int(calibration["pixels"].sum()), []
    for mu in mus:
        check_mu(mu)
        kept = calibration[calibration["lower"].astype(np.float32) >= np.float32(mu)]
        pixels, correct = int(kept["pixels"].sum()), int(kept["correct"].sum())
        rows.append(
            (mu, pixels / total if total else np.nan, correct / pixels if pixels else np.nan)
        )
    return pd.DataFrame(rows, columns=["mu", "kept", "precision"])
