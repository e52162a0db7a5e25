"""Data sets in the VOC devkit layout, and plain folders of images with a CSV of labels.

A data set is only ever read from here: the user's folder is never written to.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import check_file, is_note, other_case
from clip_wsss.core.images import image_size, read_fraction, read_label, read_rgb
from clip_wsss.core.spelling import LOOK_ALIKE, looks
from clip_wsss.data.annotations import coco_images, read_labels, read_xml, xml_size
from clip_wsss.data.coco import check_boxes, rasterise
from clip_wsss.data.lists import IMAGE_SUFFIXES, check_id, is_picture, read_ids
from clip_wsss.data.vocabulary import IGNORE, Vocabulary, duplicates, read_vocabulary

TAGCLIP = "tagclip"  # the `labels` of a data set whose labels are predicted (`clip_wsss.tags`)
ALL = "all"  # the split that holds every image of the folder, where no such list exists


def classes_in(mask: np.ndarray) -> list[int]:
    """The classes, 0-based, that a ground truth (H, W) uint8 shows."""
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    return (values[(values > 0) & (values < IGNORE)] - 1).tolist()


def open_dataset(settings: Mapping) -> "Dataset":
    """Open the data set that the `dataset` block of a config describes.

    Only the vocabulary is read here; the folder may still have to be made.

    Raises:
        InputError: the vocabulary cannot be used, or `labels: xml` with a source without XML.
    """
    if settings["source"] == "images" and settings["labels"] == "xml":
        raise InputError(
            "dataset.labels: a plain folder of images has no XML; set it to a CSV with the "
            "columns image and labels, or to tagclip"
        )
    return Dataset(dict(settings), read_vocabulary(settings["vocabulary"]))


@dataclass
class Dataset:
    """Images, image-level labels and ground truth by image id (a file name without its suffix)."""

    settings: dict = field(repr=False)
    vocabulary: Vocabulary = field(repr=False)
    _copied: bool = field(default=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the data set, as in results/<name>."""
        return self.settings["name"]

    @property
    def root(self) -> Path:
        """The folder that holds the data."""
        return Path(self.settings["root"])

    @property
    def image_folder(self) -> Path:
        """JPEGImages below the root, or the root of a plain folder of images."""
        return self.root if self.settings["source"] == "images" else self.root / "JPEGImages"

    def split_file(self, split: str) -> Path | None:
        """The list of a split: a path that ends in .txt, else ImageSets/Segmentation/<split>.txt.

        None for `all` of the user's own data where no such list exists: every image is in it.
        """
        if split.endswith(".txt"):
            return Path(split)
        path = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        return None if self._own and split == ALL and not os.path.exists(path) else path

    def ids(self, split: str) -> list[str]:
        """Ids of a split in the order of its list; those of `all` are sorted.

        Raises:
            InputError: the list is missing or empty, names an image twice, or holds what is not an
                id (`clip_wsss.data.lists`).
        """
        path = self.split_file(split)
        if path is None:
            given = not self._xml_labels and not self._predicted
            found = set(self._files) | (set(self._labels) if given else set())
            if not found:
                raise InputError(f"{self.image_folder}: holds no images; set dataset.root")
            for name in found:
                check_id(name, str(self.image_folder))
            return sorted(found)
        if not os.path.exists(path):  # also of a name that is too long for one
            if not self.root.is_dir():
                made = "" if self._own else "run the workflow, which makes it, or "
                raise InputError(f"{self.root}: no such folder; {made}set dataset.root")
            if not path.parent.is_dir() and not split.endswith(".txt"):
                raise InputError(
                    f"{path}: no such list of images; dataset.root ({self.root}) must hold "
                    "ImageSets/Segmentation, or set dataset.splits to lists by their paths (.txt), "
                    f"or to {ALL}"
                )
            lists = (file for file in path.parent.glob("*.txt") if not is_note(file.name))
            there = sorted(file.stem for file in lists)
            raise InputError(
                f"{path}: no such list of images; set dataset.splits to lists that exist "
                f"(there: {', '.join(there) or 'none'})"
            )
        folder = self.image_folder
        known = (lambda: self._files) if folder.is_dir() else tuple
        ids = read_ids(path, folder.name, known, self._index)
        if not ids:
            raise InputError(f"{path}: the list is empty; write one image id a line")
        if twice := duplicates(ids):
            raise InputError(f"{path}: lists {some(twice)} more than once; keep one line of each")
        return ids

    def check_lists(self) -> None:
        """Read the lists and the labels of the user's own data, which no rule makes.

        Raises:
            InputError: one of them is missing or cannot be used.
        """
        if self._own:
            if not self._xml_labels and not self._predicted:
                self._labels  # noqa: B018 - read, and kept
            for split in sorted(set(self.settings["splits"].values()) - {None}):
                self.ids(split)
        truth = (self.settings.get("tagclip") or {}).get("truth")
        if self._predicted and truth not in (None, "xml"):
            check_file(truth, "there are no such labels; correct dataset.tagclip.truth")

    def image_path(self, name: str) -> Path:
        """Path of an image. Raises InputError if it is missing."""
        if name not in self._files:
            if other := self._others.get(name):
                raise InputError(
                    f"{self.image_folder / name}: no such image, but {other} is there; save it as "
                    f"one of {', '.join(IMAGE_SUFFIXES)}"
                )
            if looks([name]) <= self._looks_of_files:
                raise InputError(
                    f"{self.image_folder / name}: no such image, but {LOOK_ALIKE}; copy its name"
                )
            raise InputError(
                f"{self.image_folder / name}: no such image ({', '.join(IMAGE_SUFFIXES)}); add the "
                "file or take its line out of the list"
            )
        return self.image_folder / self._files[name]

    def version(self, name: str) -> str:
        """Size and time of an image's file, which tell whether it was replaced; empty without."""
        if name not in self._files:
            return ""
        stat = os.stat(self.image_folder / self._files[name])
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def lengths(self, split: str, truth: bool = False) -> dict[str, str]:
        """By id of a split, in words, the bytes of its image and XML, or of its ground truth.

        Not what the files hold, since it is asked for by every plan: one that is put in the
        place of another has mostly another length, and `touch` changes none.
        """
        labels = self.root / "Annotations" if self._xml_labels else None
        found = {}
        for name in self.ids(split):
            image = self.image_folder / self._files[name] if name in self._files else None
            files = [self.mask_path(name)] if truth else [image, labels and labels / f"{name}.xml"]
            found[name] = " ".join([name, *(str(_length(file)) for file in files)])
        return found

    def image(self, name: str) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB.

        Raises:
            InputError: it is missing or cannot be used (`clip_wsss.core.images.read_rgb`), or of
                another size than its XML says.
        """
        self.size(name)
        return read_rgb(self.image_path(name), self._stored)

    def size(self, name: str) -> tuple[int, int]:
        """Height and width of an image; with `size: xml` they must be those of its XML.

        An image without XML (a test image) has nothing to disagree with.

        Raises:
            InputError: the image is missing or cannot be used, or its XML gives another size.
        """
        path = self.image_path(name)
        height, width = image_size(path, self._stored)
        xml = self.root / "Annotations" / f"{name}.xml"
        if self.settings["size"] == "xml" and (xml.exists() or other_case(xml)):
            stated = xml_size(read_xml(xml), xml)
            if stated != (height, width):
                raise InputError(
                    f"{xml}: says {stated[1]} x {stated[0]}, but {path.name} is {width} x {height} "
                    f"(width x height){_turned(stated, (height, width))}; correct the XML, or set "
                    "dataset.size to image"
                )
        return height, width

    def labels(self, name: str) -> list[int]:
        """Classes of an image, 0-based, in order of first appearance, duplicates dropped.

        The order is that of the objects in the XML, since it breaks ties (docs/parity.md,
        fact 5), or of the file of labels. With `negatives: background` there may be none.

        Raises:
            InputError: no XML or no row, no class, or a class that the vocabulary lacks; or labels
                that are still to be predicted.
        """
        if self.settings["labels"] == TAGCLIP:
            raise InputError("dataset.labels: tagclip: the labels are still to be predicted")
        negatives = self.settings.get("negatives", "refuse") == "background"
        if self._xml_labels:
            source = self.root / "Annotations" / f"{name}.xml"
            # Direct children only: VOC's person objects hold <part> elements with names too.
            where, objects = str(source), read_xml(source).findall("object")
            if any(len(item.findall("name")) > 1 for item in objects):
                raise InputError(f"{where}: an object has several names; keep one of each")
            found = [item.findtext("name", "").strip() for item in objects]
            if not found and not negatives:
                raise InputError(
                    f"{where}: has no objects, so the image has no class; add one, take the image "
                    "out of the list, or set dataset.negatives to background"
                )
        else:
            where = f"{self.settings['labels']}, image {name}"
            row = self._labels.get(name)
            if row is None:
                if looks([name]) <= self._looks_of_labels:
                    raise InputError(f"{where}: has no row, but {LOOK_ALIKE}; copy the file's name")
                raise InputError(f"{where}: has no row; add its labels, or leave the image out")
            found = row
            if not found and not negatives:
                raise InputError(
                    f"{where}: has no labels; add them, leave the image out, or set "
                    "dataset.negatives to background"
                )
        if unknown := [label for label in found if label not in self._index]:
            raise InputError(
                f"{where}: unknown class `{unknown[0]}`; correct it, or add the class to "
                f"{self.settings['vocabulary']}"
            )
        return [self._index[label] for label in dict.fromkeys(found)]

    def xml_image(self, name: str) -> str | None:
        """The image that an XML of labels says it is of, if that is another than `name`."""
        path = self.root / "Annotations" / f"{name}.xml"
        if not self._xml_labels or not path.is_file():
            return None
        said = (read_xml(path).findtext("filename") or "").strip()
        last = PurePosixPath(said.replace("\\", "/"))
        return None if name in (said, last.name, last.stem) or not last.name else said

    def mask_path(self, name: str) -> Path | None:
        """Path of the ground truth of an image; None where the data set has none."""
        folder = self.settings["masks"]
        if folder is None:
            return None
        path = self.root / folder
        return path if path.suffix.lower() == ".json" else path / f"{name}.png"

    def mask(self, name: str) -> np.ndarray | None:
        """Ground truth, (H, W) uint8: 0 background, 1..C classes, 255 ignored; None without masks.

        Raises:
            InputError: it is missing, of another size than the image, or has other values; polygons
                of a JSON contradict their bbox.
        """
        path = self.mask_path(name)
        if path is None:
            return None
        if path.suffix.lower() == ".json":
            drawn = coco_images(path, self.vocabulary.classes)
            if name not in drawn:
                raise InputError(f"{path}: has no image {name}; add it, or leave the image out")
            try:
                mask = rasterise(drawn[name])
                check_boxes(drawn[name])
            except InputError as error:
                raise InputError(f"{path}: {error}") from None
            return self._checked(mask, f"{path}, image {name}", self.size(name))
        check_file(path, "no such mask; add it, or set dataset.masks to the folder that has it")
        mask = read_label(path, self.vocabulary.colours)
        return self._checked(mask, str(path), self.size(name))

    def imported_mask(
        self, name: str, folder: Path, confidences: Path | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The mask of an image that other code made, and its confidences.

        Args:
            name: of the image.
            folder: holds <name>.png.
            confidences: holds <name>.png, grey with 8 or 16 bits, white for 1; None: none.

        Returns:
            (H, W) uint8 as `mask`, and (H, W) float32 in [0, 1] or None.

        Raises:
            InputError: a file is missing or of another size than the image, or the mask has other
                values.
        """
        size, path = self.size(name), Path(folder) / f"{name}.png"
        label = self._checked(read_label(path, self.vocabulary.colours), str(path), size)
        if confidences is None:
            return label, None
        path = Path(confidences) / f"{name}.png"
        values = read_fraction(path)
        _check_size(values, str(path), size)
        return label, values

    def _checked(self, mask: np.ndarray, where: str, size: tuple[int, int]) -> np.ndarray:
        """A mask whose size and values are right."""
        _check_size(mask, where, size)
        count = len(self.vocabulary.classes)
        values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        if strange := [int(value) for value in values if count < value < IGNORE]:
            raise InputError(
                f"{where}: holds the value {strange[0]}, but the vocabulary has {count} classes "
                f"(0 to {count}, and {IGNORE} for ignored); correct the mask or the vocabulary"
            )
        return mask

    def problems(self, split: str, need_masks: bool = False, workers: int = 1) -> dict[str, str]:
        """What is wrong with the images of a split: id -> one line, the good ones left out.

        Every file is read whole, so truncated ones are found. Raises InputError if the list
        itself cannot be used.
        """

        def problem(name: str) -> str | None:
            try:
                self.image(name)
                self.labels(name)
                if need_masks:
                    self.mask(name)
            except InputError as error:
                return str(error)
            return None

        ids = self.ids(split)
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(problem, ids)
            return {name: line for name, line in zip(ids, found, strict=True) if line}

    def check(self, split: str, need_masks: bool = False, workers: int = 1) -> list[str]:
        """The lines of `problems`."""
        return list(self.problems(split, need_masks, workers).values())

    @property
    def _own(self) -> bool:
        """Whether these are the user's own files, rather than made by a rule."""
        return self.settings["source"] in ("folder", "images")

    @property
    def _xml_labels(self) -> bool:
        return self.settings["labels"] == "xml"

    @property
    def _predicted(self) -> bool:
        """Whether a job makes the file of labels."""
        return self.settings.get("tagclip") is not None

    @property
    def _stored(self) -> bool:
        """Whether pixels are taken as stored; those of the public data sets fit their masks so."""
        return not self._own or self.settings.get("orientation") == "stored"

    def __reduce__(self) -> tuple:
        # Without what was read: a copy goes to a worker process with each piece of work, and the
        # process keeps what the first of them reads.
        return Dataset, (self.settings, self.vocabulary, True)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {label: index for index, label in enumerate(self.vocabulary.classes)}

    @cached_property
    def _files(self) -> dict[str, str]:
        """Image id -> file name."""
        if not self.image_folder.is_dir():
            raise InputError(f"{self.image_folder}: no such folder of images; set dataset.root")
        return (_scan if self._copied else _scan.__wrapped__)(self.image_folder)

    @cached_property
    def _others(self) -> dict[str, str]:
        """Name without its suffix -> file name, of what does not count as an image."""
        pairs = ((os.path.splitext(name), name) for name in _names(self.image_folder))
        return {
            stem: name for (stem, suffix), name in pairs if suffix.lower() not in IMAGE_SUFFIXES
        }

    @cached_property
    def _labels(self) -> dict[str, list[str]]:
        read = _read_labels if self._copied else read_labels
        return read(self.settings["labels"], self.vocabulary.classes)

    # Once for all images that are missing, which may be thousands.
    @cached_property
    def _looks_of_files(self) -> frozenset[str]:
        return looks(self._files)

    @cached_property
    def _looks_of_labels(self) -> frozenset[str]:
        return looks(self._labels)


def _length(file: Path | None) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return None if file is None else os.stat(file).st_size
    except OSError:
        return None


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if not is_note(entry.name))


@cache
def _scan(folder: Path) -> dict[str, str]:
    """Image id -> file name."""
    files: dict[str, str] = {}
    for file in _names(folder):
        stem = os.path.splitext(file)[0]
        if is_picture(file):
            if stem in files:
                raise InputError(
                    f"{folder / file}: {files[stem]} has the same id `{stem}`; rename one"
                )
            files[stem] = file
    return files


_read_labels = cache(read_labels)


def _turned(found: Sequence[int], size: tuple[int, int]) -> str:
    """What may be the reason where height and width are exchanged."""
    if (found[1], found[0]) != size:
        return ""
    return ", as if EXIF had turned it, while the pixels are taken as they are stored"


def _check_size(values: np.ndarray, where: str, size: tuple[int, int]) -> None:
    if values.shape != size:
        raise InputError(
            f"{where}: is {values.shape[1]} x {values.shape[0]}, but its image is "
            f"{size[1]} x {size[0]} (width x height){_turned(values.shape, size)}; make it at the "
            "image's size"
        )


def some(names: list[str]) -> str:
    """The first three of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
