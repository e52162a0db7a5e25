"""The labels of a data set as a frozen CLIP predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_rows
from clip_wsss.core.progress import over_images
from clip_wsss.data.bad_images import left_out
from clip_wsss.tags.tagclip import TagClipSettings, tagclip, tags

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.data.datasets import Dataset
    from clip_wsss.models.frozen_clip import FrozenClip


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
    splits: Sequence[str],
    clip: FrozenClip,
    texts: tuple[Tensor, Tensor],
    settings: TagClipSettings,
    out_labels: Path,
    out_scores: Path,
) -> None:
    """Write the predicted labels of all images of some splits.

    Args:
        dataset: gives images; its labels are not asked for.
        splits: whose images are labelled.
        clip: of open_clip's own networks.
        texts: features of the classes (C, E) and of the background words (M, E).
        settings: of TagCLIP.
        out_labels: CSV, image and labels (names with `;` between them, in the vocabulary's order),
            which `dataset.labels` could name. With `on_bad_image: skip` a bad image has no row.
        out_scores: CSV, image and the score of every class.

    Raises:
        InputError: a bad image, unless the data set's `on_bad_image` is `skip`.
    """
    names = dataset.vocabulary.classes
    ids = list(dict.fromkeys(id_ for split in splits for id_ in dataset.ids(split)))
    texts = texts[0].to(clip.device), texts[1].to(clip.device)
    labels: list[Sequence[str]] = [("image", "labels")]
    scores: list[Sequence[str]] = [("image", *names)]
    for id_ in over_images(ids, len(ids), "tags"):
        try:
            found = predicted(dataset, id_, clip, texts, settings)
        except InputError as error:
            left_out(dataset, error)
            continue
        chosen = [names[label] for label in tags(found, settings.threshold)]
        labels.append((id_, ";".join(chosen)))
        scores.append((id_, *(f"{value:.9g}" for value in found)))
    write_rows(out_labels, labels)
    write_rows(out_scores, scores)
