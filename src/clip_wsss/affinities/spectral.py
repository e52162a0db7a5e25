"""The spectral inverse of DFA (CVPR 2026), which gives edges back that attention smooths.

The paper is known here by a note: attention is a low-pass filter W, its spectral inverse has no
parameters and restores what is high in frequency. Which inverse and how both are joined is not
said; the reading is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from clip_wsss.affinities.attention import sinkhorn
from clip_wsss.affinities.propagation import PropagationSettings, refined
from clip_wsss.affinities.sources import AttentionSettings, attention_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class SpectralSettings(AttentionSettings, PropagationSettings):
    """CAA and the spectral inverse of its affinity."""

    inverse: float = Field(1.0, ge=0, description="weight of the inverse; 0: CAA")


def spectral(context: MapContext, settings: SpectralSettings) -> Tensor:
    """y + inverse * (D - W) y of CAA's y = W^t x, no less than 0: (K, gh, gw) float64.

    W is Sinkhorn's affinity, D its row sums, which are about 1: so D - W passes what W stops
    (spectral inversion of a filter), and an even map has none of it.
    """
    attention = attention_of(context, settings)
    low = refined(context, attention, settings)
    affinity, flat = sinkhorn(attention, settings.sinkhorn), low.flatten(1)
    high = flat * affinity.sum(dim=1) - flat @ affinity  # W is symmetric
    return (flat + settings.inverse * high).clamp(min=0).reshape(low.shape)
