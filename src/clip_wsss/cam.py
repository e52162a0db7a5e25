"""CAMs of a shard of images: the targets, the job, and the file.

Torch is imported only by the job, so that whoever reads CAMs does without it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from clip_wsss.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.datasets import Dataset
    from clip_wsss.frozen_clip import FrozenClip

READERS = 2  # threads that decode the images of the next batches


def softmax(logits: Tensor, position: int, classes: int) -> Tensor:
    """The probability of the class among present classes and background words."""
    return logits.softmax(dim=-1)[:, position]


def logit(logits: Tensor, position: int, classes: int) -> Tensor:
    """The class's logit itself: plain GradCAM."""
    return logits[:, position]


# fn(logits (B, K + M) float32: the K classes present in an image, then the M background words,
#    position of the class in 0..K-1, K) -> (B,) what GradCAM differentiates.
TARGETS: dict[str, Callable[[Tensor, int, int], Tensor]] = {"softmax": softmax, "logit": logit}


@dataclass
class ImageCams:
    """Maps of one image at grid resolution.

    Attributes:
        id: of the image.
        size: (H, W) of the image.
        keys: (K,) int64, 0-based classes in label order.
        initial: (K, gh, gw) float32 in [0, 1].
        refined: the same after the affinity, or None.
    """

    id: str
    size: tuple[int, int]
    keys: np.ndarray
    initial: np.ndarray
    refined: np.ndarray | None


def write_cams(
    path: Path, cams: Sequence[ImageCams], skipped: dict[str, str] | None = None
) -> None:
    """Write a shard of CAMs; the same maps give the same bytes.

    The npz holds ids, sizes (n, 2), grids (n, 2), classes (n,): K of each image, keys: all keys
    one after the other, initial and refined: all maps one after the other, flat, and the ids and
    reasons of skipped images.
    """
    skipped = skipped or {}
    arrays = {
        "ids": np.array([image.id for image in cams], dtype=np.str_),
        "sizes": np.array([image.size for image in cams], dtype=np.int32).reshape(-1, 2),
        "grids": np.array([image.initial.shape[1:] for image in cams], np.int32).reshape(-1, 2),
        "classes": np.array([len(image.keys) for image in cams], dtype=np.int32),
        "keys": _flat([image.keys for image in cams], np.int16),
        "initial": _flat([image.initial for image in cams], np.float32),
        "skipped": np.array(list(skipped), dtype=np.str_),
        "reasons": np.array(list(skipped.values()), dtype=np.str_),
    }
    if cams and all(image.refined is not None for image in cams):
        arrays["refined"] = _flat([image.refined for image in cams], np.float32)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(part, path)


def read_cams(path: Path) -> list[ImageCams]:
    """Read the CAMs of a shard, in the order in which they were written.

    Raises:
        InputError: the file is missing or no shard of CAMs.
    """
    shard = _load_shard(path)
    refined = shard.get("refined")
    cams, key, value = [], 0, 0
    for id_, size, (gh, gw), count in zip(
        shard["ids"], shard["sizes"], shard["grids"], shard["classes"], strict=True
    ):
        values = slice(value, value + count * gh * gw)
        cams.append(
            ImageCams(
                id=str(id_),
                size=(int(size[0]), int(size[1])),
                keys=shard["keys"][key : key + count].astype(np.int64),
                initial=shard["initial"][values].reshape(count, gh, gw),
                refined=None if refined is None else refined[values].reshape(count, gh, gw),
            )
        )
        key, value = key + count, values.stop
    return cams


def read_skipped(path: Path) -> dict[str, str]:
    """Images of a shard that were left out: id -> reason. Raises InputError as `read_cams`."""
    shard = _load_shard(path)
    return dict(zip(shard["skipped"].tolist(), shard["reasons"].tolist(), strict=True))


def write_shard(
    dataset: Dataset,
    ids: Sequence[str],
    clip: FrozenClip,
    text_features: Path,
    entry: dict,
    out: Path,
    batch: int = 16,
    on_bad_image: str = "fail",
) -> None:
    """Write the CAMs of a shard of images.

    Args:
        dataset: gives images, sizes and labels.
        ids: the images of the shard; the file keeps their order.
        clip: loaded with the precision, rounding and position embedding of the entry.
        text_features: npz with foreground (C, E) and background (M, E).
        entry: of the group `cam`: target, affinity, and settings under the affinity's name.
        out: the npz.
        batch: most images in one pass; fewer where their attention would not fit.
        on_bad_image: `fail`, or `skip`, which leaves a bad image out and lists it with its reason.

    Raises:
        InputError: a bad image (with `fail`), an unknown target or affinity, or text features
            of another width than the model's.
    """
    texts = read_text_features(text_features, clip)
    cams = compute_cams(dataset, ids, clip, texts, entry, batch, on_bad_image)
    found, skipped = {}, {}
    progress = tqdm(total=len(ids), desc=f"CAMs {Path(out).stem}", unit="image", disable=None)
    for id_, result in cams:
        if isinstance(result, str):
            skipped[id_] = result
        else:
            found[id_] = result
        progress.update()
    progress.close()
    ordered = [found[id_] for id_ in ids if id_ in found]
    write_cams(out, ordered, {id_: skipped[id_] for id_ in ids if id_ in skipped})


