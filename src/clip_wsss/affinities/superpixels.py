"""Superpixels that hold what is highly active: the mask of SSR's SGC (arXiv 2512.01701, AAAI 2026).

The paper leaves open how many superpixels, the colour space, what is highly active, the threshold
and what its ratio is of. All are settings, and the reading is ours. With `clusters` the superpixels
are joined by colour, as the paper says; by default each is judged by itself, since a class has
several colours and the background shares some of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from pydantic import Field

from clip_wsss.core.settings import Settings

if TYPE_CHECKING:
    from clip_wsss.cams.context import MapContext


class SuperpixelSettings(Settings):
    """Which regions of an image belong to a class."""

    segments: int = Field(100, ge=1, description="superpixels that SLIC is asked for")
    compactness: float = Field(
        10.0, gt=0, description="of SLIC: what distance counts beside colour"
    )
    clusters: int = Field(
        0, ge=0, description="regions by k-means of the mean colours; 0: each superpixel is one"
    )
    high: float = Field(
        0.5, ge=0, lt=1, description="highly active is what is above this share of the maximum"
    )
    share: float = Field(
        0.3, ge=0, lt=1, description="a region is kept if more of the activation is highly active"
    )
    share_of: Literal["region", "map"] = Field(
        "region", description="the activation that is counted: the region's or that of the map"
    )
    colours: Literal["lab", "rgb"] = Field(
        "lab", description="that SLIC and the clusters see; rgb wants a compactness of about 0.1"
    )
    covered: float = Field(
        0.5, gt=0, le=1, description="share of a patch's pixels, from which on kept regions have it"
    )


def superpixel_masks(context: MapContext, settings: SuperpixelSettings) -> np.ndarray:
    """The regions kept of each class, on the grid.

    Args:
        context: with maps (K, gh, gw).
        settings: see `SuperpixelSettings`.

    Returns:
        (K, gh, gw) uint8, 1 where at least `covered` of a patch's pixels are in kept regions; a
        mask may be empty.
    """
    assert context.maps is not None  # what an affinity refines
    own = (settings.segments, settings.compactness, settings.clusters, settings.colours)
    key = ("superpixels", *own)
    areas = context.once(key, lambda: _areas(context, settings))
    maps = context.maps.flatten(1).cpu().numpy().astype(np.float64)
    kept = kept_regions(maps, areas, settings)
    inside = kept.astype(np.float64) @ areas  # (K, N) pixels
    return (
        (inside >= settings.covered * areas.sum(axis=0))
        .astype(np.uint8)
        .reshape(context.maps.shape)
    )


def kept_regions(maps: np.ndarray, areas: np.ndarray, settings: SuperpixelSettings) -> np.ndarray:
    """Whether a region holds more than `share` of highly active pixels, weighted by activation.

    Args:
        maps: (K, N) float64 >= 0.
        areas: (R, N) float64, pixels of each patch that are in a region.
        settings: see `SuperpixelSettings`.

    Returns:
        (K, R) bool.
    """
    high = np.where(maps > settings.high * maps.max(axis=1, keepdims=True), maps, 0)
    total = maps @ areas.T
    if settings.share_of == "map":
        total = total.sum(axis=1, keepdims=True)
    return high @ areas.T > settings.share * total


def _areas(context: MapContext, settings: SuperpixelSettings) -> np.ndarray:
    """Pixels of each patch in each region of the fitted image: (R, N) float64."""
    # Costs a second, so only who needs it imports it.
    from skimage.color import rgb2lab

    tower, (gh, gw) = context.tower, context.grid
    pixels = context.pixels.permute(1, 2, 0).cpu().numpy()
    image = np.clip(pixels * tower.std + tower.mean, 0, 1).astype(np.float64)  # (H', W', 3)
    lab = settings.colours == "lab"
    regions = slic_regions(image, settings.segments, settings.compactness, lab)
    if settings.clusters:
        regions = joined(rgb2lab(image) if lab else image, regions, settings.clusters)
    rows = np.arange(image.shape[0]) // tower.patch[0]
    columns = np.arange(image.shape[1]) // tower.patch[1]
    places = regions * (gh * gw) + rows[:, None] * gw + columns
    count = int(regions.max()) + 1
    found = np.bincount(places.ravel(), minlength=count * gh * gw)
    return found.reshape(count, -1).astype(np.float64)


def slic_regions(
    image: np.ndarray, segments: int, compactness: float, lab: bool = True
) -> np.ndarray:
    """Regions of like colour by SLIC.

    Args:
        image: (H, W, 3) uint8, or float64 in [0, 1].
        segments: how many are asked for; about as many are made.
        compactness: what distance counts beside colour.
        lab: whether colours are compared in CIELAB, or else in RGB.

    Returns:
        (H, W) int, 0 to R - 1.
    """
    from skimage.segmentation import slic

    return slic(image, n_segments=segments, compactness=compactness, start_label=0, convert2lab=lab)


def joined(image: np.ndarray, regions: np.ndarray, clusters: int) -> np.ndarray:
    """Regions joined by k-means of their mean colours, without chance.

    Args:
        image: (H, W, 3) float64.
        regions: (H, W), 0 to R - 1.
        clusters: at most R are made.

    Returns:
        (H, W) int, 0 to clusters - 1.
    """
    flat, sizes = regions.ravel(), np.bincount(regions.ravel())
    sums = [np.bincount(flat, channel) for channel in image.reshape(-1, 3).T]
    colours = (np.array(sums) / sizes.clip(1)).T.astype(np.float32)
    count = min(clusters, len(colours))
    if count == 1:  # OpenCV refuses one point
        return np.zeros_like(regions)
    first = colours[:, 0].argsort(kind="stable").argsort() * count // len(colours)  # by lightness
    labels = first.astype(np.int32)[:, None]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-3)
    _, labels, _ = cv2.kmeans(colours, count, labels, criteria, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    return labels[:, 0][regions]
