"""Instances files in COCO's format: the classes of images, and masks drawn from the objects."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

import numpy as np

from clip_wsss.core.errors import InputError, kind_and_words
from clip_wsss.core.memory import check_memory
from clip_wsss.data.vocabulary import IGNORE

LARGEST = 100_000  # height and width of an image, far beyond those of any data set


@dataclass(frozen=True)
class Instance:
    """One annotated object: 0-based class, whether it is a crowd, polygons or RLE, its id, bbox."""

    label: int
    crowd: bool
    region: Any  # None: it has none
    id: int
    box: Any = None  # as given


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its objects; height and width are None where the file does not say them."""

    file: str
    height: int | None
    width: int | None
    instances: tuple[Instance, ...]

    @property
    def id(self) -> str:
        """The file name without its suffix."""
        return PureWindowsPath(self.file).stem  # which knows both separators


def decode_region(region: Any, height: int, width: int) -> np.ndarray:
    """An instance's region as (H, W) bool: a list of polygons, or an RLE, compressed or not.

    Polygons of fewer than three points cover nothing.

    Raises:
        ValueError: it is neither; polygons with odd or far numbers, or all beside the image; or an
            RLE that is not of this many pixels.
    """
    from pycocotools import mask as rle  # here, since the plan does without it

    # All is checked before pycocotools sees it, which reads and writes where it should not.
    if isinstance(region, Mapping):
        if list(region["size"]) != [height, width]:
            raise ValueError(f"a run length code of {region['size']} in {[height, width]}")
        counts = region["counts"]
        runs = counts if isinstance(counts, list) else _runs(counts)
        if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
            raise ValueError(f"the run lengths must add up to the {height * width} pixels")
        if isinstance(counts, list):
            region = rle.frPyObjects(region, height, width)
        return rle.decode(region).astype(bool)
    given = [np.asarray(polygon) for polygon in region]
    if any(one.ndim != 1 or one.dtype.kind not in "iuf" or len(one) % 2 for one in given):
        raise ValueError("polygons must be lists of numbers [x1, y1, x2, y2, ...]")
    if len(given) >= 3 and all(len(one) == 2 for one in given):
        raise ValueError("one list for each point; a polygon must be one list of all its points")
    polygons = [polygon for polygon in given if len(polygon) >= 6]
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    numbers = np.concatenate(polygons)
    far = 2 * max(height, width) + 100
    if not (np.isfinite(numbers).all() and (np.abs(numbers) <= far).all()):
        raise ValueError(f"polygons must have finite numbers near the image of {height} x {width}")
    xs, ys = (np.concatenate([one[start::2] for one in polygons]) for start in (0, 1))
    if xs.max() < 0 or ys.max() < 0 or xs.min() > width or ys.min() > height:
        raise ValueError(f"all polygons lie outside of the image of {height} x {width}")
    return rle.decode(rle.merge(rle.frPyObjects(polygons, height, width))).astype(bool)


def _runs(text: str | bytes) -> list[int]:
    """Run lengths of a compressed RLE: five bits a character; from the fourth on differences."""
    runs: list[int] = []
    value = shift = 0
    for code in text.encode() if isinstance(text, str) else text:
        value |= (code - 48 & 31) << shift
        shift += 5
        if not code - 48 & 32:
            if code - 48 & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run lengths end in the middle of a number")
    return runs


def rasterise(picture: AnnotatedImage) -> np.ndarray:
    """The semantic mask of an image, (H, W) uint8: 0 background, 1..C classes, 255 ignored.

    Crowds are 255 and lie below every instance; of two instances that overlap, the one that covers
    fewer pixels lies above, and of two equal ones that with the lower id.

    Raises:
        InputError: the image has no size, or an object no region that can be drawn.
    """
    if picture.height is None or picture.width is None:
        raise InputError(f"{picture.file}: has no height and width in the JSON; add them")
    pixels = picture.height * picture.width
    check_memory(4 * pixels, f"{picture.file}: its mask", "correct its height and width")
    mask = np.zeros((picture.height, picture.width), dtype=np.uint8)
    layers = []
    for instance in picture.instances:
        try:
            if instance.region is None:
                raise ValueError("there is none")
            region = decode_region(instance.region, picture.height, picture.width)
        except Exception as error:  # pycocotools raises whatever it stumbles over
            raise InputError(
                f"{picture.file}: the segmentation of object {instance.id} cannot be drawn "
                f"({kind_and_words(error)}); correct the JSON, or set dataset.masks to a folder of "
                "PNGs"
            ) from None
        if instance.crowd:
            mask[region] = IGNORE
        else:
            layers.append((-int(region.sum()), -instance.id, instance.label, region))
    for _, _, label, region in sorted(layers, key=lambda layer: layer[:2]):
        mask[region] = label + 1
    return mask


