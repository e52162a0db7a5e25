"""SSR's labels: WeCLIP's, by CAMs of aligned features and the affinity of the row (docs/ssr.md).

There is no public code, and the paper (arXiv 2512.01701) leaves much open. What it does not say is
a setting, whose default is our reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from clip_wsss.core.settings import Settings
from clip_wsss.labels.weclip import ScoreSettings

if TYPE_CHECKING:
    from torch import Tensor


class CmpaSettings(Settings):
    """The cross-modal prototype alignment."""

    width: int = Field(256, ge=1, description="of the aligned features; not in the paper")
    depth: int = Field(
        2, ge=1, description="layers of ISA and of TSA, linear, BN and ReLU each; not in the paper"
    )
    last: Literal["linear", "relu"] = Field(
        "linear", description="whether the last of these layers is linear alone; not in the paper"
    )
    residual: bool = Field(
        False,
        description="whether ISA and TSA add to CLIP's features, from 0 on: width is then of the "
        "hidden layers, and the last is linear; not in the paper",
    )
    normalise: bool = Field(
        True, description="aligned features and prototypes have length 1; not in the paper"
    )
    every: int = Field(5000, ge=1, description="iterations from one clustering to the next")
    rounds: int = Field(
        100, ge=0, description="of k-means at most; 0: prototypes are the means of the classes"
    )
    pseudo_label: Literal["class", "cluster"] = Field(
        "class", description="a sample's prototype: that of its class, or of the cluster it fell in"
    )
    pooled_from: float = Field(
        0.0, ge=0, lt=1, description="patches whose CAM is below this are not pooled"
    )
    tau: float = Field(0.05, gt=0, description="temperature of the loss and of GradCAM's score")
    learn_tau: bool = Field(False, description="tau is where training starts")
    text_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="of the loss: texts against the images' prototypes; 0: the paper's formula",
    )
    prototype_weight: float = Field(1.0, ge=0, description="of this loss in the whole")
    label_weight: float = Field(0.1, ge=0, description="of the loss on the labels in the whole")
    score: Literal["projected", "clip"] = Field(
        "projected", description="what GradCAM differentiates: of aligned features, or of CLIP's"
    )
    projected_start: int = Field(
        5000, ge=0, description="updates before aligned features are scored; until then CLIP's"
    )

    @model_validator(mode="after")
    def _last_is_heard(self) -> Self:
        if self.residual and self.last == "relu":
            raise ValueError(
                "last: relu: with residual: true the last layer is linear; leave it out"
            )
        return self


class SsrSettings(CmpaSettings, ScoreSettings):
    """How SSR's labels are made; refinement and padding as in WeCLIP."""

    affinity: dict[str, Any] = Field(
        {"method": "caa"}, description="refines the CAMs: the method and its settings"
    )


def ssr(texts: tuple[Tensor, Tensor], settings: SsrSettings) -> Callable:
    """The maker: features of the classes (C, E) and of the background words (M, E) -> labels.

    Returns:
        `clip_wsss.labels.ssr_labels.SSRLabels`.
    """
    from clip_wsss.labels.ssr_labels import SSRLabels

    return SSRLabels(settings, texts)


ssr.final = True  # type: ignore[attr-defined]  # what it returns has it
