"""How right predicted image-level labels are: precision, recall, F1, and mean average precision."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import read_text, write_json
from clip_wsss.data.datasets import Dataset, classes_in


def tag_rates(predicted: np.ndarray, true: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Figures of tags, as shares of 1; None where a divisor is zero.

    Args:
        predicted: (n, C) bool.
        true: (n, C) bool.
        scores: (n, C), by which an average precision ranks the images.

    Returns:
        precision, recall and f1 of all pairs of an image and a class; map, the mean of the average
        precisions of the classes that have a true image; and of every class hits, alarms, misses
        and ap: the mean of the precisions at the ranks of its true images.
    """
    hits, alarms, misses = (
        (one & other).sum(axis=0)
        for one, other in ((predicted, true), (predicted, ~true), (~predicted, true))
    )
    hit, alarm, miss = (int(one.sum()) for one in (hits, alarms, misses))
    ranked = np.take_along_axis(true, np.argsort(-scores, axis=0, kind="stable"), axis=0)
    precisions = ranked.cumsum(axis=0) / np.arange(1, len(ranked) + 1)[:, None]
    aps = [
        float(precisions[ranked[:, c], c].mean()) if ranked[:, c].any() else None
        for c in range(true.shape[1])
    ]
    there = [ap for ap in aps if ap is not None]
    return {
        "precision": _share(hit, hit + alarm),
        "recall": _share(hit, hit + miss),
        "f1": _share(2 * hit, 2 * hit + alarm + miss),
        "map": float(np.mean(there)) if there else None,
        "hits": hits.tolist(),
        "alarms": alarms.tolist(),
        "misses": misses.tolist(),
        "ap": aps,
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def measure_tags(dataset: Dataset, split: str, scores: Path, out: Path) -> None:
    """Score the predicted labels of a split by its true ones and write the figures as JSON.

    Args:
        dataset: with the predicted labels; `tagclip.truth` of its settings says what is true.
        split: the images; those without a predicted label are left out (`on_bad_image: skip`).
        scores: CSV of `clip_wsss.tags.write.write_tags`.
        out: stage, dataset, split, images, truth, skipped, and by class what `tag_rates` gives.

    Raises:
        InputError: an image has no true labels or no mask, or the scores are not of its image.
    """
    names, truth = dataset.vocabulary.classes, dataset.settings["tagclip"]["truth"]
    given = Dataset({**dataset.settings, "labels": truth, "tagclip": None}, dataset.vocabulary)
    table = list(csv.reader(io.StringIO(read_text(scores, "no such file; run snakemake"))))
    by_image = {row[0]: [float(value) for value in row[1:]] for row in table[1:]}
    kept: list[str] = []
    skipped: list[str] = []
    for id_ in dataset.ids(split):
        (kept if id_ in by_image else skipped).append(id_)
    if not kept:
        raise InputError(f"split {split}: {scores} has none of its images; run snakemake")
    predicted = np.zeros((len(kept), len(names)), dtype=bool)
    true = np.zeros_like(predicted)
    for place, id_ in enumerate(kept):
        predicted[place, dataset.labels(id_)] = True
        true[place, _in_mask(dataset, id_) if truth is None else given.labels(id_)] = True
    found = tag_rates(predicted, true, np.array([by_image[id_] for id_ in kept]))
    by_class = {
        name: {key: found[key][label] for key in ("hits", "alarms", "misses", "ap")}
        for label, name in enumerate(names)
    }
    content = {
        "stage": "tags",
        "dataset": dataset.name,
        "split": split,
        "images": len(kept),
        "truth": truth or "masks",
        **{key: found[key] for key in ("precision", "recall", "f1", "map")},
        "classes": by_class,
        "skipped": skipped,
    }
    write_json(out, content)


def _in_mask(dataset: Dataset, id_: str) -> list[int]:
    """The classes in the ground truth of an image."""
    mask = dataset.mask(id_)
    assert mask is not None  # the plan asks for this where there are masks
    return classes_in(mask)
