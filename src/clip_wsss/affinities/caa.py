"""CAA, the class-aware attention-based affinity of CLIP-ES."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from clip_wsss.affinities.attention import propagate
from clip_wsss.affinities.box_rule import box_masks
from clip_wsss.core.methods import Names, Settings

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class CaaSettings(Settings):
    """CAA; the defaults are the paper's, of the corrected code."""

    layers: Annotated[int, Field(ge=1)] = Field(
        8, description="attention maps averaged: of the last n"
    )
    sinkhorn: Annotated[int, Field(ge=0)] = Field(
        3, description="rounds of column, then row normalisation"
    )
    power: Annotated[int, Field(ge=1)] = Field(2, description="t of equation 7")
    threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.4, description="lambda: boxes around what is above this share of the maximum"
    )
    box_edge: Literal["full", "clamp"] = Field(
        "full", description="clamp: never the last row and column, as in the public code"
    )
    tower: Annotated[str, Names("model")] | None = Field(
        None, description="entry of `models` whose attention is used; null: the CAM's own tower"
    )


def caa(context: MapContext, settings: CaaSettings) -> Tensor:
    """Class-aware attention-based affinity (paper, equation 7): (K, gh, gw) float64 >= 0."""
    source = context if settings.tower is None else context.tower_of(settings.tower)
    mean = source.mean_attention(settings.layers, context.grid)
    assert context.maps is not None  # what an affinity refines
    masks = box_masks(context.maps, settings.threshold, settings.box_edge)
    return propagate(context.maps, mean, masks, settings.sinkhorn, settings.power)
