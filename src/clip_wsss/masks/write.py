"""Pseudo masks of a shard, from maps, from the ground truth, or from other code's files.

Every source writes an archive of kind masks (`clip_wsss.core.archives`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from clip_wsss.core.archives import MASKS, EncodedImage, encode_image, write_archive
from clip_wsss.core.confidence import EDGES, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import ImageMaps, background_scores, read_maps, read_skipped, upsample_maps
from clip_wsss.core.processes import parallel_map
from clip_wsss.core.registry import lookup
from clip_wsss.masks.refine import MASK_REFINEMENTS

if TYPE_CHECKING:
    from clip_wsss.data.datasets import Dataset

CERTAIN = len(EDGES) - 1  # the code of a confidence of 1


def labels_and_confidence(
    maps: np.ndarray, keys: np.ndarray, rgb: np.ndarray, entry: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Label and confidence of every pixel of an image.

    Args:
        maps: (K, gh, gw) float32 in [0, 1].
        keys: (K,) 0-based classes; without any the image is background at a confidence of 1.
        rgb: (H, W, 3) uint8.
        entry: of the group `masks`: refinement, background_power, and settings under the
            refinement's name.

    Returns:
        (H, W) uint8, 0 background, key + 1 for a class, and (H, W) float32 in [0, 1]: the
        largest probability, or without a refinement the largest of [background, maps].
    """
    refine = lookup(MASK_REFINEMENTS, entry["refinement"], "refinement")
    if not len(keys):  # nothing competes with the background
        return np.zeros(rgb.shape[:2], np.uint8), np.ones(rgb.shape[:2], np.float32)
    full = upsample_maps(maps, rgb.shape[:2])
    scores = np.concatenate([background_scores(full, entry["background_power"])[None], full])
    refined = refine(scores, rgb, entry.get(entry["refinement"]) or {})
    values = np.concatenate([[0], np.asarray(keys) + 1]).astype(np.uint8)
    return values[refined.argmax(axis=0)], refined.max(axis=0)  # a tie goes to the background


def write_masks(
    dataset: Dataset, ids: Sequence[str], entry: dict, maps: Sequence[Path], out: Path, workers: int
) -> None:
    """Write the masks of a shard from whatever source an entry names.

    Args:
        dataset: images, and the ground truth.
        ids: of the shard.
        entry: of the group `masks`.
        maps: the one shard of maps; none for the other sources.
        out: the archive.
        workers: processes; they change nothing but the time.

    Raises:
        InputError: see the function of each source.
    """
    bad = dataset.settings["on_bad_image"]
    if entry["source"] == "maps":
        write_shard(dataset, maps[0], entry, out, workers, ids)
    elif entry["source"] == "ground-truth":
        write_ground_truth(dataset, ids, out, bad, workers)
    else:
        write_import(dataset, ids, entry["folder"], entry["confidences"], out, bad, workers)


def write_shard(
    dataset: Dataset,
    maps: Path,
    entry: dict,
    out: Path,
    workers: int = 1,
    ids: Sequence[str] | None = None,
) -> None:
    """Write the pseudo masks of a shard of maps.

    Args:
        dataset: gives the images.
        maps: the shard, from `clip_wsss.core.maps.write_maps`; images that it skipped are skipped
            here, for the same reason.
        entry: of the group `masks`.
        out: the archive.
        workers: processes; they change nothing but the time.
        ids: the images of the shard, which the maps have to be of; None: any.

    Raises:
        InputError: maps of other images, an unknown refinement, an image that has changed, or a
            confidence that is not a number.
    """
    lookup(MASK_REFINEMENTS, entry["refinement"], "refinement")
    skipped = [EncodedImage(id_, skipped=why) for id_, why in read_skipped(maps).items()]
    images = read_maps(maps)
    found = {image.id for image in images} | {image.id for image in skipped}
    if ids is not None and found != set(ids):
        raise InputError(
            f"{maps}: holds other images than the list, such as {min(found ^ set(ids))}; delete it "
            "and run again"
        )
    _write(out, partial(_from_maps, dataset, entry), images, workers, skipped)


