"""What can be chosen in WeCLIP; each slip of the public code is a field of its own.

The defaults are the public code's for VOC. docs/weclip.md numbers the facts.
"""

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clip_wsss.core.errors import InputError
from clip_wsss.masks.par import ParSettings


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DynamicSettings(_Settings):
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
    padding: Literal["labelled", "ignored"] = Field(
        "labelled", description="fact 3: what becomes of the canvas around a small image"
    )

    def passes(self, update: int) -> int:
        """The forward counter in update 1, 2, ... of a training."""
        validations = (update - 1) // self.validation_every if self.validation_every else 0
        return update + validations * self.validation_images

    def is_dynamic(self, update: int | None) -> bool:
        """Whether the decoder's affinity takes part in update 1, 2, ...; None: after them all."""
        return update is None or self.passes(update) > self.dynamic_start


class LabelSettings(DynamicSettings):
    """How the pseudo labels of a batch are made."""

    target: Literal["softmax", "logit"] = Field("softmax", description="of GradCAM")
    static_layers: int = Field(8, ge=1, description="last attention maps averaged at first")
    sinkhorn: int = Field(3, ge=0, description="rounds of dividing by column and row sums")
    power: int = Field(2, ge=0, description="how often the affinity is applied")
    threshold: float = Field(0.4, ge=0, le=1, description="of a box, as a share of the maximum")
    box_edge: Literal["clamp", "full"] = Field(
        "clamp", description="fact 12: whether boxes reach the last row and column"
    )
    background_power: float = Field(1.0, gt=0, description="of 1 - max")
    refinement: Literal["none", "par"] = Field("par", description="of the scores at full size")
    par: ParSettings = ParSettings()


class WeCLIPSettings(_Settings):
    """What is neither of the labels nor of the decoder's shape."""

    statistics: Literal["imagenet", "clip"] = Field(
        "imagenet", description="fact 1: mean and deviation that the images are normalised with"
    )
    grid: Literal["floor", "ceil"] = Field(
        "floor", description="fact 5: `floor` cuts what is no whole patch, `ceil` stretches to one"
    )
    affinity_weight: float = Field(0.1, ge=0, description="of the affinity loss")
    affinity_radius: int = Field(8, ge=0, description="patches between two that are compared")


class OnlineSettings(WeCLIPSettings, DynamicSettings):
    """What a training with labels made online says beside the other cells of its row."""


def resolved(online: OnlineSettings, cam: dict, affinity: dict, masks: dict) -> dict[str, dict]:
    """What the segmentor is built from, of all cells of a row.

    Args:
        online: of its training.
        cam: its settings, as those of `affinity` and `masks`.

    Returns:
        settings: for `WeCLIPSettings`; labels: what `LabelSettings` or those of another entry of
        LABEL_MAKERS take, each the fields that it has.
    """
    own = online.model_dump()
    labels = {
        "target": cam["target"],
        "static_layers": affinity["layers"],
        **{key: affinity[key] for key in ("sinkhorn", "power", "threshold", "box_edge")},
        **{key: masks[key] for key in ("background_power", "refinement", "par")},
        **{key: own[key] for key in DynamicSettings.model_fields},
    }
    return {"settings": {key: own[key] for key in WeCLIPSettings.model_fields}, "labels": labels}


S = TypeVar("S", bound=BaseModel)


def read_settings(kind: type[S], given: dict | None, where: str) -> S:
    """Settings of a kind from a config's mapping; `where` is its key.

    Raises:
        InputError: an unknown key or a value that cannot be, in one line.
    """
    try:
        return kind.model_validate(given or {})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (where, *first["loc"]))
        if first["type"] == "extra_forbidden":
            raise InputError(f"{key}: unknown key; docs/weclip.md lists the settings") from None
        text = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{key}: {text}; got {first['input']}") from None
