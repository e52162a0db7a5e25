"""Settings of a training that a frozen CLIP teaches (CLIP-ZSS, arXiv 2310.02296).

There is no public code, and we had no table of the paper. What it does not say is a setting, whose
default is our reading (docs/zero-shot.md).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clip_wsss.core.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]


class GlmSettings(Settings):
    """The global learning module: an image's pooled pixels are CLIP's feature of it."""

    weight: float = Field(1.0, ge=0, description="of L_global in the whole")
    tau: float = Field(0.07, gt=0, description="temperature of its InfoNCE; our choice")
    bank: int = Field(
        256, ge=0, description="earlier CLS features that are negatives too; our choice"
    )
    normalise: bool = Field(True, description="pooled pixels have length 1 in the loss; our choice")
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="over the batch; sum: the paper's formula"
    )


class RegionSettings(Settings):
    """Pseudo regions of an image from the tokens of the frozen CLIP alone."""

    tokens: Literal["values", "output"] = Field(
        "values",
        description="what is clustered: values of the last block's attention, or its output; "
        "our choice",
    )
    clustered: Literal["ignored", "image"] = Field(
        "ignored", description="which tokens: those with a pixel to be filled, or all"
    )
    windows: Annotated[list[Share], Field(min_length=1)] = Field(
        [0.5, 0.25],
        description="sizes of the sliding windows, as shares of the grid's sides; our choice",
    )
    stride: Share = Field(0.5, description="of a window, as a share of its size; our choice")
    rounds: int = Field(10, ge=1, description="of k-means at most; our choice")
    fusion: float = Field(
        0.8, ge=-1, le=1, description="lambda: clusters of a larger cosine merge; our choice"
    )


class NonExclusiveSettings(Settings):
    """L_nel: focal and dice loss of independent classes, as ZegCLIP's public code has it."""

    weight: float = Field(1.0, ge=0, description="of L_nel in the whole")
    focal_weight: float = Field(
        20.0, ge=0, description="20: default of ZegCLIP's code; its configs have 100"
    )
    dice_weight: float = Field(1.0, ge=0, description="likewise, and 1 in its configs")
    gamma: float = Field(2.0, ge=0, description="of the focal loss")
    balance: float | None = Field(
        0.25, ge=0, le=1, description="alpha of the focal loss, of positives; null: no balance"
    )
    ignored: Literal["negative", "out"] = Field(
        "negative",
        description="ignored pixels are negatives of every class in the focal loss, as in "
        "ZegCLIP's code, or left out",
    )


class PlmSettings(RegionSettings):
    """The pixel learning module: ignored pixels get pseudo classes of their image."""

    depth: int = Field(1, ge=1, description="layers of the synthesiser; our choice")
    heads: int = Field(8, ge=1, description="of its attention; our choice")
    ffn: int = Field(4, ge=1, description="its hidden width, times CLIP's; our choice")
    alpha: float = Field(1.0, gt=0, description="factor of the logits of classes; our choice")
    beta: float = Field(
        1.0, gt=0, description="factor of scale x cosine of pseudo classes; our choice"
    )
    bce_weight: float = Field(1.0, ge=0, description="of L_bce in the whole")
    bce_pairs: Literal["all", "positives"] = Field(
        "all", description="prototypes and texts that L_bce compares; positives: as printed"
    )
    nel: NonExclusiveSettings = NonExclusiveSettings()


class TeacherSettings(Settings):
    """What a frozen CLIP teaches a segmentor with a text head."""

    image: Literal["crop", "native"] = Field(
        "crop",
        description="what CLIP sees: the crop at its own size, or at that CLIP was trained on; "
        "our choice",
    )
    glm: GlmSettings | None = Field(None, description="the global learning module; null: without")
    plm: PlmSettings | None = Field(None, description="the pixel learning module; null: without")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.glm is None and self.plm is None:
            raise ValueError("needs glm or plm; write glm: {}, or leave teacher out")
        return self
