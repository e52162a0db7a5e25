"""What affinities share: the mask of the maps, Sinkhorn's normalisation, and the power."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from clip_wsss.affinities.attention import propagate, propagate_all
from clip_wsss.affinities.box_rule import box_mask, box_masks
from clip_wsss.affinities.superpixels import SuperpixelSettings, superpixel_masks
from clip_wsss.core.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext

Mask = Literal["boxes", "superpixels", "none"]
_log = logging.getLogger(__name__)


class MaskSettings(Settings):
    """What of the maps is propagated."""

    mask: Mask = Field(
        "boxes", description="boxes around what is active; superpixels that hold it; or all"
    )
    threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="lambda: boxes around what is above this share of the maximum"
    )
    box_edge: Literal["full", "clamp"] = Field(
        "full", description="clamp: never the last row and column, as in the public code"
    )
    superpixels: SuperpixelSettings = Field(
        SuperpixelSettings(), description="of mask: superpixels"
    )


class PropagationSettings(MaskSettings):
    """How maps spread along an attention map."""

    sinkhorn: Annotated[int, Field(ge=0, le=1000)] = Field(
        3, description="rounds of column, then row normalisation"
    )
    power: Annotated[int, Field(ge=1)] = Field(2, description="t of equation 7")


def masks_of(context: MapContext, settings: MaskSettings) -> np.ndarray:
    """The mask of each class's map: (K, gh, gw) uint8.

    A class whose superpixels are all left out gets its boxes; the log says so, a line each, but for
    an image without an id, which is one of a training.
    """
    assert context.maps is not None  # what an affinity refines
    if settings.mask == "none":
        return np.ones(tuple(context.maps.shape), np.uint8)
    if settings.mask == "boxes":
        return box_masks(context.maps, settings.threshold, settings.box_edge)
    masks = superpixel_masks(context, settings.superpixels)
    for place in np.flatnonzero(~masks.any(axis=(1, 2))):
        own = context.maps[place].cpu().numpy()
        masks[place] = box_mask(own, settings.threshold, settings.box_edge)
        key = context.keys[int(place)]
        if context.id:
            _log.warning("%s: superpixels: no region of class %d is kept; boxes", context.id, key)
    return masks


def refined(context: MapContext, attention: Tensor, settings: PropagationSettings) -> Tensor:
    """The masked maps of a context spread along an attention map (N, N): (K, gh, gw) float64."""
    assert context.maps is not None  # what an affinity refines
    masks = masks_of(context, settings)
    return propagate(context.maps, attention, masks, settings.sinkhorn, settings.power)


def refined_all(
    contexts: Sequence[MapContext], attention: Sequence[Tensor], settings: PropagationSettings
) -> Tensor:
    """`refined` of images of one grid, an attention map each: (sum of K, gh, gw) float64."""
    import torch

    maps = [context.maps for context in contexts if context.maps is not None]
    together = torch.cat(maps)
    if settings.mask == "boxes":  # one transfer from the device
        masks = box_masks(together, settings.threshold, settings.box_edge)
    else:
        masks = np.concatenate([masks_of(context, settings) for context in contexts])
    counts = [len(own) for own in maps]
    return propagate_all(
        together, torch.stack([*attention]), masks, counts, settings.sinkhorn, settings.power
    )
