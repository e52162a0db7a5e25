"""The labels of a data set as a frozen CLIP predicts them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import read_text, write_rows
from clip_wsss.core.finished import NOTHING, Finished
from clip_wsss.core.progress import over_images
from clip_wsss.data.bad_images import left_out
from clip_wsss.tags.tagclip import TagClipSettings, tagclip, tags

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.data.datasets import Dataset
    from clip_wsss.models.frozen_clip import FrozenClip

_MISSING = "no such file; run snakemake"


def predicted(
    dataset: Dataset,
    id_: str,
    clip: FrozenClip,
    texts: tuple[Tensor, Tensor],
    settings: TagClipSettings,
) -> np.ndarray:
    """Scores (C,) float32 of all classes of an image, by texts on the device of its CLIP.

    Raises:
        InputError: it cannot be read.
    """
    from clip_wsss.cams.context import MapContext, look
    from clip_wsss.models.tower import HELD

    rgb = dataset.image(id_)
    (looked,) = look(clip, clip.preprocess(rgb)[None].to(clip.device), HELD)
    context = MapContext(id_, rgb, range(len(texts[0])), *texts, looked)
    return tagclip(context, settings).cpu().numpy()


def write_tags(
    dataset: Dataset,
    ids: Sequence[str],
    clip: FrozenClip,
    texts: tuple[Tensor, Tensor],
    settings: TagClipSettings,
    out: Path,
    kept: Finished = NOTHING,
) -> None:
    """Write the scores of all classes of a shard of images.

    Args:
        dataset: gives images; its labels are not asked for.
        ids: the images of the shard.
        clip: of open_clip's own networks.
        texts: features of the classes (C, E) and of the background words (M, E).
        settings: of TagCLIP.
        out: CSV, image and the score of every class, float32 with all its digits. With
            `on_bad_image: skip` a bad image has no row.
        kept: images that an earlier job finished, and those of this one.

    Raises:
        InputError: a bad image, unless the data set's `on_bad_image` is `skip`.
    """
    texts = texts[0].to(clip.device), texts[1].to(clip.device)
    found = {id_: np.frombuffer(data, np.float32) for id_ in ids if (data := kept.get(id_))}
    left = [id_ for id_ in ids if id_ not in found]
    for id_ in over_images(left, len(left), "tags"):
        try:
            found[id_] = predicted(dataset, id_, clip, texts, settings)
        except InputError as error:
            left_out(dataset, error)
            continue
        kept.add(id_, found[id_].tobytes())
    rows = ((id_, *(f"{value:.9g}" for value in found[id_])) for id_ in ids if id_ in found)
    write_rows(out, [("image", *dataset.vocabulary.classes), *rows])


def join_tags(
    shards: Sequence[Path], settings: TagClipSettings, out_labels: Path, out_scores: Path
) -> None:
    """Write the labels that follow from the scores of all shards.

    Args:
        shards: of `write_tags`.
        settings: of TagCLIP.
        out_labels: CSV, image and labels (names with `;` between them, in the vocabulary's order),
            which `dataset.labels` could name.
        out_scores: the shards in one CSV.
    """
    tables = [list(csv.reader(io.StringIO(read_text(path, _MISSING)))) for path in shards]
    head, rows = tables[0][0], [row for table in tables for row in table[1:]]
    labels: list[Sequence[str]] = [("image", "labels")]
    for id_, *values in rows:
        chosen = tags(np.array(values, np.float64).astype(np.float32), settings.threshold)
        labels.append((id_, ";".join(head[1 + label] for label in chosen)))
    write_rows(out_labels, labels)
    write_rows(out_scores, [head, *rows])