def read_text_features(path: Path, clip: FrozenClip) -> tuple[Tensor, Tensor]:
    """Features of the classes (C, E) and of the background words (M, E), float32.

    Raises:
        InputError: the file cannot be read, or its features have another width than the model's.
    """
    import torch

    texts, width = _load(path), clip.visual.proj.shape[1]
    if texts["foreground"].shape[1] != width:
        raise InputError(
            f"{path}: features of width {texts['foreground'].shape[1]}, the model's is {width}; "
            "make the texts with the same model"
        )
    return torch.from_numpy(texts["foreground"]), torch.from_numpy(texts["background"])


def compute_cams(
    dataset: Dataset,
    ids: Sequence[str],
    clip: FrozenClip,
    texts: tuple[Tensor, Tensor],
    entry: dict,
    batch: int = 16,
    on_bad_image: str = "fail",
) -> Iterator[tuple[str, ImageCams | str]]:
    """Yield (id, its CAMs or why it was skipped), grid by grid; see `write_shard`."""
    import torch

    from clip_wsss.affinity import AFFINITIES
    from clip_wsss.gradcam import Refinement, class_maps, fitting_batch
    from clip_wsss.registry import lookup

    target = lookup(TARGETS, entry["target"], "target")
    refinement = None
    if entry["affinity"] != "none":
        affinity = lookup(AFFINITIES | {"none": None}, entry["affinity"], "affinity")
        settings = entry.get(entry["affinity"]) or {}
        refinement = Refinement(affinity, settings, settings.get("layers", clip.layers))
    foreground, background = texts
    groups: dict[tuple[int, int], list[tuple[str, list[int]]]] = {}
    for id_ in ids:
        try:
            grid, keys = clip.grid(dataset.size(id_)), dataset.labels(id_)
            if not keys:
                raise InputError(f"{id_}: has no class; give it a label or leave it out")
            groups.setdefault(grid, []).append((id_, keys))
        except InputError as error:
            yield _skip(id_, error, on_bad_image)

    def read(item: tuple[str, list[int]]):
        id_, keys = item
        try:
            rgb = dataset.image(id_)
        except InputError as error:
            return id_, keys, None, error
        return id_, keys, rgb.shape[:2], clip.preprocess(rgb)

    parts = []
    for grid, members in sorted(groups.items()):
        step = fitting_batch(clip, grid, batch, refinement.layers if refinement else 0)
        parts += [members[i : i + step] for i in range(0, len(members), step)]
    with ThreadPoolExecutor(READERS) as pool:
        pending = [pool.map(read, part) for part in parts[:1]]
        for index in range(len(parts)):
            if index + 1 < len(parts):  # decoded while this batch is computed
                pending.append(pool.map(read, parts[index + 1]))
            good = []
            for id_, keys, size, image in pending.pop(0):
                if size is None:
                    yield _skip(id_, image, on_bad_image)
                else:
                    good.append((id_, keys, size, image))
            if not good:
                continue
            maps = class_maps(
                clip,
                torch.stack([image for *_, image in good]),
                [foreground[keys] for _, keys, *_ in good],
                background,
                target,
                refinement,
            )
            for (id_, keys, size, _), (initial, refined) in zip(good, maps, strict=True):
                yield (
                    id_,
                    ImageCams(
                        id=id_,
                        size=tuple(size),
                        keys=np.array(keys, dtype=np.int64),
                        initial=initial.cpu().numpy(),
                        refined=None if refined is None else refined.cpu().numpy(),
                    ),
                )


def _skip(id_: str, error: InputError, on_bad_image: str) -> tuple[str, str]:
    if on_bad_image != "skip":
        raise error
    return id_, str(error)


def _flat(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    if not arrays:
        return np.zeros(0, dtype=dtype)
    return np.concatenate([np.ravel(array) for array in arrays]).astype(dtype)


def _load_shard(path: Path) -> dict[str, np.ndarray]:
    shard = _load(path)
    wanted = {"ids", "sizes", "grids", "classes", "keys", "initial", "skipped", "reasons"}
    if not wanted <= shard.keys():
        raise InputError(f"{path}: is no shard of CAMs; delete it and make it again")
    return shard


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an npz that can be read ({error})") from None
