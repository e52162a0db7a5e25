"""How sure is a figure? Bootstrap over the images, and over the seeds where there are several.

Every resample draws as many images as there are, with replacement, sums their counts and computes
the mIoU of the sum, over the classes that have ground truth in the resample (the definition of the
figure itself: a rare class that is not drawn has no IoU). The resamples depend on the seed and the
number of images only. So two measurements of the same images see the same resamples, and the
differences of their values, resample by resample, are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.score.confusion import over_union

LEVEL = 0.95
HIT = 0.01  # an IoU below which a class is not where the ground truth has it
_CHUNK = 64  # resamples at once: bounds memory, changes no value


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of the resampled values (percentile interval)."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is more than noise."""
        return self.low > 0 or self.high < 0


def tally(counts: pd.DataFrame, ids: list[str], classes: int) -> np.ndarray:
    """Count hits, false alarms and misses of every image and class.

    Args:
        counts: columns id, truth, prediction, pixels, of one background power; a prediction of
            255 (unlabelled) is a miss and no false alarm.
        ids: the n images, in the order of the result; rows of others are passed over.
        classes: their number C, the background included.

    Returns:
        (n, C, 3) float64, whole numbers: true positive, false positive, false negative pixels.
    """
    place = pd.Index(ids).get_indexer(counts["id"])
    known = place >= 0
    image = place[known]
    truth = counts["truth"].to_numpy(np.intp)[known]
    prediction = counts["prediction"].to_numpy(np.intp)[known]
    pixels = counts["pixels"].to_numpy(np.float64)[known]
    hit = truth == prediction
    alarm = ~hit & (prediction != IGNORE)
    sums = np.zeros((len(ids), classes, 3))
    np.add.at(sums, (image[hit], truth[hit], 0), pixels[hit])
    np.add.at(sums, (image[alarm], prediction[alarm], 1), pixels[alarm])
    np.add.at(sums, (image[~hit], truth[~hit], 2), pixels[~hit])
    return sums


def tally_iou(sums: np.ndarray) -> np.ndarray:
    """IoU from (..., 3) true positives, false positives, false negatives; NaN without truth."""
    hit, alarm, miss = sums[..., 0], sums[..., 1], sums[..., 2]
    return over_union(hit, hit + miss, hit + alarm)


def none_hit(iou: Mapping[str, float | None]) -> bool:
    """Whether the classes that have ground truth all have an IoU below `HIT`.

    Args:
        iou: IoU in [0, 1] of every class by name, the background too; None or NaN without truth.
    """
    known = [
        one for name, one in iou.items() if name != "background" and one is not None and one == one
    ]
    return bool(known) and max(known) < HIT


def tally_rates(sums: np.ndarray) -> np.ndarray:
    """Precision, recall and confusion ratio from (..., 3) true positives, false positives, misses.

    The ratio is FP / TP, as single-stage methods quote it (SSR's Table 5). Its mean over the
    classes is at least 1 / (mean precision) - 1: 0.198 beside 0.879 there.

    Returns:
        (..., 3) float64, NaN without truth; a precision also where nothing is predicted, a ratio
        where nothing is hit.
    """
    hit, alarm, miss = sums[..., 0], sums[..., 1], sums[..., 2]
    there = hit + miss > 0
    pairs = ((hit, hit + alarm), (hit, hit + miss), (alarm, hit))
    return np.stack(
        [
            np.divide(one, of, out=np.full(hit.shape, np.nan), where=there & (of > 0))
            for one, of in pairs
        ],
        axis=-1,
    )


def nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0).sum(axis=-1)
    number = there.sum(axis=-1)
    return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)


def resampled_iou(sums: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """IoU of every class in every resample of the images.

    The sums are exact (whole numbers below 2 ** 53), so the result is the same on any number of
    threads.

    Args:
        sums: (n, C, 3) of `tally`.
        resamples: their number R.
        seed: of the generator (PCG64).

    Returns:
        (R, C) float64 in [0, 1], NaN where a class has no ground truth in the resample.
    """
    images, classes, _ = sums.shape
    flat = sums.reshape(images, classes * 3)
    generator = np.random.Generator(np.random.PCG64(seed))
    values = np.empty((resamples, classes))
    for start in range(0, resamples, _CHUNK):
        stop = min(start + _CHUNK, resamples)
        drawn = [
            np.bincount(generator.integers(images, size=images), minlength=images)
            for _ in range(start, stop)
        ]
        total = np.array(drawn, dtype=np.float64) @ flat
        values[start:stop] = tally_iou(total.reshape(stop - start, classes, 3))
    return values


def over_seeds(samples: np.ndarray, seed: int) -> np.ndarray:
    """Mean over the seeds of a training, resampled too.

    Each resample of the images also draws S of the S seeds with replacement. Drawing from S
    values gives a spread that is too small by (S - 1) / S, which matters for two or three; so
    the drawn mean's distance from the mean is stretched by sqrt(S / (S - 1)).
    With one seed nothing is drawn, and the interval covers the choice of images only.

    Args:
        samples: (S, R, ...) values of S seeds in R resamples.
        seed: of the generator; runs with as many seeds draw alike, so their seeds are paired.

    Returns:
        (R, ...) float64.
    """
    seeds, resamples = samples.shape[:2]
    mean = samples.mean(axis=0)
    if seeds == 1:
        return mean
    generator = np.random.Generator(np.random.PCG64([seed, seeds]))
    drawn = generator.integers(seeds, size=(seeds, resamples))
    picked = samples[drawn, np.arange(resamples)].mean(axis=0)
    return mean + np.sqrt(seeds / (seeds - 1)) * (picked - mean)


def interval(samples: np.ndarray, level: float = LEVEL) -> Interval:
    """Percentile interval of (R,) resampled values; NaN ones are left out."""
    there = samples[~np.isnan(samples)]
    if not len(there):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
