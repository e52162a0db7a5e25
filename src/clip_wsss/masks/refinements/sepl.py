"""SEPL's vote of region masks (arXiv 2305.05803): SAM's, ready-made, or superpixels.

The paper's public code lets a region vote for the first class that fits and later classes write
over earlier ones; here a region is of the class that fills most of it, so the order of the classes
does not matter.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from clip_wsss.affinities.superpixels import slic_regions
from clip_wsss.core.names import Names
from clip_wsss.core.regions import read_regions
from clip_wsss.core.settings import Location, Settings
from clip_wsss.masks.context import MaskContext


class SeplSettings(Settings):
    """Which regions take part in the vote, and when one is won."""

    folder: Annotated[Location, Names("folder")] | None = Field(
        None,
        description="holds <id>.png, numbers of regions with 0 for none, or <id>.npz, an array "
        "`regions` (n, H, W) of masks that may overlap; null: superpixels of the image by SLIC",
    )
    segments: int = Field(100, ge=1, description="superpixels that SLIC is asked for")
    compactness: float = Field(
        10.0, gt=0, description="of SLIC: what distance counts beside colour"
    )
    share: float = Field(
        0.5, ge=0, lt=1, description="a class wins a region that it fills beyond this share"
    )
    cover: float = Field(
        0.85, gt=0, le=1, description="or one that holds this share of all its pixels"
    )


def sepl(context: MaskContext, settings: SeplSettings) -> np.ndarray:
    """Labels by the vote of regions: (1 + K, H, W) float32.

    The argmax of the scores votes. A region goes to the class with most pixels in it, if that class
    fills it or is covered by it; a pixel of several won regions goes to the smallest. Pixels of
    regions that no class wins become background, those of no region stay. A pixel keeps its
    confidence: the winner and the old label change scores.

    Raises:
        InputError: as `clip_wsss.core.regions.read_regions`.
    """
    scores = context.scores.astype(np.float32)
    label = scores.argmax(axis=0)
    old, new = label[None], voted(label, _regions(context, settings), settings)[None]
    first, second = (np.take_along_axis(scores, which, axis=0) for which in (old, new))
    np.put_along_axis(scores, old, second, axis=0)
    np.put_along_axis(scores, new, first, axis=0)
    return scores


def _regions(context: MaskContext, settings: SeplSettings) -> np.ndarray:
    """Regions of the image, as `voted` takes them."""
    if settings.folder is None:
        return 1 + slic_regions(context.image, settings.segments, settings.compactness)
    return read_regions(settings.folder, context.id, context.size)


def voted(label: np.ndarray, regions: np.ndarray, settings: SeplSettings) -> np.ndarray:
    """The labels after the vote.

    Args:
        label: (H, W) int, 0 background.
        regions: (n, H, W) bool; or (H, W) int, numbers with 0 for none.
        settings: see `SeplSettings`.

    Returns:
        (H, W) int.
    """
    count = int(label.max()) + 1
    totals = np.bincount(label.ravel(), minlength=count)
    if regions.ndim == 2:  # thousands of masks would not fit into memory
        numbers, place = np.unique(regions, return_inverse=True)
        place = place.reshape(label.shape)
        own = np.bincount((place * count + label).ravel(), minlength=len(numbers) * count)
        winners = _winners(own.reshape(-1, count), totals, settings)
        return np.where(regions == 0, label, winners[place])
    found = np.where(regions.any(axis=0), 0, label)
    own = np.zeros((len(regions), count), np.int64)
    for row, region in zip(own, regions, strict=True):
        row[:] = np.bincount(label[region], minlength=count)
    winners = _winners(own, totals, settings)
    for one in np.argsort(-own.sum(axis=1), kind="stable"):  # the smallest has the last word
        if winners[one]:
            found[regions[one]] = winners[one]
    return found


def _winners(own: np.ndarray, totals: np.ndarray, settings: SeplSettings) -> np.ndarray:
    """The class that wins each region, 0 where none does: (n,) int.

    Args:
        own: (n, C) int, pixels of the classes in each region, background first.
        totals: (C,) int, pixels of the classes in the image.
        settings: see `SeplSettings`.
    """
    classes = own.copy()
    classes[:, 0] = 0
    best, most = classes.argmax(axis=1), classes.max(axis=1)
    fills = most > settings.share * own.sum(axis=1)
    covers = most >= settings.cover * totals[best]
    return np.where(fills | covers, best, 0)  # of no class the best is 0 itself
