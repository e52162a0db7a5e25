"""Propagation along the likeness of patch features, a baseline without attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from clip_wsss.affinities.propagation import PropagationSettings, refined
from clip_wsss.core.names import Names

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class CosineSettings(PropagationSettings):
    """Feature cosine in the place of attention."""

    tau: float = Field(0.1, gt=0, description="temperature of the softmax over the patches")
    tower: Annotated[str, Names("model")] | None = Field(
        None, description="entry of `models` whose features are used; null: the CAM's own tower"
    )


def cosine(context: MapContext, settings: CosineSettings) -> Tensor:
    """CAA along softmax(f_i . f_j / tau) of the normalised patch features: (K, gh, gw) float64."""
    from clip_wsss.cams.context import fitted

    source = context if settings.tower is None else context.tower_of(settings.tower)
    features = source.features.double()
    likeness = (features @ features.T / settings.tau).softmax(dim=1)
    if source.grid != context.grid:
        likeness = fitted(likeness, source.grid, context.grid)
    return refined(context, likeness, settings)
