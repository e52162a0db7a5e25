"""PAMR, pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020), which PAR comes from.

Torch is imported when it runs, so that whoever lists the mask refinements does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from clip_wsss.core.settings import Settings
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.refinements.par import diffused, neighbours, shifted

if TYPE_CHECKING:
    from torch import Tensor


class PamrSettings(Settings):
    """Settings of PAMR; the defaults are the paper's for VOC."""

    iterations: int = Field(
        10, ge=0, description="how often every pixel takes its neighbours' mean"
    )
    dilations: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 2, 4, 8, 12, 24], min_length=1, description="distances of the neighbours in pixels"
    )
    contrast: float = Field(0.1, gt=0, description="deviations of colour that count as near")


def pamr(context: MaskContext, settings: PamrSettings) -> np.ndarray:
    """PAMR as a mask refinement: (1 + K, H, W) float32 in [0, 1].

    A score becomes sum_j a_j score_j over the neighbours j of each pixel i, again and again;
    a = softmax_j(mean over the channels of -|I_i - I_j| / (contrast * s_i)), s_i the deviation of
    the colours around i, its own among them.
    """
    import torch

    scores = torch.from_numpy(np.asarray(context.scores, dtype=np.float32)).to(context.device)
    colours = np.array(context.image.transpose(2, 0, 1), dtype=np.float32)
    steps = neighbours(settings.dilations)
    with torch.no_grad():
        weights = _weights(torch.from_numpy(colours).to(context.device), steps, settings)
        refined = diffused(scores, steps, weights, settings.iterations)
    return refined.clamp(0, 1).cpu().numpy()  # sums of rounded weights


def _weights(image: Tensor, steps: list[tuple[int, int]], settings: PamrSettings) -> Tensor:
    """(neighbours, H, W): what each neighbour of a pixel counts; they sum to 1."""
    import torch
    import torch.nn.functional as F

    size, pad = (image.shape[1], image.shape[2]), max(settings.dilations)
    canvas = F.pad(image[None], (pad,) * 4, mode="replicate")[0]
    count = 9 * len(settings.dilations)  # each distance counts the pixel itself once
    mean, square = torch.zeros_like(image), torch.zeros_like(image)
    for step in steps:
        apart = shifted(canvas, step, pad, size) - image
        mean += apart
        square += apart.square()
    deviation = ((square - mean.square() / count) / (count - 1)).clamp_(min=0).sqrt_()
    scale = 1 / (settings.contrast * deviation + 1e-8)
    near = [
        ((shifted(canvas, step, pad, size) - image).abs() * scale).mean(dim=0) for step in steps
    ]
    return torch.stack(near).neg_().softmax(dim=0)
