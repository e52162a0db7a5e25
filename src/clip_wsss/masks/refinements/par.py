"""PAR, pixel-adaptive refinement: scores spread to neighbours of like colour (docs/weclip.md).

Torch is imported when it runs, so that whoever lists the mask refinements does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from clip_wsss.core.settings import Settings
from clip_wsss.masks.context import MaskContext

if TYPE_CHECKING:
    from torch import Tensor

DIRECTIONS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


class ParSettings(Settings):
    """Settings of PAR; the defaults are WeCLIP's."""

    iterations: int = Field(
        20, ge=0, description="how often every pixel takes its neighbours' mean"
    )
    dilations: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 2, 4, 8, 12, 24], min_length=1, description="distances of the neighbours in pixels"
    )
    contrast: float = Field(0.3, gt=0, description="w1: deviations of colour that count as near")
    position_weight: float = Field(0.01, ge=0, description="w2: share of the distance")


def par(context: MaskContext, settings: ParSettings) -> np.ndarray:
    """PAR as a mask refinement: (1 + K, H, W) float32 in [0, 1].

    Each iteration multiplies by 1 + `position_weight`; that is divided out, so that scores in
    [0, 1] stay there.
    """
    import torch

    maps = torch.from_numpy(np.asarray(context.scores, dtype=np.float32)).to(context.device)
    colours = np.array(context.image.transpose(2, 0, 1), dtype=np.float32)
    refined = spread(maps, torch.from_numpy(colours).to(context.device), settings)
    refined = refined / (1 + settings.position_weight) ** settings.iterations
    return refined.clamp(0, 1).cpu().numpy()


def spread(maps: Tensor, image: Tensor, settings: ParSettings) -> Tensor:
    """The maps after some rounds of map <- sum_j k_j map_j over the neighbours j of each pixel.

    k = softmax_j(colour) + w2 softmax_j(distance), which sums to 1 + w2; the pixel itself has no
    weight, and beyond the border the outermost pixels are repeated.

    Args:
        maps: (K, H, W) float32.
        image: (3, h, w) in any scale of its channels, which cancels out; it is resized to the
            maps.
        settings: see `ParSettings`.

    Returns:
        (K, H, W) float32.
    """
    import torch
    import torch.nn.functional as F

    height, width = maps.shape[1:]
    pad = max(settings.dilations)
    steps = neighbours(settings.dilations)
    with torch.no_grad(), torch.autocast(maps.device.type, enabled=False):
        image = F.interpolate(
            image[None].float(), (height, width), mode="bilinear", align_corners=True
        )[0]
        weights = _weights(image, steps, pad, settings)
        return diffused(maps, steps, weights, settings.iterations)


def neighbours(dilations: Sequence[int]) -> list[tuple[int, int]]:
    """Where the eight neighbours at each distance lie: (dy, dx)."""
    return [(r * dy, r * dx) for r in dilations for dy, dx in DIRECTIONS]


def diffused(
    maps: Tensor, steps: list[tuple[int, int]], weights: Tensor, iterations: int
) -> Tensor:
    """The maps after some rounds in which a pixel becomes the weighted sum of its neighbours.

    Args:
        maps: (K, H, W) float32.
        steps: where the n neighbours lie, (dy, dx) pixels from one; beyond the border the outermost
            pixels are repeated.
        weights: (n, H, W) float32, what each counts.
        iterations: rounds.
    """
    import torch
    import torch.nn.functional as F

    size, pad = (maps.shape[1], maps.shape[2]), max(max(step) for step in steps)
    for _ in range(iterations):
        canvas = F.pad(maps[None], (pad,) * 4, mode="replicate")[0]
        maps = torch.zeros_like(maps)
        for step, own in zip(steps, weights, strict=True):
            maps.addcmul_(own, shifted(canvas, step, pad, size))
    return maps


def _weights(
    image: Tensor, steps: list[tuple[int, int]], pad: int, settings: ParSettings
) -> Tensor:
    """(neighbours, H, W): what each neighbour of a pixel counts."""
    import torch
    import torch.nn.functional as F

    size = (image.shape[1], image.shape[2])
    canvas = F.pad(image[None], (pad,) * 4, mode="replicate")[0]
    mean, square = torch.zeros_like(image), torch.zeros_like(image)
    for step in steps:  # differences to the pixel itself lose fewer digits than the colours
        mean += shifted(canvas, step, pad, size) - image
    mean /= len(steps)
    for step in steps:
        square += (shifted(canvas, step, pad, size) - image - mean).square_()
    deviation = (square / (len(steps) - 1)).sqrt_()  # (3, H, W)
    scale = 1 / ((deviation + 1e-8) * settings.contrast)
    colour = image.new_empty(len(steps), *size)
    for own, step in zip(colour, steps, strict=True):
        apart = (shifted(canvas, step, pad, size) - image).mul_(scale)
        torch.mean(apart.square_(), dim=0, out=own)
    radius = torch.tensor(steps, dtype=torch.float32).norm(dim=1)
    distance = (radius / (radius.std() + 1e-8) / settings.contrast).square()
    near = settings.position_weight * (-distance).softmax(dim=0).to(image.device)
    return colour.neg_().softmax(dim=0).add_(near[:, None, None])


def shifted(canvas: Tensor, step: tuple[int, int], pad: int, size: tuple[int, int]) -> Tensor:
    """What lies `step` = (dy, dx) from every pixel, a view of the canvas that `pad` has widened."""
    y, x = pad + step[0], pad + step[1]
    return canvas[:, y : y + size[0], x : x + size[1]]
