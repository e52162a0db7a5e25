"""Pseudo masks of a shard: full-resolution scores, their refinement, label and confidence."""

from __future__ import annotations

import csv
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from clip_wsss.errors import InputError
from clip_wsss.imageio import sha256, write_confidence, write_label
from clip_wsss.maps import ImageMaps, background_scores, read_maps, read_skipped, upsample_maps
from clip_wsss.processes import parallel_map
from clip_wsss.refine import MASK_REFINEMENTS
from clip_wsss.registry import lookup

if TYPE_CHECKING:
    from clip_wsss.datasets import Dataset

MANIFEST_COLUMNS = ("id", "label_sha256", "confidence_sha256", "skipped")


def labels_and_confidence(
    maps: np.ndarray, keys: np.ndarray, rgb: np.ndarray, entry: dict
) -> tuple[np.ndarray, np.ndarray]:
    """Label and confidence of every pixel of an image.

    Args:
        maps: (K, gh, gw) float32 in [0, 1].
        keys: (K,) 0-based classes.
        rgb: (H, W, 3) uint8.
        entry: of the group `masks`: refinement, background_power, and settings under the
            refinement's name.

    Returns:
        (H, W) uint8, 0 background, key + 1 for a class, and (H, W) float32 in [0, 1]: the
        largest probability, or without a refinement the largest of [background, maps].
    """
    refine = lookup(MASK_REFINEMENTS, entry["refinement"], "refinement")
    full = upsample_maps(maps, rgb.shape[:2])
    scores = np.concatenate([background_scores(full, entry["background_power"])[None], full])
    refined = refine(scores, rgb, entry.get(entry["refinement"]) or {})
    values = np.concatenate([[0], np.asarray(keys) + 1]).astype(np.uint8)
    return values[refined.argmax(axis=0)], refined.max(axis=0)  # a tie goes to the background


def write_shard(
    dataset: Dataset, cams: Path, entry: dict, folder: Path, manifest: Path, workers: int = 1
) -> None:
    """Write the pseudo masks of a shard of CAMs.

    Args:
        dataset: gives the images.
        cams: the shard, from `clip_wsss.cam.write_shard`.
        entry: of the group `masks`.
        folder: gets labels/<id>.png (VOC palette) and confidence/<id>.png (16 bits).
        manifest: CSV: id, label_sha256, confidence_sha256, and for an image that the CAM job
            skipped no sums but the reason in `skipped`.
        workers: processes; they change nothing but the time.

    Raises:
        InputError: an unknown refinement, or refined maps asked of CAMs that have none.
    """
    lookup(MASK_REFINEMENTS, entry["refinement"], "refinement")
    images, skipped = read_cams(cams), read_skipped(cams)
    if entry["map"] == "refined" and any(image.refined is None for image in images):
        raise InputError(
            f"{cams}: holds no refined maps; take `map: initial`, or a cam entry with an affinity"
        )
    write = partial(_write_image, dataset, entry, Path(folder))
    with parallel_map(min(workers, len(images))) as mapped:
        progress = tqdm(
            mapped(write, images),
            total=len(images),
            desc=f"masks {Path(manifest).stem}",
            unit="image",
            disable=None,
        )
        rows = list(progress)
    rows += [(id_, "", "", reason) for id_, reason in skipped.items()]
    manifest = Path(manifest)
    manifest.parent.mkdir(parents=True, exist_ok=True)
    part = manifest.with_name(f".{manifest.name}.part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(MANIFEST_COLUMNS)
        writer.writerows(rows)
    os.replace(part, manifest)


def _write_image(
    dataset: Dataset, entry: dict, folder: Path, image: ImageCams
) -> tuple[str, str, str, str]:
    """Write one image's two PNGs; its row of the manifest."""
    rgb = dataset.image(image.id)
    if rgb.shape[:2] != image.size:
        raise InputError(
            f"{image.id}: is {rgb.shape[:2]} now and was {image.size} when its CAM was made; "
            "make the CAMs again"
        )
    maps = image.initial if entry["map"] == "initial" else image.refined
    label, confidence = labels_and_confidence(maps, image.keys, rgb, entry)
    label_path = folder / "labels" / f"{image.id}.png"
    confidence_path = folder / "confidence" / f"{image.id}.png"
    write_label(label_path, label)
    write_confidence(confidence_path, confidence)
    return image.id, sha256(label_path), sha256(confidence_path), ""
