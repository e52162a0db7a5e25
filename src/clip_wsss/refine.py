"""Refinements: of CAMs on the grid by attention, and of full-resolution scores by the image.

A new affinity is one function in `AFFINITIES`, a new mask refinement one in `MASK_REFINEMENTS`.
Torch is not imported here: mask jobs do without it, and affinities work on what they are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pydensecrf.densecrf as dcrf

from clip_wsss.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

BGR_MEAN = (104.008, 116.669, 122.675)  # Caffe's, of the images of ImageNet


def lookup(registry: dict[str, Callable], name: str, key: str) -> Callable:
    """The function that a config key names. Raises InputError if the registry lacks it."""
    if name not in registry:
        raise InputError(f"{key}: {name} is unknown; known are {', '.join(sorted(registry))}")
    return registry[name]


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
    for _ in range(rounds):
        for dim in (0, 1):
            attention = attention / attention.sum(dim=dim, keepdim=True).clamp(min=1e-45)
    return (attention + attention.T) / 2


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
    mean = sum(own.double() for own in attention) / len(attention)
    affinity = sinkhorn(mean, settings["sinkhorn"])
    masks = [box_mask(c, settings["threshold"], settings["box_edge"]) for c in cam.cpu().numpy()]
    refined = (cam * cam.new_tensor(np.stack(masks))).double().flatten(1).T  # (N, K)
    for _ in range(settings["power"]):  # A^t x, without the N x N x N product
        refined = affinity @ refined
    return refined.T.reshape(cam.shape)


# fn(cam (K, gh, gw) float32 in [0, 1], attention (L, N, N) float32, settings) -> (K, gh, gw) >= 0
# in any precision, which the caller scales to [0, 1] and then makes float32. The maps are those of
# the last `layers` blocks (a key of the settings), averaged over the heads, without CLS;
# N = gh * gw, row by row. Settings are those under the function's name in the cam entry.
AFFINITIES: dict[str, Callable[[Tensor, Tensor, dict], Tensor]] = {"caa": caa}


def no_refinement(scores: np.ndarray, rgb: np.ndarray, settings: dict) -> np.ndarray:
    """The scores as they are: their maximum is the confidence."""
    return scores.astype(np.float32)


def crf(scores: np.ndarray, rgb: np.ndarray, settings: dict) -> np.ndarray:
    """Dense CRF (docs/parity.md, fact 15).

    Args and returns: as for every function of `MASK_REFINEMENTS`. Settings: image (rgb or
    wrapped-bgr), iterations, gaussian_sxy, gaussian_compat, bilateral_sxy, bilateral_srgb,
    bilateral_compat.
    """
    count, height, width = scores.shape
    # -log in float16 and only then float32, as in the public code.
    unary = -np.log(np.clip(scores, np.float16(1e-5), np.float16(1)))
    unary = np.ascontiguousarray(unary.reshape(count, -1).astype(np.float32))
    field = dcrf.DenseCRF2D(width, height, count)
    field.setUnaryEnergy(unary)
    field.addPairwiseGaussian(sxy=settings["gaussian_sxy"], compat=settings["gaussian_compat"])
    field.addPairwiseBilateral(
        sxy=settings["bilateral_sxy"],
        srgb=settings["bilateral_srgb"],
        rgbim=crf_image(rgb, settings["image"]),
        compat=settings["bilateral_compat"],
    )
    return np.array(field.inference(settings["iterations"])).reshape(count, height, width)


def crf_image(rgb: np.ndarray, kind: str) -> np.ndarray:
    """What the CRF sees of an image (H, W, 3) uint8.

    `rgb` is the image itself. `wrapped-bgr` is the public code's slip: BGR minus Caffe's mean,
    cut to integers, negative ones wrapped to the other end of 0..255.
    """
    if kind == "rgb":
        return np.array(rgb, order="C")  # a copy: pydensecrf refuses read-only pixels
    shifted = rgb[..., ::-1].astype(np.float32) - np.array(BGR_MEAN, dtype=np.float32)
    return np.ascontiguousarray((shifted.astype(np.int32) & 255).astype(np.uint8))


# fn(scores (1 + K, H, W) float16 in [0, 1], background first, not normalised,
#    rgb (H, W, 3) uint8, settings) -> (1 + K, H, W) float32, whose argmax is the label and whose
# maximum is the confidence. Settings are those under the function's name in the masks entry.
MASK_REFINEMENTS: dict[str, Callable[[np.ndarray, np.ndarray, dict], np.ndarray]] = {
    "none": no_refinement,
    "crf": crf,
}
