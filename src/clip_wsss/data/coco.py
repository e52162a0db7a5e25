"""Instances files in COCO's format: the classes of images, and masks drawn from the objects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from clip_wsss.core.errors import InputError
from clip_wsss.data.vocabulary import IGNORE


@dataclass(frozen=True)
class Instance:
    """One annotated object: 0-based class, whether it is a crowd, polygons or RLE, its id."""

    label: int
    crowd: bool
    region: Any  # None: it has none
    id: int


@dataclass(frozen=True)
class Picture:
    """One image and its objects; height and width are None where the file does not say them."""

    file: str
    height: int | None
    width: int | None
    instances: tuple[Instance, ...]

    @property
    def id(self) -> str:
        """The file name without its suffix."""
        return PurePosixPath(self.file).stem


def decode(region: Any, height: int, width: int) -> np.ndarray:
    """An instance's region as (H, W) bool: a list of polygons, or an RLE, compressed or not.

    Polygons of fewer than three points cover nothing.

    Raises:
        ValueError: it is neither, or an RLE of another size.
    """
    from pycocotools import mask as rle  # here, since the plan does without it

    if isinstance(region, Mapping):
        if isinstance(region["counts"], list):
            region = rle.frPyObjects(region, height, width)
        if list(region["size"]) != [height, width]:
            raise ValueError(f"a run length code of {region['size']} in {[height, width]}")
        return rle.decode(region).astype(bool)
    polygons = [polygon for polygon in region if len(polygon) >= 6]
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width))).astype(bool)


def rasterise(picture: Picture) -> np.ndarray:
    """The semantic mask of an image, (H, W) uint8: 0 background, 1..C classes, 255 ignored.

    Crowds are 255 and lie below every instance; of two instances that overlap, the one that covers
    fewer pixels lies above, and of two equal ones that with the lower id.

    Raises:
        InputError: the image has no size, or an object no region that can be drawn.
    """
    if picture.height is None or picture.width is None:
        raise InputError(f"{picture.file}: has no height and width in the JSON; add them")
    mask = np.zeros((picture.height, picture.width), dtype=np.uint8)
    layers = []
    for instance in picture.instances:
        try:
            if instance.region is None:
                raise ValueError("there is none")
            region = decode(instance.region, picture.height, picture.width)
        except Exception as error:  # pycocotools raises whatever it stumbles over
            raise InputError(
                f"{picture.file}: the segmentation of object {instance.id} cannot be drawn "
                f"({error}); correct the JSON, or set dataset.masks to a folder of PNGs"
            ) from None
        if instance.crowd:
            mask[region] = IGNORE
        else:
            layers.append((-int(region.sum()), -instance.id, instance.label, region))
    for _, _, label, region in sorted(layers, key=lambda layer: layer[:2]):
        mask[region] = label + 1
    return mask


def read_pictures(
    content: bytes, classes: Sequence[str], source: str, empty: bool = False
) -> list[Picture]:
    """The images that hold at least one object, in the order of their ids; with `empty` all.

    The class of an object is the place of its category's name in `classes`. Ids may be numbers or
    text; `iscrowd`, `segmentation`, an object's id and the size of an image may be missing.

    Args:
        content: an instances JSON.
        classes: of the vocabulary.
        source: names the file in messages.
        empty: whether images without an object count.

    Raises:
        InputError: not such a JSON, a category that the vocabulary lacks, an object of an image or
            category that is not listed, or two images of one id.
    """
    try:
        data = json.loads(content, object_hook=_compact)
        listed, names = data["images"], {str(c["id"]): c["name"] for c in data["categories"]}
        images = {str(item["id"]): str(item["file_name"]) for item in listed}
        if len(images) < len(listed):
            raise InputError(f"{source}: two images have the same id; keep one")
        if strange := [name for name in names.values() if name not in classes]:
            raise InputError(f"{source}: category `{strange[0]}` is missing in dataset.vocabulary")
        index = {key: classes.index(name) for key, name in names.items()}
        objects: dict[str, list[Instance]] = {key: [] for key in images}
        for place, item in enumerate(data["annotations"]):
            image, category = str(item["image_id"]), str(item["category_id"])
            for what, key, known in (("image", image, images), ("category", category, names)):
                if key not in known:
                    raise InputError(
                        f"{source}: annotation {item.get('id', place)} is of {what} {key}, which "
                        "is not listed; add it or remove the annotation"
                    )
            number = item.get("id", place)
            objects[image].append(
                Instance(
                    index[category],
                    bool(item.get("iscrowd", 0)),
                    _region(item.get("segmentation")),
                    number if isinstance(number, int) else place,
                )
            )
        pictures = [
            Picture(
                images[key := str(item["id"])],
                item.get("height"),
                item.get("width"),
                tuple(objects[key]),
            )
            for item in listed
            if empty or objects[str(item["id"])]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{source}: not a COCO instances file ({what}); replace it") from None
    if len({picture.id for picture in pictures}) < len(pictures):
        raise InputError(f"{source}: two images have the same file name; rename one")
    return sorted(pictures, key=lambda picture: picture.id)


def _region(given: Any) -> Any:
    """The segmentation of an object, None where it is left out or empty."""
    return given if isinstance(given, Mapping) or (given is not None and len(given)) else None


def _compact(item: dict) -> dict:
    """Polygons as arrays while the JSON is read: lists of floats would take gigabytes."""
    if isinstance(item.get("segmentation"), list):
        item["segmentation"] = [np.array(polygon) for polygon in item["segmentation"]]
    return item
