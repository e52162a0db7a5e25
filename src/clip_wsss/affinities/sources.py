"""Which attention an affinity goes by: the kind, the blocks, the tower, and mixtures of them.

Torch is not imported here but by the job: a plan reads the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from clip_wsss.core.errors import InputError
from clip_wsss.core.names import Names
from clip_wsss.core.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class SourceSettings(Settings):
    """Some blocks' attention maps of one kind, averaged."""

    layers: Annotated[int, Field(ge=1)] = Field(
        8, description="attention maps averaged: of the last n"
    )
    blocks: Annotated[list[int], Field(min_length=1)] | None = Field(
        None, description="the blocks averaged instead: 0 the first, -1 the last"
    )
    attention: Literal["qk", "qq", "kk", "vv"] = Field(
        "qk", description="of queries and keys, or of one of them, or the values, with itself"
    )
    tower: Annotated[str, Names("model")] | None = Field(
        None, description="entry of `models` whose attention is used; null: the CAM's own tower"
    )
    weight: float = Field(1.0, gt=0, description="share in the mixture")


class AttentionSettings(SourceSettings):
    """Attention of one source, or the weighted mean of several."""

    mixed: list[SourceSettings] = Field([], description="further sources")


def attention_of(context: MapContext, settings: AttentionSettings) -> Tensor:
    """The weighted mean of the sources' maps on the grid of the context: (N, N) float64.

    Maps of a tower with other patches are resized (`clip_wsss.cams.context.fitted`).

    Raises:
        InputError: a block that a tower does not have, or one named twice.
    """
    sources = [settings, *settings.mixed]
    total = sum(one.weight for one in sources)
    mixed = sources[0].weight / total * _source(context, sources[0])
    for one in sources[1:]:
        mixed += one.weight / total * _source(context, one)
    return mixed


def _source(context: MapContext, settings: SourceSettings) -> Tensor:
    """The mean map of one source: (N, N) float64."""
    from clip_wsss.cams.context import fitted

    source = context if settings.tower is None else context.tower_of(settings.tower)
    if settings.attention == "qk" and settings.blocks is None:
        return source.mean_attention(settings.layers, context.grid)
    if settings.blocks is None:
        blocks: Sequence[int] = range(-source.last_blocks(settings.layers), 0)
    else:
        blocks, own = settings.blocks, source.tower.layers
        if len({one % own if -own <= one < own else one for one in blocks}) < len(blocks):
            raise InputError(
                f"attention: blocks {blocks} names a block of the {own} twice; keep one of it"
            )
    key = ("mean attention", settings.attention, *blocks)
    mean = source.once(key, lambda: _mean(source, blocks, settings.attention))
    return mean if source.grid == context.grid else fitted(mean, source.grid, context.grid)


def _mean(
    source: MapContext, blocks: Sequence[int], kind: Literal["qk", "qq", "kk", "vv"]
) -> Tensor:
    import torch

    return torch.stack([source.attention(one, kind) for one in blocks]).mean(
        dim=0, dtype=torch.float64
    )