def check_boxes(picture: AnnotatedImage) -> None:
    """Compare the bounds of regions with the bbox [x, y, width, height] of their annotation.

    Nothing is compared where a bbox is missing or empty, or no four numbers; then run lengths must
    not be much more of one piece when they are read along the rows.

    Args:
        picture: one that `rasterise` draws.

    Raises:
        InputError: the IoU of the two, within the image, is below 0.5, and a side is off by more
            than 2 pixels.
    """
    assert picture.height is not None, "which `rasterise` demands"
    assert picture.width is not None
    limits = np.array([picture.width, picture.height] * 2)
    for one in picture.instances:
        try:
            x, y, width, height = map(float, one.box)
        except (TypeError, ValueError, OverflowError):
            if _along_rows(one.region, picture.height, picture.width):
                raise InputError(
                    f"{picture.file}: run lengths of object {one.id} seem to go along the rows, "
                    "but must go down the columns (give its bbox, if they do)"
                ) from None
            continue
        drawn = _bounds(one.region, picture.height, picture.width)
        if drawn is None or width <= 0 or height <= 0:
            continue
        said = np.array([x, y, x + width, y + height])
        if not _agree(np.clip(drawn, 0, limits), np.clip(said, 0, limits)):
            raise InputError(
                f"{picture.file}: the segmentation of object {one.id} spans x {drawn[0]:g} to "
                f"{drawn[2]:g} and y {drawn[1]:g} to {drawn[3]:g}, but its bbox {said[0]:g} to "
                f"{said[2]:g} and {said[1]:g} to {said[3]:g}; correct it (polygons must be [x1, "
                "y1, x2, y2, ...] in pixels, run lengths go down the columns) or the bbox, or "
                "remove the bbox"
            )


def _bounds(region: Any, height: int, width: int) -> np.ndarray | None:
    """Left, top, right and bottom of polygons or run lengths; None of those that cover nothing."""
    if isinstance(region, Mapping):
        drawn = decode_region(region, height, width)
        rows, columns = (np.flatnonzero(drawn.any(axis=axis)) for axis in (1, 0))
        ends = (columns[:1], rows[:1], columns[-1:] + 1, rows[-1:] + 1)
        return np.concatenate(ends).astype(float) if len(rows) else None
    polygons = [part for part in region if len(part) >= 6]
    if not polygons:
        return None
    points = np.concatenate(polygons).reshape(-1, 2)
    return np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(float)


