"""Dense CRF of full-resolution scores (docs/parity.md, fact 15)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from clip_wsss.core.maps import HALVES
from clip_wsss.core.memory import check_memory
from clip_wsss.core.settings import Positive, Settings
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.fast_crf import MeanField, exact, fast

BGR_MEAN = (104.008, 116.669, 122.675)  # Caffe's, of the images of ImageNet
_log = logging.getLogger(__name__)

# The lattice counts in deviations; below this its coordinates leave pydensecrf's integers.
Deviation = Annotated[float, Field(ge=1e-3)]


class CrfSettings(Settings):
    """Dense CRF; the numbers are CLIP-ES's."""

    backend: Literal["pydensecrf", "fast", "torch"] = Field(
        "pydensecrf",
        description="the reference; or its labels several times as fast; or likewise on a GPU",
    )
    image: Literal["rgb", "wrapped-bgr"] = Field(
        "rgb", description="what it sees; wrapped-bgr as in the public code"
    )
    iterations: Annotated[int, Field(ge=1)] = Field(10, description="of the mean field")
    gaussian_sxy: Deviation = Field(1.0, description="deviation in pixels of the smoothness kernel")
    gaussian_compat: Positive = Field(3.0, description="weight of the smoothness kernel")
    bilateral_sxy: Deviation = Field(67.0, description="deviation in pixels of the colour kernel")
    bilateral_srgb: Deviation = Field(3.0, description="its deviation in grey levels")
    bilateral_compat: Positive = Field(4.0, description="weight of the colour kernel")


def crf(context: MaskContext, settings: CrfSettings) -> np.ndarray:
    """Label probabilities (1 + K, H, W) float32, which sum to 1 over the labels."""
    (image,), field = _prepared([context], settings)
    energies = unary(context.scores)
    if settings.backend == "pydensecrf":
        return exact(energies, image, field)
    fallbacks: list[str] = []
    if settings.backend == "torch":
        from clip_wsss.masks import torch_crf

        (refined,) = torch_crf.torch_crf([energies], [image], field, context.device, fallbacks)
    else:
        refined = fast(energies, image, field, fallbacks)
    _say(fallbacks, [context])
    return refined


def decided_crfs(
    contexts: Sequence[MaskContext], settings: CrfSettings
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Label and code of the confidence of several images, by the backend torch on its device.

    Returns:
        For each image the place of the label, 0..K, and the code, (H, W) uint8 each.
    """
    from clip_wsss.masks import torch_crf

    images, field = _prepared(contexts, settings)
    fallbacks: list[str] = []
    halves = contexts[0].scores.dtype == np.float16  # whose energies the device looks up
    unaries = [one.scores.reshape(len(one.scores), -1) for one in contexts]
    unaries = unaries if halves else [unary(scores) for scores in unaries]
    energies = half_energies() if halves else None
    found = torch_crf.decided_crf(unaries, images, field, contexts[0].device, energies, fallbacks)
    _say(fallbacks, contexts)
    return found


def _prepared(
    contexts: Sequence[MaskContext], settings: CrfSettings
) -> tuple[list[np.ndarray], MeanField]:
    """What the CRF sees of the images, which fit into memory, and its numbers."""
    for context in contexts:
        (labels, height, width), exactly = context.scores.shape, settings.backend == "pydensecrf"
        needed = height * width * (400 + 100 * labels if exactly else 250 + 30 * labels)
        what = f"{context.id or 'image'}: a CRF of {width} x {height} pixels and {labels} labels"
        instead = "use the backend fast, " if exactly else ""
        check_memory(needed, what, f"{instead}scale the image down, or leave it out")
    images = [crf_image(context.image, settings.image) for context in contexts]
    return images, MeanField(**settings.model_dump(exclude={"backend", "image"}))


def _say(fallbacks: Sequence[str], contexts: Sequence[MaskContext]) -> None:
    for reason in fallbacks:
        _log.warning("fast CRF: pydensecrf did one of %s: %s", _names(contexts), reason)


# A refinement with these decides several images at once, label and code, where `batches` says so.
crf.batch = decided_crfs  # type: ignore[attr-defined]  # a function may have attributes
crf.batches = lambda settings: settings.backend == "torch"  # type: ignore[attr-defined]  # likewise


def unary(scores: np.ndarray) -> np.ndarray:
    """Energies (C, H * W) float32: -log in the scores' dtype, as both public codes take it."""
    scores = np.ascontiguousarray(scores).reshape(len(scores), -1)
    if scores.dtype == np.float16:  # which numpy is slow with
        return half_energies()[scores.view(np.uint16)]
    return _energies(scores)


@cache
def half_energies() -> np.ndarray:
    """The energies of all float16, in the order of their bits: (65536,) float32."""
    with np.errstate(invalid="ignore"):  # NaN are among them
        return _energies(HALVES)


def _energies(scores: np.ndarray) -> np.ndarray:
    energies = -np.log(np.clip(scores, scores.dtype.type(1e-5), scores.dtype.type(1)))
    return energies.astype(np.float32)


def _names(contexts: Sequence[MaskContext]) -> str:
    return ", ".join(one.id or "{} x {}".format(*one.size[::-1]) for one in contexts)


def crf_image(rgb: np.ndarray, kind: str) -> np.ndarray:
    """What the CRF sees of an image (H, W, 3) uint8.

    `rgb` is the image itself. `wrapped-bgr` is the public code's slip: BGR minus Caffe's mean,
    cut to integers, negative ones wrapped to the other end of 0..255.
    """
    if kind == "rgb":
        return np.array(rgb, order="C")  # a copy: pydensecrf refuses read-only pixels
    shifted = rgb[..., ::-1].astype(np.float32) - np.array(BGR_MEAN, dtype=np.float32)
    return np.ascontiguousarray((shifted.astype(np.int32) & 255).astype(np.uint8))
