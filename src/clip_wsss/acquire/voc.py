"""PASCAL VOC 2012 with SBD's additions: the splits train, train_aug, val and, locally, test."""

import os
from collections.abc import Mapping
from pathlib import Path

from clip_wsss.acquire import sbd
from clip_wsss.acquire.archives import (
    Member,
    below,
    folder_of,
    in_folder,
    listed,
    one,
    open_members,
    same_sources,
    save_all,
    write_list,
)
from clip_wsss.acquire.download import read_receipt
from clip_wsss.acquire.registry import check_split
from clip_wsss.core.errors import InputError
from clip_wsss.data.lists import IMAGE_SUFFIXES

MASKS = "SegmentationClassAug"  # VOC's own masks where they exist, else SBD's


def build(
    root: str | os.PathLike, receipts: Mapping[str, str | os.PathLike], settings: Mapping
) -> None:
    """Lay VOC 2012 out below `root`: what train_aug and val need, and no more.

    train_aug is VOC's train and all of SBD without VOC's val. The lists are written last, so that
    they stand for a finished data set; what an interrupted call left behind is kept.

    Args:
        root: e.g. data/voc12.
        receipts: of the sources voc2012 and sbd.
        settings: the config's `sources` block.

    Raises:
        InputError: a source lacks a file, a list is not the official one, or the disk is full.
    """
    root = Path(root)
    reuse = same_sources(root, receipts)
    source = read_receipt(receipts["voc2012"])
    with open_members(source) as everything:
        place = folder_of(everything, "ImageSets", "Segmentation", "train.txt", source=source)
        members = below(everything, place)  # there may be other years beside it
        splits = {name: _split(members, name, source) for name in ("train", "val")}
        for name, ids in splits.items():
            check_split(ids, name, "voc12", settings)
        own = splits["train"] + splits["val"]
        added = sbd.convert_masks(read_receipt(receipts["sbd"]), own, root / MASKS, reuse)
        splits["train_aug"] = sorted((set(splits["train"]) | set(added)) - set(splits["val"]))
        check_split(splits["train_aug"], "train_aug", "voc12", settings)

        needed = sorted(set(splits["train_aug"]) | set(splits["val"]))
        items = [
            *_find(members, "JPEGImages", ".jpg", needed, root / "JPEGImages", source),
            *_find(members, "Annotations", ".xml", needed, root / "Annotations", source),
            *_find(members, "SegmentationClass", ".png", own, root / "SegmentationClass", source),
            *_find(members, "SegmentationClass", ".png", own, root / MASKS, source),
        ]
        order = {name: position for position, name in enumerate(members)}
        items.sort(key=lambda item: order[str(item[0].name)])  # forwards through the archive
        save_all(items, reuse, "VOC 2012")
    for name, ids in splits.items():
        write_list(root / "ImageSets" / "Segmentation" / f"{name}.txt", ids)


def _split(members: Mapping[str, Member], name: str, source: Path) -> list[str]:
    member = one(members, "ImageSets", "Segmentation", f"{name}.txt", source=source)
    return sorted(listed(member, source))


def _find(
    members: Mapping[str, Member],
    folder: str,
    suffix: str,
    ids: list[str],
    target: Path,
    source: Path,
) -> list[tuple[Member, Path]]:
    """Each id's member of `folder` and the file that it becomes."""
    there: dict[str, Member] = {}
    for member in members.values():
        name = member.name
        if name.parent.name == folder and name.suffix.lower() == suffix:
            other = there.setdefault(name.stem, member)
            if other is not member:
                raise InputError(
                    f"{source}: holds {other.name} and {name}; keep one, or name the folder of one"
                )
    if missing := [name for name in ids if name not in there]:
        raise InputError(
            f"{source}: has no {folder}/{missing[0]}{suffix} ({len(missing)} of {len(ids)} are "
            "missing); get the whole archive"
        )
    return [(there[name], target / f"{name}{suffix}") for name in ids]


def build_test(
    root: str | os.PathLike, receipts: Mapping[str, str | os.PathLike], settings: Mapping
) -> None:
    """Take the images of VOC's test split from an archive or folder, and write its list last.

    Where there is a list (as in the server's archive, which holds the other tasks' images too) it
    says which images are wanted; else all are.

    Args:
        root: e.g. data/voc12.
        receipts: of the source voc2012-test.
        settings: the config's `sources` block.

    Raises:
        InputError: there are no images, or the list is not the official one or names others.
    """
    root = Path(root)
    reuse = same_sources(root, receipts, "test")
    source = read_receipt(receipts["voc2012-test"])
    with open_members(source) as members:
        lists = in_folder(members, "ImageSets", "Segmentation")
        images = {
            item.name.stem: item
            for item in members.values()
            if item.name.suffix.lower() in IMAGE_SUFFIXES
            and "Segmentation" not in item.name.parent.name
        }
        ids = sorted(listed(lists["test"], source) if "test" in lists else images)
        if not ids:
            raise InputError(f"{source}: holds no images; name the folder of VOC's test images")
        if missing := [name for name in ids if name not in images]:
            raise InputError(f"{source}: has no image {missing[0]}; get the whole archive")
        check_split(ids, "test", "voc12", settings)
        items = [(images[name], root / "JPEGImages" / f"{name}.jpg") for name in ids]
        save_all(items, reuse, "VOC 2012 test")
    write_list(root / "ImageSets" / "Segmentation" / "test.txt", ids)