def _along_rows(region: Any, height: int, width: int) -> bool:
    """Whether run lengths have a far shorter outline if they go along the rows."""
    if not isinstance(region, Mapping):
        return False
    drawn = decode_region(region, height, width)

    def outline(mask: np.ndarray) -> int:
        return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())

    return outline(drawn) > 4 * outline(drawn.T.reshape(height, width))


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes [x1, y1, x2, y2] have an IoU of 0.5, or are off by 2 pixels at most."""

    def area(low: np.ndarray, high: np.ndarray) -> float:
        return float(np.prod(np.maximum(high - low, 0)))

    both = area(np.maximum(one, other)[:2], np.minimum(one, other)[2:])
    either = area(one[:2], one[2:]) + area(other[:2], other[2:]) - both
    return 2 * both >= either > 0 or bool((np.abs(one - other) <= 2).all())


def read_pictures(
    content: bytes, classes: Sequence[str], source: str, empty: bool = False
) -> list[AnnotatedImage]:
    """The images that hold at least one object, in the order of their ids; with `empty` all.

    The class of an object is the place of its category's name in `classes`. Ids may be whole
    numbers (1.0 is 1) or text; `iscrowd`, `segmentation`, an object's id and the size of an image
    may be missing. An object to `ignore` is a crowd.

    Args:
        content: an instances JSON.
        classes: of the vocabulary.
        source: names the file in messages.
        empty: whether images without an object count.

    Raises:
        InputError: not such a JSON, a key or an id of a category given twice, an object of a
            category that the vocabulary lacks, or of an image or category that is not listed, or
            with a score other than 1, two images of one id, a size, `iscrowd` or `ignore` of
            another kind, or polygons in shares of the image.
    """
    try:
        data = json.loads(content, object_pairs_hook=_compact, parse_constant=_no_number)
        if not isinstance(data, dict):
            raise ValueError("a list, where a mapping is wanted")
        for key in ("images", "annotations", "categories"):
            if not isinstance(data[key], list):
                raise ValueError(f"{key} must be a list")
        listed, names = data["images"], {_id(c["id"]): c["name"] for c in data["categories"]}
        if len(names) < len(data["categories"]):
            raise InputError(f"{source}: two categories have the same id; keep one")
        images = {_id(item["id"]): str(item["file_name"]) for item in listed}
        if len(images) < len(listed):
            raise InputError(f"{source}: two images have the same id; keep one")
        index = {key: classes.index(name) for key, name in names.items() if name in classes}
        objects: dict[str, list[Instance]] = {key: [] for key in images}
        for place, item in enumerate(data["annotations"]):
            image, category = _id(item["image_id"]), _id(item["category_id"])
            number = item.get("id", place)
            where = f"{source}: annotation {number}"
            for what, key, known in (("image", image, images), ("category", category, names)):
                if key not in known:
                    raise InputError(
                        f"{where} is of {what} {key}, which is not listed; add it or remove the "
                        "annotation"
                    )
            if category not in index:
                raise InputError(
                    f"{where} is of the category `{names[category]}`, which is missing in "
                    "dataset.vocabulary; add it to the classes there, or remove its annotations"
                )
            if item.get("score") not in (None, 1):
                raise InputError(
                    f"{where} has a score, as predictions have, but every annotation counts as "
                    "true; keep those that are, and remove the scores"
                )
            objects[image].append(
                Instance(
                    index[category],
                    _is_set(item, "iscrowd", where) or _is_set(item, "ignore", where),
                    _region(item.get("segmentation")),
                    int(number) if _is_whole(number) else place,
                    item.get("bbox"),
                )
            )
        pictures = [
            AnnotatedImage(
                images[key := _id(item["id"])],
                _side(item, "height", source),
                _side(item, "width", source),
                tuple(objects[key]),
            )
            for item in listed
            if empty or objects[_id(item["id"])]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{source}: not a COCO instances file ({what}); replace it") from None
    if len({picture.id for picture in pictures}) < len(pictures):
        raise InputError(f"{source}: two images have the same file name; rename one")
    if most := _share(pictures):
        raise InputError(
            f"{source}: all polygons lie within 0 and {most}, as shares of the image; write pixels"
        )
    return sorted(pictures, key=lambda picture: picture.id)


def _id(given: Any) -> str:
    """An id as text; of a table program that writes all numbers as floats, 1.0 is 1."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(f"an id must be a number or text; got {given!r}")
    if isinstance(given, str):
        return given
    if not _is_whole(given):
        raise ValueError(f"an id must be a whole number; got {given!r}")
    return str(int(given))


def _is_whole(given: Any) -> bool:
    return isinstance(given, int) or (isinstance(given, float) and given.is_integer())


def _is_set(item: Mapping, key: str, where: str) -> bool:
    given = item.get(key, 0)
    if not isinstance(given, int | float) or given not in (0, 1):
        raise InputError(f"{where}: {key} must be 0 or 1; got {given!r}")
    return bool(given)


def _region(given: Any) -> Any:
    """The segmentation of an object, None where it is left out or empty."""
    return given if isinstance(given, Mapping) or (given is not None and len(given)) else None


def _side(item: Mapping, key: str, source: str) -> int | None:
    """Height or width of an image, None where it is left out."""
    side = item.get(key)
    if side is not None and (type(side) is not int or not 1 <= side <= LARGEST):
        raise InputError(
            f"{source}: {item['file_name']}: {key} must be a whole number from 1 to {LARGEST}; "
            f"got {side!r}"
        )
    return side


def _share(pictures: Sequence[AnnotatedImage]) -> int | None:
    """1 or 100 where polygons are shares of their images: no number of any is above it.

    Percents reach up to 91 or more somewhere, in images that are all much larger.
    """
    largest = [
        (max(polygon.max() for polygon in polygons), picture)
        for picture in pictures
        if (polygons := [*_polygons(picture)])
    ]
    most = max((number for number, _ in largest), default=None)
    if most is None or most > 100:
        return None
    if most <= 1:
        return 1
    large = (min(one.height or 0, one.width or 0) > 200 for _, one in largest)
    return 100 if len(largest) > 2 and most > 90 and all(large) else None


def _polygons(picture: AnnotatedImage) -> Iterator[np.ndarray]:
    for one in picture.instances:
        for polygon in one.region if isinstance(one.region, list) else ():
            if polygon.ndim == 1 and polygon.dtype.kind in "iuf" and len(polygon) >= 6:
                yield polygon


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _compact(pairs: list[tuple[str, Any]]) -> dict:
    """Polygons as arrays while the JSON is read: lists of floats would take gigabytes."""
    item = dict(pairs)
    if len(item) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key `{twice}` is given twice")
    if isinstance(item.get("segmentation"), list):
        item["segmentation"] = [np.array(polygon) for polygon in item["segmentation"]]
    return item
