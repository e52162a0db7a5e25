"""Texts of a run: templates ranked by sharpness, text features of classes and background words."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from clip_wsss.core.csvs import guarded
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_json, write_rows
from clip_wsss.core.maps import write_npz
from clip_wsss.core.progress import log_images
from clip_wsss.core.resources import find, is_file, missing
from clip_wsss.data.bad_images import left_out

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.data.datasets import Dataset
    from clip_wsss.models.frozen_clip import FrozenClip
    from clip_wsss.models.tower import Clip

SPREADS = ("variance", "deviation")
SCORES = ("cls", "patches")
# Images in one pass, and their tokens: no setting, since they change the last bits of what ranks
# the templates, and with that all that follows.
BATCH, TOKENS = 16, 65_536


def sharpness(scores: np.ndarray, present: np.ndarray, spread: str = "variance") -> float:
    """How unbalanced a template leaves the scores of co-occurring classes (paper, equation 9).

    Args:
        scores: (n, C) softmax over all classes of the data set.
        present: (n, C) bool, the classes that each image contains, at least one.
        spread: `variance`, or `deviation` (standard, which makes it the plain coefficient of
            variation of the sums); both of the population. One class alone has none.

    Returns:
        Sum over the images of the spread over the sum of the mean, >= 0; lower is better. Inf
        where every present class scores 0.

    Raises:
        InputError: an unknown spread, or no image.
    """
    if spread not in SPREADS:
        raise InputError(f"spread: {spread} is unknown; known are {', '.join(SPREADS)}")
    if not len(scores):
        raise InputError("sharpness: there is no image to rank the templates by")
    scores = scores.astype(np.float64)
    count = present.sum(axis=1)
    mean = (scores * present).sum(axis=1) / count
    spreads = (present * (scores - mean[:, None]) ** 2).sum(axis=1) / count
    if spread == "deviation":
        spreads = np.sqrt(spreads)
    return float(spreads.sum() / mean.sum()) if mean.sum() > 0 else float("inf")


def write_image_features(dataset: Dataset, split: str, clip: FrozenClip, out: Path) -> None:
    """Write CLIP's features of the images that rank the templates.

    The npz holds ids (n,), cls (n, E): CLIP's ordinary feature of the square crop, patches
    (n, E): the patch mean at the image's own size that GradCAM scores, both float32 and
    normalised, and the ids and reasons of skipped images.

    Raises:
        InputError: a bad image, unless the data set's `on_bad_image` is `skip`.
    """
    import torch

    ids, skipped = dataset.ids(split), {}
    cls: dict[str, np.ndarray] = {}
    patches: dict[str, np.ndarray] = {}
    groups: dict[tuple[int, int], list[str]] = {}
    begun = time.perf_counter()
    progress = tqdm(total=len(ids), desc="image features", unit="image", disable=None)
    for id_ in ids:
        try:
            if not dataset.labels(id_):
                skipped[id_] = "has no class, so it ranks nothing"
                continue
            groups.setdefault(clip.fitted(dataset.size(id_)), []).append(id_)
        except InputError as error:
            skipped[id_] = left_out(dataset, error)
    for grid, members in groups.items():
        for part in _parts(members, min(BATCH, max(1, TOKENS // math.prod(grid)))):
            images = {}
            for id_ in part:
                try:
                    images[id_] = dataset.image(id_)
                except InputError as error:
                    skipped[id_] = left_out(dataset, error)
            if images:
                crops = torch.stack([clip.preprocess_ordinary(rgb) for rgb in images.values()])
                whole = torch.stack([clip.preprocess(rgb) for rgb in images.values()])
                cls |= zip(images, clip.cls_features(crops).cpu().numpy(), strict=True)
                patches |= zip(images, clip.patch_features(whole).cpu().numpy(), strict=True)
            progress.update(len(part))
    progress.close()
    log_images("image features", len(ids), begun)
    kept = [id_ for id_ in ids if id_ in cls]
    if not kept:
        raise InputError(f"split {split}: no image is left to rank the templates by")
    arrays = {
        "ids": np.array(kept, dtype=np.str_),
        "cls": np.stack([cls[id_] for id_ in kept]),
        "patches": np.stack([patches[id_] for id_ in kept]),
        "skipped": np.array(list(skipped), dtype=np.str_),
        "reasons": np.array(list(skipped.values()), dtype=np.str_),
    }
    write_npz(out, arrays)


def text_features(
    clip: Clip, templates: Sequence[str], names: Sequence[str], words: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Text features of the classes and of the background words, averaged over the templates.

    Args:
        clip: the model.
        templates: each with one {}.
        names: what the C classes are called.
        words: the M background words.

    Returns:
        (C, E) and (M, E) float32 on the CPU, normalised.

    Raises:
        InputError: a template without {}, a text that the model cannot encode, or one feature for
            all classes.
    """
    templates = _checked(templates, "template")
    foreground, background = (
        clip.encode_texts([[t.replace("{}", text) for t in templates] for text in group])
        for group in (names, words)
    )
    if len(foreground) > 1 and bool((foreground == foreground[0]).all()):
        raise InputError(
            "models: the text tower gives every class the same feature; replace the weights"
        )
    return foreground, background


