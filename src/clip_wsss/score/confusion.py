"""Confusion counts of images, and IoU and mIoU from them.

Labels are 0 for the background and 1..C for the classes; ground truth 255 is left out. A
prediction of 255 (masks made by other code may leave pixels unlabelled) is a miss of the true
class and a false alarm of none.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from clip_wsss.data.datasets import some
from clip_wsss.data.vocabulary import IGNORE

EXCHANGED = 0.5  # IoU of labels with pixels of another class
Sparse = tuple[np.ndarray, np.ndarray, np.ndarray]  # truth, prediction, pixels of the filled cells


def confusion_matrix(counts: pd.DataFrame, classes: int) -> np.ndarray:
    """Sum counts over images: (classes, classes + 1) int64, rows truth, columns prediction.

    The last column holds the pixels that were predicted 255, so left unlabelled.

    Args:
        counts: columns truth, prediction and pixels, of one background power.
        classes: their number, the background included.
    """
    cell = _cell(counts["truth"].to_numpy(), counts["prediction"].to_numpy(), classes)
    # Sums of integers below 2 ** 53 are exact in float64.
    pixels = np.bincount(cell, counts["pixels"].to_numpy(np.float64), classes * (classes + 1))
    return pixels.astype(np.int64).reshape(classes, classes + 1)


def _cell(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Where a pair of labels is in a flat confusion matrix."""
    column = np.where(prediction == IGNORE, classes, prediction)
    return truth.astype(np.intp) * (classes + 1) + column


def iou(confusion: np.ndarray) -> np.ndarray:
    """Return the IoU of every class, (classes,) float64 in [0, 1]; NaN without ground truth.

    `confusion` is that of `confusion_matrix`.

    The pixels of a class without ground truth that is predicted all the same are missed by the
    true class, which is all that they change.
    """
    hit = np.diagonal(confusion).astype(np.float64)
    truth = confusion.sum(axis=1)
    return over_union(hit, truth, confusion[:, : len(hit)].sum(axis=0))


def exchanged(confusion: np.ndarray) -> list[tuple[int, int, float]]:
    """Find classes that are labelled where the ground truth has another, or the background.

    Args:
        confusion: that of `confusion_matrix`.

    Returns:
        Truth, label and the IoU of the pixels of the one with those of the other, where that is at
        least `EXCHANGED`: no fault of labels does that, but values or colours that are others.
        Labels of the background are no class: whoever misses all of a class gives it.
    """
    pixels = confusion[:, : len(confusion)].astype(np.float64)
    union = confusion.sum(axis=1)[:, np.newaxis] + pixels.sum(axis=0) - pixels
    ratio = np.divide(pixels, union, out=np.zeros_like(pixels), where=union > 0)
    np.fill_diagonal(ratio, 0)
    ratio[:, 0] = 0
    return [(int(i), int(j), float(ratio[i, j])) for i, j in np.argwhere(ratio >= EXCHANGED)]


def exchanged_words(pairs: Sequence[Sequence]) -> str:
    """What `exchanged` has found, with the classes' names, in words."""
    words = some([f"{label} where {truth} is (IoU {ratio:.0%})" for truth, label, ratio in pairs])
    return f"{words}, as if values or colours of classes were others than in the ground truth"


def over_union(hit: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """IoU in [0, 1] from pixels that are right, true and predicted; NaN where none is true."""
    there = truth > 0
    return np.divide(hit, truth + predicted - hit, out=np.full(hit.shape, np.nan), where=there)


def miou(counts: pd.DataFrame, classes: int) -> float:
    """Mean IoU over the classes with ground-truth pixels (docs/parity.md, fact 14).

    Args and layout as for `confusion_matrix`; NaN without any pixel.
    """
    return mean_iou(iou(confusion_matrix(counts, classes)))


def mean_iou(values: np.ndarray) -> float:
    """Mean of the IoUs that are not NaN; NaN if there is none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def count_label(truth: np.ndarray, prediction: np.ndarray, classes: int) -> Sparse:
    """Count one image: (truth, prediction, pixels), one entry a filled cell, in that order.

    Args:
        truth: (H, W) uint8, 0..classes-1 or 255, which is left out.
        prediction: (H, W) uint8, 0..classes-1, or 255, unlabelled.
        classes: their number, the background included.
    """
    counted = truth != IGNORE
    cell = _cell(truth[counted], prediction[counted], classes)
    counts = np.bincount(cell, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
    truths, predictions, pixels = _sparse(counts)
    return truths, np.where(predictions == classes, IGNORE, predictions), pixels


def _sparse(confusion: np.ndarray) -> Sparse:
    truth, prediction = np.nonzero(confusion)
    return truth, prediction, confusion[truth, prediction]


@lru_cache
def _beats_background(powers: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Group the float16 numbers by the powers at which a maximum of that value is foreground.

    A float16 has 65,536 values, so the background score (1 - max)^p of every one is computed
    once; the maxima fall into few groups (one more than there are powers, for maxima in [0, 1]).

    Returns:
        group: (65536,) intp, of the number with these 16 bits.
        beats: (groups, powers) bool, False where the background wins or ties.
    """
    top = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        beats = np.stack([np.power(1 - top, np.float16(power)) < top for power in powers], axis=1)
    rows, group = np.unique(np.packbits(beats, axis=1), axis=0, return_inverse=True)
    unpacked = np.unpackbits(rows, axis=1, count=len(powers)).astype(bool)
    return group.ravel().astype(np.intp), unpacked


def count_sweep(
    truth: np.ndarray, maps: np.ndarray, keys: Sequence[int], powers: Sequence[float], classes: int
) -> list[Sparse]:
    """Count one image at every background power in one pass over its pixels.

    The label of a pixel is the argmax of [(1 - max)^p, maps], all float16; ties go to the first,
    so to the background before the maps (docs/parity.md, fact 14). The winning map and the
    maximum do not depend on p; a joint histogram of (truth, winner, group of the maximum) holds
    what every p counts.

    Args:
        truth: (H, W) uint8, 0..classes-1 or 255, which is left out.
        maps: (K, H, W) float16, finite, no sign bit set.
        keys: the K 0-based classes, in label order.
        powers: P background powers.
        classes: their number, the background included.

    Returns:
        P counts as of `count_label`.
    """
    group, beats = _beats_background(tuple(powers))
    slots = len(keys)
    winner = np.zeros(truth.shape, np.intp)
    bits = np.zeros(truth.shape, np.uint16)  # of float16 >= 0: ordered like the numbers
    for slot, map_ in enumerate(maps):
        wins = map_.view(np.uint16) > bits
        winner[wins] = slot
        np.maximum(bits, map_.view(np.uint16), out=bits)
    cell = (truth.astype(np.intp) * max(slots, 1) + winner) * len(beats) + group[bits]
    shape = (IGNORE + 1, max(slots, 1), len(beats))
    joint = np.bincount(cell.ravel(), minlength=int(np.prod(shape))).reshape(shape)[:classes]
    columns = [key + 1 for key in keys]
    counts = []
    for beat in beats.T:
        confusion = np.zeros((classes, classes), np.int64)
        confusion[:, columns] = joint[:, :slots, beat].sum(axis=2)
        confusion[:, 0] = joint[:, :, ~beat].sum(axis=(1, 2))
        counts.append(_sparse(confusion))
    return counts
