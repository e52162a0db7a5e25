"""Settings of a training whose labels are made online, beside the other cells of its row.

The defaults are those of WeCLIP's public code for VOC. docs/weclip.md numbers the facts.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import method
from clip_wsss.core.names import KINDS, Names
from clip_wsss.core.settings import Settings


class WeCLIPSettings(Settings):
    """What is neither of the labels nor of the decoder's shape."""

    statistics: Literal["imagenet", "clip"] = Field(
        "imagenet", description="fact 1: mean and deviation that the images are normalised with"
    )
    grid: Literal["floor", "ceil"] = Field(
        "floor",
        description="fact 5: `floor` cuts less than a patch, `ceil` stretches to a whole one",
    )
    affinity_weight: float = Field(0.1, ge=0, description="of the affinity loss")
    affinity_radius: int = Field(8, ge=0, description="patches between two that are compared")


class OnlineSettings(WeCLIPSettings):
    """Labels that are made in every step; the maker's own settings go here too."""

    method: Annotated[str, Names("labels", "here")] = Field(
        "weclip", description="makes the labels"
    )
    decoder: Annotated[str, Names("decoder")] | None = Field(
        None,
        description="in the place of the segmentor's decode_head; its settings go below its name",
    )


def resolved(online: OnlineSettings, row: dict[str, dict]) -> dict[str, dict]:
    """What the segmentor is built from, of all cells of a row.

    Args:
        online: of its training.
        row: settings of its cam, affinity and masks.

    Returns:
        settings: for `WeCLIPSettings`; labels: the maker's method and its settings, of which those
        that follow from the row are what its cells say, where they say it; decoder, where one is
        named: its method and its settings.
    """
    maker, own = method("labels", online.method), online.model_dump()
    labels: dict[str, Any] = {"method": online.method}
    for field in maker.fields:
        group, key = KINDS["labels"].elsewhere.get(field, ("", field))
        said = row[group] if group else own
        if not key:
            labels[field] = said
        elif key in said:
            labels[field] = said[key]
    found: dict[str, Any] = {
        "settings": {key: own[key] for key in WeCLIPSettings.model_fields},
        "labels": labels,
    }
    if online.decoder is not None:
        decoder = method("decoder", online.decoder)
        found["decoder"] = {"method": online.decoder, "settings": own.get(decoder.short)}
    return found


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