def write_texts(
    entry: dict,
    clip: Clip,
    dataset: Dataset,
    split: str,
    image_features: Path,
    out_features: Path,
    out_prompt: Path,
    out_csv: Path,
) -> None:
    """Choose the sharpest template of a texts entry and write its text features.

    Args:
        entry: of the group `texts`, resolved: templates (the candidates), score, spread, names
            (class -> what it is called, all classes in order), ranked_names (likewise, what ranks
            the templates), background (words).
        clip: the model.
        dataset: gives the labels of the images that rank the templates.
        split: those images.
        image_features: from `write_image_features`.
        out_features: npz, foreground (C, E) and background (M, E) float32, normalised.
        out_prompt: JSON, what the texts are and that sharpness chose the template.
        out_csv: rank, template, sharpness.

    Raises:
        InputError: an unknown option, a template without {}, a word that the model does not
            know, or features of other images than the split's.
    """
    names = list(entry["names"].values())
    ranked = list(entry["ranked_names"].values())
    ranking = _rank(entry, ranked, clip, dataset, split, image_features)
    templates = [ranking[0][1]]
    foreground, background = text_features(clip, templates, names, entry["background"])
    write_npz(out_features, {"foreground": foreground.numpy(), "background": background.numpy()})
    prompt = {
        "template": templates,
        "names": entry["names"],
        "background": list(entry["background"]),
        "chosen_by": "sharpness",
    }
    write_json(out_prompt, prompt, sort_keys=False)
    lines: list[tuple] = [("rank", "template", "sharpness")]
    lines += [
        (rank, guarded(text), repr(value)) for rank, (value, text) in enumerate(ranking, start=1)
    ]
    write_rows(out_csv, lines)


def read_templates(path: Path) -> list[str]:
    """Read a list of templates, one a line; blank lines and # comments are not.

    Raises:
        InputError: the file is missing or empty, or a template has not exactly one {}.
    """
    if not is_file(path):
        raise InputError(f"templates: {missing(path)}")
    try:
        lines = find(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"templates: {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"templates: {path} is not UTF-8; save it as UTF-8") from None
    templates = [line.strip() for line in lines]
    return _checked([t for t in templates if t and not t.startswith("#")], str(path))


def _rank(
    entry: dict,
    names: list[str],
    clip: Clip,
    dataset: Dataset,
    split: str,
    image_features: Path,
) -> list[tuple[float, str]]:
    """(sharpness, template), best first; ties keep the order of the list."""
    templates = _checked(entry["templates"], "templates")
    if entry["score"] not in SCORES:
        raise InputError(f"score: {entry['score']} is unknown; known are {', '.join(SCORES)}")
    with np.load(image_features, allow_pickle=False) as stored:
        ids, features = stored["ids"].tolist(), stored[entry["score"]]
        known = {*ids, *stored["skipped"].tolist()}
    if known != set(dataset.ids(split)):
        raise InputError(f"{image_features}: is of other images than the split {split}; remove it")
    present = np.zeros((len(ids), len(names)), dtype=bool)
    for row, id_ in zip(present, ids, strict=True):
        row[dataset.labels(id_)] = True
    # All templates at once fill the batches of the text tower.
    texts = clip.encode_texts([[t.replace("{}", name)] for t in templates for name in names])
    values = []
    for text in texts.numpy().reshape(len(templates), len(names), -1):
        logits = clip.logit_scale * (features @ text.T).astype(np.float64)  # (n, C)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        values.append(sharpness(scores, present, entry["spread"]))
    return sorted(zip(values, templates, strict=True), key=lambda pair: pair[0])


def _checked(templates: Sequence[str], where: str) -> list[str]:
    if not templates:
        raise InputError(f"{where}: holds no template; write one with {{}} where the class goes")
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"{where}: `{template}` should hold {{}} once, where the class goes")
    return list(templates)


def _parts(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[i : i + size] for i in range(0, len(items), size))
