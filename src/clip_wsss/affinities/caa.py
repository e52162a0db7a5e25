"""CAA, the class-aware attention-based affinity of CLIP-ES.

SSR's SGC (arXiv 2512.01701) is CAA of two towers with another mask: masking the columns of an
affinity is masking the map. `power: 1`, `mask: superpixels`, `weight: 0.4`, and a DINO `mixed` in
with 0.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clip_wsss.affinities.propagation import PropagationSettings, refined, refined_all
from clip_wsss.affinities.sources import AttentionSettings, attention_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext


class CaaSettings(AttentionSettings, PropagationSettings):
    """CAA; the defaults are the paper's, of the corrected code."""


def caa(context: MapContext, settings: CaaSettings) -> Tensor:
    """Class-aware attention-based affinity (paper, equation 7): (K, gh, gw) float64 >= 0."""
    return refined(context, attention_of(context, settings), settings)


def caas(contexts: Sequence[MapContext], settings: CaaSettings) -> Tensor:
    """`caa` of several images of one grid, but for its last bits: their maps in one row."""
    attention = [attention_of(context, settings) for context in contexts]
    return refined_all(contexts, attention, settings)


# A GPU, which waits for launches otherwise, is given all images of a batch at once.
caa.batch = caas  # type: ignore[attr-defined]  # a function may have attributes
