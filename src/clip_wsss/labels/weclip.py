"""WeCLIP's labels: GradCAM, propagated along attention, refined by PAR (docs/weclip.md).

Each slip of the public code is a setting of its own; the defaults are the public code's for VOC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from clip_wsss.core.settings import Settings
from clip_wsss.masks.refinements.par import ParSettings

if TYPE_CHECKING:
    from torch import Tensor


class ScoreSettings(Settings):
    """How scores are made of CAMs, and labels of scores."""

    padding: Literal["labelled", "ignored"] = Field(
        "labelled", description="fact 3: what becomes of the canvas around a small image"
    )
    target: Literal["softmax", "logit"] = Field("softmax", description="of GradCAM")
    background_power: float = Field(1.0, gt=0, description="of 1 - max")
    refinement: Literal["none", "par"] = Field("par", description="of the scores at full size")
    par: ParSettings = Field(ParSettings(), description="of refinement: par")


class DynamicSettings(Settings):
    """What only labels that are made online have."""

    dynamic_layers: int = Field(
        6, ge=1, description="last attention maps that the decoder's affinity selects from later"
    )
    dynamic_start: int = Field(
        15000, ge=0, description="forward passes before the decoder's affinity is used"
    )
    validation_every: int = Field(
        2000,
        ge=0,
        description="fact 11: steps between validations that count as passes; 0: none do",
    )
    validation_images: int = Field(1464, ge=0, description="fact 11: passes of one validation")
    filter: Literal["signed", "absolute"] = Field(
        "signed", description="fact 10: distance of an attention map to the affinity"
    )

    def passes(self, update: int) -> int:
        """The forward counter in update 1, 2, ... of a training."""
        validations = (update - 1) // self.validation_every if self.validation_every else 0
        return update + validations * self.validation_images

    def is_dynamic(self, update: int | None) -> bool:
        """Whether the decoder's affinity takes part in update 1, 2, ...; None: after them all."""
        return update is None or self.passes(update) > self.dynamic_start


class LabelSettings(ScoreSettings, DynamicSettings):
    """How the pseudo labels of a batch are made."""

    static_layers: int = Field(8, ge=1, description="last attention maps averaged at first")
    sinkhorn: int = Field(3, ge=0, description="rounds of dividing by column and row sums")
    power: int = Field(2, ge=0, description="how often the affinity is applied")
    threshold: float = Field(0.4, ge=0, le=1, description="of a box, as a share of the maximum")
    box_edge: Literal["clamp", "full"] = Field(
        "clamp", description="fact 12: whether boxes reach the last row and column"
    )


def weclip(texts: tuple[Tensor, Tensor], settings: LabelSettings) -> Callable:
    """The maker: features of the classes (C, E) and of the background words (M, E) -> labels.

    Returns:
        `clip_wsss.labels.weclip_labels.WeCLIPLabels`.
    """
    from clip_wsss.labels.weclip_labels import WeCLIPLabels

    return WeCLIPLabels(settings, texts)


weclip.final = True  # type: ignore[attr-defined]  # what it returns has it
