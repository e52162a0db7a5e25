"""What a setting may name: a method of some kind, an entry of `models`, or a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel


@dataclass(frozen=True)
class Kind:
    """A kind of methods.

    Attributes:
        package: where the suite's own are.
        takes: names of the arguments of a method, its settings aside.
        gives: what it returns, for the docs.
        elsewhere: settings that other cells of the row say: name -> (group, its name there, or
            nothing for the whole entry).
    """

    package: str
    takes: tuple[str, ...]
    gives: str
    elsewhere: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict, hash=False)


_FROM_THE_ROW = {
    "target": ("cam", "target"),
    "affinity": ("affinity", ""),
    "static_layers": ("affinity", "layers"),
    **{key: ("affinity", key) for key in ("sinkhorn", "power", "threshold", "box_edge")},
    **{key: ("masks", key) for key in ("background_power", "refinement", "par")},
}

KINDS: dict[str, Kind] = {
    "cam": Kind("clip_wsss.cams", ("context",), "maps (K, gh, gw) >= 0"),
    "target": Kind(
        "clip_wsss.cams.targets", ("logits", "position", "classes"), "scores (B,) to differentiate"
    ),
    "affinity": Kind("clip_wsss.affinities", ("context",), "maps (K, gh, gw) >= 0"),
    "refinement": Kind("clip_wsss.masks.refinements", ("context",), "scores (1 + K, H, W)"),
    "loss": Kind("clip_wsss.losses", ("pixels",), "a scalar"),
    "labels": Kind("clip_wsss.labels", ("texts",), "a maker of labels", _FROM_THE_ROW),
    "decoder": Kind("clip_wsss.decoders", ("widths", "classes"), "a decoder, a torch.nn.Module"),
    "segmentor": Kind("clip_wsss.segmentors", (), "what a segmentor's file holds"),
}

OTHERS = ("model", "folder")  # what `Names` may mark that is not a method


@dataclass(frozen=True)
class Names:
    """Marks a field of settings whose value names a method, a model, or another kind of entry.

    Attributes:
        kind: of `KINDS`, `model` for an entry of `models`, or `folder` for one of files by image,
            whose contents count.
        where: `here`, the method's settings go beside the field (of an entry only); `under`, below
            a key of the method's short name.
    """

    kind: str
    where: Literal["here", "under"] = "under"


def named(entry: BaseModel | type[BaseModel], values: Mapping[str, Any]) -> Iterator[tuple]:
    """The fields of settings that name something: (field, marker, value)."""
    for field, info in entry.model_fields.items():
        inner = getattr(info.annotation, "__args__", ())  # of `Annotated[str, Names(…)] | None`
        for marker in (
            *info.metadata,
            *(m for one in inner for m in getattr(one, "__metadata__", ())),
        ):
            if isinstance(marker, Names):
                yield field, marker, values.get(field, info.get_default())


def marked(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, Names, Any]]:
    """The fields that name something: (dotted key, marker, value).

    Those of nested settings and of lists of them too; a place in a list is a number, from 0.
    """
    values = {field: getattr(settings, field) for field in type(settings).model_fields}
    for field, marker, value in named(type(settings), values):
        yield prefix + field, marker, value
    for field, value in values.items():
        listed = value if isinstance(value, list | tuple) else []
        inner = {field: value} | {f"{field}.{place}": one for place, one in enumerate(listed)}
        for key, one in inner.items():
            if isinstance(one, BaseModel):
                yield from marked(one, f"{prefix}{key}.")


def named_by(settings: BaseModel, kind: str) -> dict[str, Any]:
    """What the fields marked with a kind of `Names` say, by their dotted keys."""
    return {
        key: value
        for key, marker, value in marked(settings)
        if marker.kind == kind and value is not None
    }


def models_of(settings: BaseModel) -> dict[str, str]:
    """The entries of `models` that settings name, by the dotted key of the field."""
    return named_by(settings, "model")


def asks_for_towers(settings: BaseModel) -> bool:
    """Whether a field is there to name a model, even if it names none."""
    return any(marker.kind == "model" for _, marker, _ in marked(settings))
