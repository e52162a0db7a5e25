"""SEPL's vote of ready-made region masks, SAM's or any others (arXiv 2305.05803).

The paper's public code lets a region vote for the first class that fits and later classes write
over earlier ones; here a region is of the class that fills most of it, so the order of the classes
does not matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import load_npz
from clip_wsss.core.methods import Names, Settings
from clip_wsss.masks.context import MaskContext


class SeplSettings(Settings):
    """Which regions take part in the vote, and when one is won."""

    folder: Annotated[str, Names("folder")] = Field(
        description="holds <id>.png, numbers of regions with 0 for none, or <id>.npz, an array "
        "`regions` (n, H, W) of masks that may overlap"
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
        InputError: no file of the image, or one of another size or kind.
    """
    scores = context.scores.astype(np.float32)
    label = voted(scores.argmax(axis=0), _regions(context, Path(settings.folder)), settings)
    old = scores.argmax(axis=0)[None]
    new = label[None]
    first, second = (np.take_along_axis(scores, which, axis=0) for which in (old, new))
    np.put_along_axis(scores, old, second, axis=0)
    np.put_along_axis(scores, new, first, axis=0)
    return scores


def voted(label: np.ndarray, regions: np.ndarray, settings: SeplSettings) -> np.ndarray:
    """The labels after the vote.

    Args:
        label: (H, W) int, 0 background.
        regions: (n, H, W) bool.
        settings: see `SeplSettings`.

    Returns:
        (H, W) int.
    """
    count = int(label.max()) + 1
    totals = np.bincount(label.ravel(), minlength=count)
    found = np.where(regions.any(axis=0), 0, label)
    order = np.argsort(-regions.sum(axis=(1, 2)), kind="stable")  # the smallest has the last word
    for region in regions[order]:
        own = np.bincount(label[region], minlength=count)
        own[0] = 0
        best = int(own.argmax())
        fills = own[best] > settings.share * region.sum()
        if own[best] and (fills or own[best] >= settings.cover * totals[best]):
            found[region] = best
    return found


def _regions(context: MaskContext, folder: Path) -> np.ndarray:
    """The regions of an image: (n, H, W) bool."""
    picture, arrays = folder / f"{context.id}.png", folder / f"{context.id}.npz"
    path = arrays if arrays.is_file() else picture
    try:
        if path == picture:
            with Image.open(path) as image:
                numbers = np.array(image)
            regions = numbers[None] == np.setdiff1d(numbers, [0])[:, None, None]
        else:
            regions = load_npz(path, ["regions"])["regions"].astype(bool)
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: must be a readable map of regions ({reason}); make it, or name another folder"
        ) from None
    if regions.ndim != 3 or regions.shape[1:] != context.size:
        raise InputError(
            f"{path}: regions must be {context.size} as the image; got {regions.shape[1:]}"
        )
    return regions
