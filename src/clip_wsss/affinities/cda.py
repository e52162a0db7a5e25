"""CDA, the class-distribution-aware affinity of CD-CLIP (CVPR 2026), which needs no training.

Patches of a class have like distributions over all texts. The paper is known here by a note that
leaves open the distributions, tau and the kind of product: they are settings, and the reading is
ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from clip_wsss.affinities.propagation import Mask, PropagationSettings, refined
from clip_wsss.affinities.sources import AttentionSettings, attention_of

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.cams.context import MapContext
    from clip_wsss.models.tower import Clip


class CdaSettings(AttentionSettings, PropagationSettings):
    """CDA; its published figure is better without boxes (80.3 against 76.8 on VOC train)."""

    mask: Mask = Field(
        "none", description="boxes around what is active; superpixels that hold it; or all"
    )
    tau: float = Field(1.0, gt=0, description="temperature of the softmax over the patches")
    scores: Literal["logits", "min-max"] = Field(
        "logits",
        description="of a patch and the texts, softmaxed: CLIP's logits, or cosines scaled to "
        "[0, 1] within each text",
    )
    product: Literal["elements", "matrix"] = Field("elements", description="with the attention map")


def cda(context: MapContext, settings: CdaSettings) -> Tensor:
    """Maps spread along softmax_j((1 - JS(p_i, p_j)) / tau) times attention.

    p is a patch's distribution over the image's classes and the background words, JS in nats (in
    bits it is another tau).

    Returns:
        (K, gh, gw) float64 >= 0.
    """
    likeness = ((1 - divergence(distributions(context, settings))) / settings.tau).softmax(dim=1)
    attention = attention_of(context, settings)
    both = likeness * attention if settings.product == "elements" else likeness @ attention
    return refined(context, both, settings)


def distributions(context: MapContext, settings: CdaSettings) -> Tensor:
    """A distribution of every patch over the K + M texts: (N, K + M) float64."""
    import torch

    assert context.texts is not None  # a CAM is made with a CLIP
    assert context.background is not None
    texts = torch.cat([context.texts, context.background]).double()
    scores = context.features.double() @ texts.T
    if settings.scores == "logits":
        return (cast("Clip", context.tower).logit_scale * scores).softmax(dim=1)
    scores = scores - scores.amin(dim=0)
    return (scores / scores.amax(dim=0).clamp(min=1e-12)).softmax(dim=1)


def divergence(p: Tensor) -> Tensor:
    """Jensen-Shannon divergence of all pairs of (N, T) distributions: (N, N), 0 to log 2.

    H((p_i + p_j) / 2) - (H(p_i) + H(p_j)) / 2, one text after the other, since (N, N, T) would
    not fit for a photograph.
    """
    import torch

    own = torch.special.entr(p).sum(dim=1)
    mean = p.new_zeros(len(p), len(p))
    for column in p.T:
        mean += torch.special.entr((column[:, None] + column) / 2)
    return (mean - (own[:, None] + own) / 2).clamp_(min=0)
