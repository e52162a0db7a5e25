"""Refinement of full-resolution scores by the image.

A new mask refinement is one function in `MASK_REFINEMENTS`. No CAM depends on this file, so that
one costs no forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from clip_wsss.masks.fast_crf import exact, fast

BGR_MEAN = (104.008, 116.669, 122.675)  # Caffe's, of the images of ImageNet

_NUMBERS = (
    "iterations",
    "gaussian_sxy",
    "gaussian_compat",
    "bilateral_sxy",
    "bilateral_srgb",
    "bilateral_compat",
)
_log = logging.getLogger(__name__)


def no_refinement(scores: np.ndarray, rgb: np.ndarray, settings: dict) -> np.ndarray:
    """The scores as they are: their maximum is the confidence."""
    return scores.astype(np.float32)


def crf(scores: np.ndarray, rgb: np.ndarray, settings: dict) -> np.ndarray:
    """Dense CRF (docs/parity.md, fact 15).

    Args and returns: as for every function of `MASK_REFINEMENTS`. Settings: backend (pydensecrf,
    the reference, or fast, with its labels), image (rgb or wrapped-bgr), iterations, gaussian_sxy,
    gaussian_compat, bilateral_sxy, bilateral_srgb, bilateral_compat.
    """
    count, height, width = scores.shape
    # -log in float16 and only then float32, as in the public code.
    unary = -np.log(np.clip(scores, np.float16(1e-5), np.float16(1)))
    unary = np.ascontiguousarray(unary.reshape(count, -1).astype(np.float32))
    image = crf_image(rgb, settings["image"])
    numbers = {key: settings[key] for key in _NUMBERS}
    if settings["backend"] == "pydensecrf":
        return exact(unary, image, **numbers)
    fallbacks: list[str] = []
    refined = fast(unary, image, **numbers, fallbacks=fallbacks)
    for reason in fallbacks:
        _log.warning("fast CRF: pydensecrf did an image of %d x %d: %s", width, height, reason)
    return refined


def crf_image(rgb: np.ndarray, kind: str) -> np.ndarray:
    """What the CRF sees of an image (H, W, 3) uint8.

    `rgb` is the image itself. `wrapped-bgr` is the public code's slip: BGR minus Caffe's mean,
    cut to integers, negative ones wrapped to the other end of 0..255.
    """
    if kind == "rgb":
        return np.array(rgb, order="C")  # a copy: pydensecrf refuses read-only pixels
    shifted = rgb[..., ::-1].astype(np.float32) - np.array(BGR_MEAN, dtype=np.float32)
    return np.ascontiguousarray((shifted.astype(np.int32) & 255).astype(np.uint8))


def par(scores: np.ndarray, rgb: np.ndarray, settings: dict) -> np.ndarray:
    """Pixel-adaptive refinement (`masks.par`), as WeCLIP's labels take it; torch runs it."""
    from clip_wsss.masks.par import par as refine

    return refine(scores, rgb, settings)


# fn(scores (1 + K, H, W) float16 in [0, 1], background first, not normalised,
#    rgb (H, W, 3) uint8, settings) -> (1 + K, H, W) float32, whose argmax is the label and whose
# maximum is the confidence. Settings are those under the function's name in the masks entry.
MASK_REFINEMENTS: dict[str, Callable[[np.ndarray, np.ndarray, dict], np.ndarray]] = {
    "none": no_refinement,
    "crf": crf,
    "par": par,
}
