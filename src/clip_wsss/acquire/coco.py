"""COCO 2014 as a VOC-format data set: semantic masks drawn from the instances."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle
from tqdm import tqdm

from clip_wsss.acquire.archives import (
    Member,
    one,
    open_members,
    same_sources,
    write_list,
)
from clip_wsss.acquire.download import read_receipt, require_space
from clip_wsss.acquire.registry import check_split
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import write_label
from clip_wsss.core.processes import process_context
from clip_wsss.data.datasets import IGNORE
from clip_wsss.data.vocabulary import read_vocabulary

SPLITS = ("train", "val")
CHUNK = 64  # images that one process takes at a time


@dataclass(frozen=True)
class Instance:
    """One annotated object: 0-based class, whether it is a crowd, polygons or RLE, its id."""

    label: int
    crowd: bool
    region: Any
    id: int


@dataclass(frozen=True)
class Picture:
    """One image of COCO and its objects."""

    file: str
    height: int
    width: int
    instances: tuple[Instance, ...]

    @property
    def id(self) -> str:
        """The file name without its suffix."""
        return Path(self.file).stem


def decode(region: Any, height: int, width: int) -> np.ndarray:
    """An instance's region as (H, W) bool: a list of polygons, or an RLE, compressed or not.

    Polygons of fewer than three points cover nothing.
    """
    if isinstance(region, Mapping):
        if isinstance(region["counts"], list):
            region = rle.frPyObjects(region, height, width)
        return rle.decode(region).astype(bool)
    polygons = [polygon for polygon in region if len(polygon) >= 6]
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width))).astype(bool)


def rasterise(picture: Picture) -> np.ndarray:
    """The semantic mask of an image, (H, W) uint8: 0 background, 1..C classes, 255 ignored.

    Crowds are 255 and lie below every instance; of two instances that overlap, the one that covers
    fewer pixels lies above, and of two equal ones that with the lower id.
    """
    mask = np.zeros((picture.height, picture.width), dtype=np.uint8)
    layers = []
    for instance in picture.instances:
        region = decode(instance.region, picture.height, picture.width)
        if instance.crowd:
            mask[region] = IGNORE
        else:
            layers.append((-int(region.sum()), -instance.id, instance.label, region))
    for _, _, label, region in sorted(layers, key=lambda layer: layer[:2]):
        mask[region] = label + 1
    return mask


def read_pictures(content: bytes, classes: Sequence[str], source: str) -> list[Picture]:
    """The images that hold at least one object, in the order of their ids.

    `content` is an instances JSON; the class of an object is the place of its category's name in
    `classes`.

    Raises:
        InputError: not such a JSON, or a category that the vocabulary lacks.
    """
    try:
        data = json.loads(content, object_hook=_compact)
        images, annotations = data["images"], data["annotations"]
        names = {item["id"]: item["name"] for item in data["categories"]}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{source}: not a COCO instances file ({error}); replace it") from None
    if strange := [name for name in names.values() if name not in classes]:
        raise InputError(f"{source}: category `{strange[0]}` is missing in dataset.vocabulary")
    index = {key: classes.index(name) for key, name in names.items()}
    objects: dict[int, list[Instance]] = {}
    for item in annotations:
        instance = Instance(
            index[item["category_id"]], bool(item["iscrowd"]), item["segmentation"], item["id"]
        )
        objects.setdefault(item["image_id"], []).append(instance)
    pictures = [
        Picture(item["file_name"], item["height"], item["width"], tuple(objects[item["id"]]))
        for item in images
        if item["id"] in objects
    ]
    return sorted(pictures, key=lambda picture: picture.id)


def _compact(item: dict) -> dict:
    """Polygons as arrays while the JSON is read: lists of floats would take gigabytes."""
    if isinstance(item.get("segmentation"), list):
        item["segmentation"] = [np.array(polygon) for polygon in item["segmentation"]]
    return item


def build(
    root: str | os.PathLike,
    receipts: Mapping[str, str | os.PathLike],
    settings: Mapping,
    vocabulary: str | os.PathLike,
    labels: str | os.PathLike,
    workers: int,
) -> None:
    """Lay COCO 2014 out below `root`: JPEGImages, SegmentationClass, lists, and the labels' CSV.

    The image-level labels are the classes of an image's objects, crowds included, in the order of
    the vocabulary. Lists and CSV are written last; what an interrupted call left behind is kept.

    Args:
        root: e.g. data/coco14.
        receipts: of coco2014-annotations, coco2014-train and coco2014-val.
        settings: the config's `sources` block.
        vocabulary: file with the classes.
        labels: the CSV to write.
        workers: processes.

    Raises:
        InputError: a source lacks a file, a list is not the official one, or the disk is full.
    """
    root, labels = Path(root), Path(labels)
    classes = read_vocabulary(vocabulary).classes
    reuse = same_sources(root, receipts, more="\n".join(classes))  # masks hold their numbers
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    splits, rows = {}, []
    for split in SPLITS:
        source = read_receipt(receipts["coco2014-annotations"])
        with open_members(source) as members:
            name = f"instances_{split}2014.json"
            content = one(members, name, source=source).read()
        pictures = read_pictures(content, classes, f"{source}, {name}")
        del content
        splits[split] = [picture.id for picture in pictures]
        check_split(splits[split], split, "coco14", settings)
        rows += [(picture.id, ";".join(_labels(picture, classes))) for picture in pictures]
        _write_pictures(pictures, read_receipt(receipts[f"coco2014-{split}"]), root, reuse, workers)
    labels.parent.mkdir(parents=True, exist_ok=True)
    with labels.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "labels"), *rows])
    for split, ids in splits.items():
        write_list(root / "ImageSets" / "Segmentation" / f"{split}.txt", ids)


def _labels(picture: Picture, classes: Sequence[str]) -> list[str]:
    return [classes[label] for label in sorted({item.label for item in picture.instances})]


def _write_pictures(
    pictures: list[Picture], source: Path, root: Path, reuse: bool, workers: int
) -> None:
    with open_members(source) as members:
        images = {member.name.name: member for member in members.values()}
        if missing := [picture.file for picture in pictures if picture.file not in images]:
            raise InputError(
                f"{source}: has no {missing[0]} ({len(missing)} of {len(pictures)} are missing); "
                "get the whole archive"
            )
        wanted = [images[picture.file] for picture in pictures]
        new = [
            member
            for member in wanted
            if member.file is None
            and not (reuse and (root / "JPEGImages" / member.name.name).exists())
        ]
        require_space(root, sum(member.size for member in new), source.name)
    with (
        ProcessPoolExecutor(
            workers, mp_context=process_context(), initializer=_open, initargs=(source,)
        ) as pool,
        tqdm(desc=source.name, total=len(pictures), unit="image", disable=None) as bar,
    ):
        starts = range(0, len(pictures), CHUNK)
        chunks = [(pictures[start : start + CHUNK], root, reuse) for start in starts]
        for done in pool.map(_write_chunk, chunks):
            bar.update(done)


_IMAGES: dict[str, Member] = {}  # in a worker process: the archive's images by file name
_OPEN = ExitStack()  # what keeps that archive open until the process ends


def _open(source: Path) -> None:
    """Open the archive in a worker process: two processes cannot share a file position."""
    members = _OPEN.enter_context(open_members(source))
    _IMAGES.update({member.name.name: member for member in members.values()})


def _write_chunk(chunk: tuple[list[Picture], Path, bool]) -> int:
    pictures, root, reuse = chunk
    for picture in pictures:
        _IMAGES[picture.file].save(root / "JPEGImages" / picture.file, reuse)
        mask = root / "SegmentationClass" / f"{picture.id}.png"
        if not (reuse and mask.exists()):
            write_label(mask, rasterise(picture))
    return len(pictures)
