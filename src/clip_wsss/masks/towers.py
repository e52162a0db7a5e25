"""Towers of the mask refinements that ask for one; the jobs of others do not import this."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from clip_wsss.cams.context import MapContext, look
from clip_wsss.cams.passes import read_text_features
from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import method
from clip_wsss.models.clip import load_for
from clip_wsss.models.opening import open_tower
from clip_wsss.models.tower import HELD, Clip, Tower
from clip_wsss.prompts.texts import text_features

if TYPE_CHECKING:
    from clip_wsss.masks.context import MaskContext


@dataclass(frozen=True)
class Towers:
    """`MaskContext.towers` of a job. It goes to other processes as it is, and is loaded there.

    Attributes:
        seen: JSON of cam, texts, file and towers, see `clip_wsss.masks.write.write_masks`.
        device: cpu or cuda.
    """

    seen: str
    device: str

    def load(self) -> None:
        """Load all now, for processes that are forked later and share it."""
        _own(self)
        _others(self)

    def __call__(self, context: MaskContext, name: str | None) -> MapContext:
        """The image after its pass through a tower; see `MaskContext.tower_of`."""
        others = _others(self)
        if name not in (None, *others):
            raise InputError(f"tower {name}: a setting marked Names('model') must name it")
        tower: Tower = _own(self)[0] if name is None else others[name]
        found = MapContext(
            id=context.id,
            image=context.image,
            keys=tuple(context.keys),
            texts=None,
            background=None,
            looked=look(tower, tower.preprocess(context.image)[None], HELD)[0],
            towers=others,
            names=context.names,
            background_names=context.background_names,
        )
        if name is not None:
            return found
        _, foreground, background = _own(self)
        entry = json.loads(self.seen)["cam"]
        return replace(
            found,
            texts=foreground[list(context.keys)],
            background=background.clone(),
            cam=method("cam", entry["method"]).bound(entry),
        )


@cache  # once a process
def _own(towers: Towers) -> tuple[Clip, Tensor, Tensor]:
    """The CLIP of the cam, and its texts (C, E) and (M, E)."""
    seen = json.loads(towers.seen)
    clip = load_for(seen["cam"], seen["cam"]["model"], towers.device)
    foreground, background = (
        text_features(clip, **seen["texts"])
        if seen["texts"] is not None
        else read_text_features(Path(seen["file"]), clip)
    )
    return clip, foreground.to(clip.device), background.to(clip.device)


@cache
def _others(towers: Towers) -> dict[str, Tower]:
    """The towers that the settings name."""
    models = json.loads(towers.seen)["towers"]
    return {name: open_tower(model, towers.device) for name, model in models.items()}