def write_ground_truth(
    dataset: Dataset, ids: Sequence[str], out: Path, on_bad_image: str = "fail", workers: int = 1
) -> None:
    """Write the data set's own masks, 255 where they are not sure, with a confidence of 1.

    Args:
        dataset: gives images and ground truth.
        ids: the images.
        out: the archive.
        on_bad_image: `fail`, or `skip`, which leaves a bad image out and lists it with its reason.
        workers: processes; they change nothing but the time.

    Raises:
        InputError: the data set has no ground truth, or a bad image (with `fail`).
    """
    if dataset.settings["masks"] is None:
        raise InputError(
            "dataset.masks: null, so masks cannot come from the ground truth; set it to the folder "
            "that has it, or masks.source to maps"
        )
    _write(out, partial(_or_skipped, _from_truth, on_bad_image, dataset), ids, workers)


def write_import(
    dataset: Dataset,
    ids: Sequence[str],
    folder: Path,
    confidence_folder: Path | None,
    out: Path,
    on_bad_image: str = "fail",
    workers: int = 1,
) -> None:
    """Write masks that other code made.

    Args:
        dataset: gives images and classes.
        ids: the images.
        folder: holds <id>.png, palette or grey, of the image's size: 0 background, 1..C classes,
            255 unlabelled.
        confidence_folder: holds <id>.png, grey with 8 or 16 bits, white for 1; None: all are 1.
        out: the archive.
        on_bad_image: `fail`, or `skip`, which leaves a bad image out and lists it with its reason.
        workers: processes; they change nothing but the time.

    Raises:
        InputError: a file is missing or cannot be used (with `fail`), or a folder is missing.
    """
    for one in filter(None, (folder, confidence_folder)):
        _check_folder(one)
    read = partial(_or_skipped, _from_files, on_bad_image, dataset, folder, confidence_folder)
    _write(out, read, ids, workers)


def _check_folder(folder: Path) -> None:
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder of masks to import; correct the path")


def _write(
    out: Path,
    make: Callable[..., EncodedImage],
    images: Sequence,
    workers: int,
    skipped: Sequence[EncodedImage] = (),
) -> None:
    """Write an archive of what `make` makes of every image, in several processes."""
    with parallel_map(min(workers, len(images))) as mapped:
        progress = tqdm(
            mapped(make, images),
            total=len(images),
            desc=f"masks {Path(out).stem}",
            unit="image",
            disable=None,
        )
        write_archive(out, MASKS, (image for part in (progress, skipped) for image in part))


def _from_maps(dataset: Dataset, entry: dict, image: ImageMaps) -> EncodedImage:
    rgb = dataset.image(image.id)
    if rgb.shape[:2] != image.size:
        raise InputError(
            f"{image.id}: is {rgb.shape[:2]} now and was {image.size} when its CAM was made; "
            "make the CAMs again"
        )
    label, confidence = labels_and_confidence(image.maps, image.keys, rgb, entry)
    try:
        codes = encode(confidence)
    except ValueError as error:
        raise InputError(
            f"{image.id}: {error} after the refinement {entry['refinement']}; change its settings"
        ) from None
    return encode_image(image.id, label, codes)


def _or_skipped(make: Callable[..., EncodedImage], on_bad_image: str, *args) -> EncodedImage:
    """What `make` makes of the arguments, the last of them an id; for a bad image the reason."""
    try:
        return make(*args)
    except InputError as error:
        if on_bad_image == "fail":
            raise
        return EncodedImage(args[-1], skipped=str(error))


def _from_truth(dataset: Dataset, id_: str) -> EncodedImage:
    dataset.image(id_)  # whole, else a training would find out
    label = dataset.mask(id_)
    return encode_image(id_, label, np.full(label.shape, CERTAIN, np.uint8))


def _from_files(
    dataset: Dataset, folder: Path, confidence_folder: Path | None, id_: str
) -> EncodedImage:
    size = dataset.image(id_).shape[:2]  # whole, else a training would find out
    label, confidence = dataset.imported_mask(id_, folder, confidence_folder)
    codes = np.full(size, CERTAIN, np.uint8) if confidence is None else encode(confidence)
    return encode_image(id_, label, codes)
