"""Dense CRF of full-resolution scores (docs/parity.md, fact 15)."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from clip_wsss.core.methods import Settings
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.fast_crf import exact, fast

BGR_MEAN = (104.008, 116.669, 122.675)  # Caffe's, of the images of ImageNet
Positive = Annotated[float, Field(gt=0)]
_log = logging.getLogger(__name__)


class CrfSettings(Settings):
    """Dense CRF; the numbers are CLIP-ES's."""

    backend: Literal["pydensecrf", "fast"] = Field(
        "pydensecrf", description="the reference, or the same labels several times as fast"
    )
    image: Literal["rgb", "wrapped-bgr"] = Field(
        "rgb", description="what it sees; wrapped-bgr as in the public code"
    )
    iterations: Annotated[int, Field(ge=1)] = Field(10, description="of the mean field")
    gaussian_sxy: Positive = Field(1.0, description="deviation in pixels of the smoothness kernel")
    gaussian_compat: Positive = Field(3.0, description="weight of the smoothness kernel")
    bilateral_sxy: Positive = Field(67.0, description="deviation in pixels of the colour kernel")
    bilateral_srgb: Positive = Field(3.0, description="its deviation in grey levels")
    bilateral_compat: Positive = Field(4.0, description="weight of the colour kernel")


def crf(context: MaskContext, settings: CrfSettings) -> np.ndarray:
    """Label probabilities (1 + K, H, W) float32, which sum to 1 over the labels."""
    count, height, width = context.scores.shape
    # -log in float16 and only then float32, as in the public code.
    unary = -np.log(np.clip(context.scores, np.float16(1e-5), np.float16(1)))
    unary = np.ascontiguousarray(unary.reshape(count, -1).astype(np.float32))
    image = crf_image(context.image, settings.image)
    numbers = settings.model_dump(exclude={"backend", "image"})
    if settings.backend == "pydensecrf":
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
