"""Figures of generalised zero-shot segmentation: seen classes, unseen ones, and both.

mIoU of the seen classes S, of the unseen classes U, and their harmonic mean hIoU = 2 S U / (S + U),
from the counts that the mIoU itself is made of (CLIP-ZSS, arXiv 2310.02296, as in the field).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clip_wsss.score.bootstrap import nan_mean

PARTS = ("seen", "unseen", "harmonic")


@dataclass(frozen=True)
class HeldOut:
    """Which classes are unseen, and what the background is.

    Attributes:
        unseen: names of classes.
        background: seen: one of the seen classes; ignored: its pixels count for nothing, as where
            a benchmark has no background.
    """

    unseen: tuple[str, ...]
    background: str = "seen"

    def of(self, iou: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """The figures of IoUs.

        Args:
            iou: (..., C) in [0, 1], NaN without ground truth, of the pixels that count.
            names: of the classes, background first.

        Returns:
            (..., 3) seen, unseen, harmonic in [0, 1]; the last is 0 where one of them is. NaN where
            no such class has ground truth.
        """
        unseen = np.isin(names, self.unseen)
        seen, held_out = nan_mean(iou[..., ~unseen]), nan_mean(iou[..., unseen])
        total = seen + held_out
        both = np.divide(2 * seen * held_out, total, out=np.zeros(total.shape), where=total != 0)
        return np.stack([seen, held_out, both], axis=-1)
