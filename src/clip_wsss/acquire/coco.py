"""COCO 2014 (or 2017) as a VOC-format data set: semantic masks drawn from the instances."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

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
from clip_wsss.core.files import write_rows
from clip_wsss.core.images import write_label
from clip_wsss.core.processes import parallel_map
from clip_wsss.data.coco import AnnotatedImage, rasterise, read_pictures
from clip_wsss.data.vocabulary import read_vocabulary

SPLITS = ("train", "val")
CHUNK = 64  # images that one process takes at a time


def build(
    root: str | os.PathLike,
    receipts: Mapping[str, str | os.PathLike],
    settings: Mapping,
    vocabulary: str | Path,
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
            if all(member.name.name != name for member in members.values()):
                name = f"instances_{split}2017.json"  # the same images, shared out otherwise
            content = one(members, name, source=source).read()
        pictures = read_pictures(content, classes, f"{source}, {name}")
        del content
        splits[split] = [picture.id for picture in pictures]
        check_split(splits[split], split, "coco14", settings)
        rows += [(picture.id, ";".join(_labels(picture, classes))) for picture in pictures]
        _write_pictures(pictures, read_receipt(receipts[f"coco2014-{split}"]), root, reuse, workers)
    write_rows(labels, [("image", "labels"), *rows])
    for split, ids in splits.items():
        write_list(root / "ImageSets" / "Segmentation" / f"{split}.txt", ids)


def _labels(picture: AnnotatedImage, classes: Sequence[str]) -> list[str]:
    return [classes[label] for label in sorted({item.label for item in picture.instances})]


def _write_pictures(
    pictures: list[AnnotatedImage], source: Path, root: Path, reuse: bool, workers: int
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
        parallel_map(workers, partial(_open, source)) as mapped,
        tqdm(desc=source.name, total=len(pictures), unit="image", disable=None) as bar,
    ):
        starts = range(0, len(pictures), CHUNK)
        chunks = [(pictures[start : start + CHUNK], root, reuse) for start in starts]
        for done in mapped(_write_chunk, chunks):
            bar.update(done)


_IMAGES: dict[str, Member] = {}  # in a worker process: the archive's images by file name
_OPEN = ExitStack()  # what keeps that archive open until the process ends


def _open(source: Path) -> None:
    """Open the archive in a worker process: two processes cannot share a file position."""
    members = _OPEN.enter_context(open_members(source))
    _IMAGES.clear()
    _IMAGES.update({member.name.name: member for member in members.values()})


def _write_chunk(chunk: tuple[list[AnnotatedImage], Path, bool]) -> int:
    pictures, root, reuse = chunk
    for picture in pictures:
        _IMAGES[picture.file].save(root / "JPEGImages" / picture.file, reuse)
        mask = root / "SegmentationClass" / f"{picture.id}.png"
        if not (reuse and mask.exists()):
            write_label(mask, rasterise(picture))
    return len(pictures)
