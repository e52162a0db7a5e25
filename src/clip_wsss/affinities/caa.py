"""Refinement of CAMs on the grid by attention.

A new affinity is one function in `AFFINITIES`. Torch is not imported here: the functions work on
what they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def min_max(maps: Tensor) -> Tensor:
    """x - min, then x / (1e-7 + max), each map by itself (docs/parity.md, facts 7 and 12).

    Args:
        maps: (..., gh, gw).

    Returns:
        The same shape and precision, in [0, 1]; a constant map becomes zero.
    """
    maps = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return maps / (1e-7 + maps.amax(dim=(-2, -1), keepdim=True))


def sinkhorn(attention: Tensor, rounds: int) -> Tensor:
    """Symmetric affinity of attention maps (paper, equations 5 and 6; docs/parity.md, fact 10).

    Args:
        attention: (N, N), the mean map.
        rounds: of dividing by the column sums, then by the row sums.

    Returns:
        (N, N), (D + D^T) / 2. A row or column without attention, all of which goes to CLS, stays 0.
    """
    rows = attention.new_ones(len(attention))
    columns = attention.new_ones(len(attention))
    for _ in range(rounds):  # what D's rows and columns are multiplied by, not D itself
        sums = (rows @ attention) * columns
        columns = columns / sums.where(sums > 0, 1)
        sums = (attention @ columns) * rows
        rows = rows / sums.where(sums > 0, 1)
    affinity = rows[:, None] * attention
    affinity *= columns
    return (affinity + affinity.T).div_(2)


def boxes(cam: np.ndarray, threshold: float, edge: str) -> np.ndarray:
    """Bounding boxes of what stands out in a CAM (docs/parity.md, fact 11).

    Args:
        cam: (gh, gw) float32 in [0, 1].
        threshold: lambda; foreground is above this share of the maximum.
        edge: `full`, or `clamp`, which keeps the ends off the last row and column.

    Returns:
        (n, 4) int32, x0 y0 x1 y1 with exclusive ends, one a contour of an 8-connected
        component, contours of holes included, sorted, none twice; one empty box for no contour.
    """
    steps = (cam * 255).astype(np.uint8)
    above = (steps > int(threshold * steps.max())).astype(np.uint8)
    contours = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    found = np.array([cv2.boundingRect(c) for c in contours] or [(0, 0, 0, 0)], dtype=np.int32)
    found[:, 2:] += found[:, :2]
    if edge == "clamp":
        gh, gw = cam.shape
        found[:, 2:] = np.minimum(found[:, 2:], (gw - 1, gh - 1))
    return np.unique(found, axis=0)


def box_mask(cam: np.ndarray, threshold: float, edge: str) -> np.ndarray:
    """Union of the `boxes` of a CAM (gh, gw): (gh, gw) uint8, 1 inside."""
    mask = np.zeros(cam.shape, dtype=np.uint8)
    for x0, y0, x1, y1 in boxes(cam, threshold, edge):
        mask[y0:y1, x0:x1] = 1
    return mask


def caa(cam: Tensor, attention: Tensor, settings: dict) -> Tensor:
    """Class-aware attention-based affinity (paper, equation 7).

    Args and returns: as for every function of `AFFINITIES`. Settings: sinkhorn, power,
    threshold, box_edge.
    """
    # Where attention is nearly even, the map hardly differs from patch to patch, and min-max would
    # blow up what float32 rounds off.
    mean = attention[0].double()
    for own in attention[1:]:
        mean += own
    affinity = sinkhorn(mean.div_(len(attention)), settings["sinkhorn"])
    masks = [box_mask(c, settings["threshold"], settings["box_edge"]) for c in cam.cpu().numpy()]
    refined = (cam * cam.new_tensor(np.stack(masks))).double().flatten(1).T  # (N, K)
    for _ in range(settings["power"]):  # A^t x, without the N x N x N product
        refined = affinity @ refined
    return refined.T.reshape(cam.shape)


# fn(cam (K, gh, gw) float32 in [0, 1], attention (L, N, N) float32, settings) -> (K, gh, gw) >= 0
# in any precision, which the caller scales to [0, 1] and then makes float32. The maps are those of
# the last `layers` blocks (a key of the settings), averaged over the heads, without CLS;
# N = gh * gw, row by row. Settings are those of the affinity entry that names the function.
AFFINITIES: dict[str, Callable[[Tensor, Tensor, dict], Tensor]] = {"caa": caa}
