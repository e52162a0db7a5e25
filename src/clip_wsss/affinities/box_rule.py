"""Boxes around what stands out in a CAM (docs/parity.md, fact 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


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


def box_masks(cam: Tensor, threshold: float, edge: str) -> np.ndarray:
    """`box_mask` of each of (K, gh, gw) CAMs: the same shape, uint8."""
    return np.stack([box_mask(own, threshold, edge) for own in cam.cpu().numpy()])
