"""What makes a figure say less than it seems to: counted by who measured, said beside the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clip_wsss.core.confidence import FEW_PIXELS
from clip_wsss.core.errors import InputError
from clip_wsss.data.check import FEW
from clip_wsss.data.datasets import some
from clip_wsss.score.bootstrap import HIT, none_hit
from clip_wsss.score.confusion import exchanged_words
from clip_wsss.tables.layout import TITLES

OF_SPLIT = "all"  # stages, of a remark about the split


def remarks_of(info: Mapping[str, Any]) -> list[str]:
    """What a score.json counts, in words."""
    images, found = info["images"], []
    if info.get("zero_maps"):
        words = f"{info['zero_maps']} of {info['maps']} maps are zero all over, which is background"
        if info["zero_classes"]:
            words += f"; all maps of {some(info['zero_classes'])} are"
        found.append(words)
    if info.get("scaled_down"):
        found.append(f"{info['scaled_down']} of {images} images were scaled down for their maps")
    if info.get("unsure"):
        found.append(
            f"{info['unsure']} of {images} masks have no pixel of a confidence of 0.95 or more"
        )
    if info.get("unlabelled"):
        found.append(f"{info['unlabelled']:.2%} of the pixels are unlabelled")
    if info.get("exchanged"):
        found.append(f"the labels show {exchanged_words(info['exchanged'])}")
    if "miou" in info and none_hit(info["iou"]):
        found.append(
            f"every class has an IoU below {HIT:.0%}: none is found, or values are shifted"
        )
    if info["skipped"]:
        found.append(f"{len(info['skipped'])} images were left out: {some(info['skipped'])}")
    return found


def remarks_of_split(info: Mapping[str, Any]) -> list[str]:
    """Likewise, what every measurement of the split shares."""
    found, split = [], info["split"]
    if info["images"] < FEW:
        found.append(
            f"{split}: intervals over {info['images']} images, fewer than {FEW}, mean little"
        )
    if info["without_truth"]:
        words = some(info["without_truth"])
        found.append(f"{split}: no ground truth of {words}; the mIoU leaves them out")
    return found


def of_tags(label: str, scored: Mapping[str, Any] | None) -> str:
    """That image-level labels are predicted, by what, and how right they are."""
    words = f"image-level labels are predicted ({label})"
    if scored is None:
        return f"{words}; there are no true ones to score them by"
    rates = ", ".join(
        f"{name} {scored[key]:.1%}"
        for key, name in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
        if scored[key] is not None
    )
    return f"{words}: {rates} of the tags of {scored['images']} images of {scored['split']}"


def remarks_of_training(log: Path) -> list[str]:
    """What a training's log says.

    Raises:
        InputError: it cannot be read.
    """
    try:
        rows = pd.read_csv(log)
        pixels, seen = rows["pixels"].astype(int), rows["of"].astype(int)  # a cut line has none
        still = int((rows["lr"] == 0).sum())
        if pixels.empty:
            raise ValueError
    except (OSError, ValueError, KeyError):
        raise InputError(f"{log}: not the log of a training; train again") from None
    found = []
    if empty := int((pixels == 0).sum()):
        found.append(f"no pixel counted in {empty} of {len(pixels)} updates")
    if still:
        found.append(f"the learning rate is 0 in {still} of {len(rows)} updates")
    if pixels.sum() < FEW_PIXELS * seen.sum():
        share = pixels.sum() / seen.sum()
        found.append(f"trained on {share:.2%} of the pixels: the others are ignored or below mu")
    return found


def notes(frame: pd.DataFrame, runs: Sequence[str]) -> list[str]:
    """The remarks of some runs, each once with the runs that share it; those of a split first."""
    found: dict[str, list[str]] = {OF_SPLIT: []}
    own = frame[frame["run"].isin(runs)]
    for (stage, remark), group in own.groupby(["stage", "remark"], sort=False):
        title = "" if stage == OF_SPLIT else f"{TITLES[stage]} of {some(group['run'].tolist())}: "
        found.setdefault(stage, []).append(f"{title}{remark}.")
    return [line for lines in found.values() for line in lines]


def table(lines: Sequence[tuple[str, str, str]]) -> pd.DataFrame:
    """Remarks as a table, (run, stage, remark) each; what a split has is of stage `OF_SPLIT`."""
    return pd.DataFrame(list(dict.fromkeys(lines)), columns=["run", "stage", "remark"])
