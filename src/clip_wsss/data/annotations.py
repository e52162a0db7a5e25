"""Image-level labels on disk: VOC's XML files, CSVs, arrays of dictionaries, COCO's JSON."""

import csv
import io
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PureWindowsPath

import numpy as np

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import check_file, decode_text, read_bytes
from clip_wsss.data.coco import AnnotatedImage, read_pictures
from clip_wsss.data.lists import image_id
from clip_wsss.data.pickles import read_dictionary

NAMES = ("image", "filename", "file", "id", "name")  # of the first column of a one-hot table
# Words in the names of columns that say which rows are labels, or how sure they are.
DOUBT = {
    *("score", "scores", "confidence", "probability", "prob", "conf", "percent", "count"),
    *("present", "valid", "keep", "use"),
}
# Words in the names of columns whose numbers do not.
NUMBERED = {
    *("id", "ids", "index", "idx", "row", "key", "image", "file", "frame", "page"),
    *("width", "height", "depth", "w", "h", "channels", "bytes", "size", "area", "resolution"),
    *("box", "bbox", "x", "y", "xmin", "ymin", "xmax", "ymax", "cx", "cy"),
    *("left", "top", "right", "bottom"),
    *("split", "fold", "set", "subset", "part"),
    *("year", "month", "day", "date", "time", "timestamp"),
    *("lat", "lon", "lng", "latitude", "longitude", "altitude"),
    *("camera", "scene", "site", "patient", "subject", "age"),
}
YES = {
    *("true", "t", "yes", "y", "present", "positive", "pos"),
    *("correct", "valid", "sure", "certain", "accepted"),
}
NO = {
    *("false", "f", "no", "n", "absent", "negative", "neg"),
    *("incorrect", "wrong", "invalid", "unsure", "uncertain", "rejected"),
}
NEITHER = {"unknown", "maybe", "+", "-"}  # which may stand for nothing, beside others


def read_labels(path: str | os.PathLike, classes: Sequence[str]) -> dict[str, list[str]]:
    """Image-level labels: image id -> class names in the order of the file.

    Args:
        path: a CSV (`read_labels_csv`); an .npy with a dictionary of one-hot vectors, such as
            cls_labels.npy; or an instances .json in COCO's format.
        classes: of the vocabulary.

    Raises:
        InputError: the file is missing or none of these.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return _read_one_hot(Path(path), classes)
    if suffix == ".json":
        return {
            name: [classes[label] for label in sorted({one.label for one in picture.instances})]
            for name, picture in coco_images(path, classes).items()
        }
    if suffix in (".pkl", ".pickle", ".parquet", ".feather", ".xls", ".xlsx", ".ods", ".pt"):
        check_file(path, "no such labels; correct dataset.labels")
        raise InputError(f"{path}: must be a CSV, an .npy or a .json; write the table as CSV")
    return read_labels_csv(path, classes)


def coco_images(path: str | os.PathLike, classes: Sequence[str]) -> dict[str, AnnotatedImage]:
    """The images of a COCO JSON by id, those without an object too; read once by a process.

    Raises:
        InputError: the file is missing or cannot be used.
    """
    check_file(path, "no such JSON; correct dataset.labels or dataset.masks")
    state = os.stat(path)
    return _coco_images(str(path), tuple(classes), state.st_size, state.st_mtime_ns)


@cache
def _coco_images(path: str, classes: tuple[str, ...], *state: int) -> dict[str, AnnotatedImage]:
    data = read_bytes(path, "no such JSON")
    return {one.id: one for one in read_pictures(data, classes, path, empty=True)}


def read_labels_csv(path: str | os.PathLike, classes: Sequence[str] = ()) -> dict[str, list[str]]:
    """Image-level labels: image id -> class names in the order of the file.

    Columns `image` (a file name or an id) and `labels` (names with `;` between them), or
    `image` and `label` with one row for each pair, or one after the image's for every class with
    0 or 1.

    Raises:
        InputError: no such file, no UTF-8, other columns, a row with more or fewer values than
            columns, an image with two rows of `labels`, or two images of one id (of two folders or
            suffixes).
    """
    path = Path(path)
    missing = "no such CSV; set dataset.labels to one with the columns image and labels"
    text = decode_text(read_bytes(path, missing), str(path))
    header, rows = _table(path, text)
    one_hot = bool(classes) and header[0].lower() in NAMES and set(classes) & set(header[1:])
    many = "labels" in header
    if one_hot:
        if set(header[1:]) != set(classes):
            odd = min(set(header[1:]) ^ set(classes))
            what = (
                "lacks a column for the class"
                if odd in classes
                else "has a column that is not a class,"
            )
            raise InputError(
                f"{path}: {what} {odd}; give each class of the vocabulary one column, after that "
                "of the images"
            )
        name_column = header[0]
    elif "image" in header and {"labels", "label"} & set(header):
        name_column = "image"
        if {"labels", "label"} <= set(header):
            raise InputError(f"{path}: has the columns labels and label; keep one of them")
        for name in header:
            if not name:
                raise InputError(
                    f"{path}: has a column without a name, such as the index that pandas writes; "
                    "remove it (index=False)"
                )
            others = name not in ("image", "labels", "label")
            if others and _is_doubt(name, [row[name] for _, row in rows], pairs=not many):
                raise InputError(
                    f"{path}: has a column {name}, but every row counts as a label; keep the rows "
                    "that are labels, and remove the column"
                )
    else:
        raise InputError(
            f"{path}: needs the columns image and labels (names with ; between them), "
            "or image and label, or image and one for each class, separated by commas"
        )
    found: dict[str, list[str]] = {}
    given: dict[str, str] = {}  # id -> what the first row calls it
    suffixes: dict[str, str] = {}  # id -> the suffix that a row gives it
    for line, row in rows:
        whole = row[name_column].strip()
        name = image_id(PureWindowsPath(whole).name)
        if not name:
            raise InputError(f"{path}, line {line}: names no image; write its file name or id")
        if given.setdefault(name, image_id(whole)) != image_id(whole):
            raise InputError(
                f"{path}, line {line}: {whole} has the id `{name}`, and so has an image in another "
                "folder; rename one"
            )
        if (suffix := whole[len(image_id(whole)) :]) and suffixes.setdefault(
            name, suffix
        ) != suffix:
            raise InputError(
                f"{path}, line {line}: {whole} has the id `{name}`, and so has the image with the "
                f"suffix {suffixes[name]}; rename one"
            )
        if (many or one_hot) and name in found:
            raise InputError(f"{path}: has two rows for {name}; put all its labels into one")
        if one_hot:
            labels = [key for key in header[1:] if _is_one(row[key], f"{path}, line {line}, {key}")]
        else:
            labels = row["labels"].split(";") if many else [row["label"]]
        found.setdefault(name, []).extend(filter(None, map(str.strip, labels)))
    return found


def unused_columns(path: str | os.PathLike) -> list[str]:
    """Columns beside those of images and labels of a CSV of labels that `read_labels_csv` took."""
    path = Path(path)
    header, _ = _table(path, decode_text(read_bytes(path, "no such CSV"), str(path)))
    used = {"image", "labels", "label"}
    return [name for name in header if name not in used] if used & set(header[1:]) else []


def _table(path: Path, text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header and rows of a CSV, each row with its line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    rows = []
    try:
        for values in reader:
            if not any(map(str.strip, values)):
                continue
            if not header:
                header = list(map(str.strip, values))
                if len(set(header)) < len(header):
                    raise InputError(f"{path}: has two columns of one name; rename one")
                continue
            if len(values) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: has {len(values)} values, but there are "
                    f"{len(header)} columns; put text that holds commas into quotes"
                )
            rows.append((reader.line_num, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error}); correct it") from None
    return header or [""], rows


def _is_doubt(name: str, values: Sequence[str], pairs: bool) -> bool:
    """Whether a column says how sure each row is, or which rows are no labels.

    That is one of such a name or with words of yes and no, unless all are yes. So are shares from
    0 to 1 and, where rows are pairs of an image and a label, any numbers, unless the name says what
    they are, or all are 1.
    """
    if name.lower() in DOUBT:
        return True
    given = {value.strip().lower() for value in values} - {"", "nan"}
    if given <= YES | NO | NEITHER:
        return bool(given - YES and (given & (YES | NO) or len(given) > 1))
    named = set(re.findall("[a-z]+", name.lower()))
    try:
        numbers = {float(value.rstrip("% ").replace(",", ".")) for value in given}
    except ValueError:
        return False
    if named & NUMBERED and not named & DOUBT:
        return False
    return numbers != {1} and (pairs or all(0 <= number <= 1 for number in numbers))


def _is_one(text: str, where: str) -> bool:
    if text.strip() not in ("0", "1", "0.0", "1.0"):
        raise InputError(f"{where}: must be 0 or 1; got `{text}`")
    return float(text) == 1


def _read_one_hot(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, vector in read_dictionary(path).items():
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise InputError(f"{path}: a key must be an image id; got {key!r}")
        text = str(key)
        # Some of the field write VOC's ids as numbers: 2007000032 is 2007_000032.
        number = isinstance(key, int) and 2007 <= key // 10**6 <= 2012
        name = f"{text[:4]}_{text[4:]}" if number else image_id(text)
        values = np.asarray(vector) if isinstance(vector, np.ndarray | list | tuple) else None
        if values is None or values.shape != (len(classes),) or values.dtype.kind not in "biuf":
            raise InputError(
                f"{path}: the labels of {text} must be a vector of {len(classes)} numbers, one for "
                "each class of the vocabulary; correct the file or dataset.vocabulary"
            )
        if not np.isin(values, (0, 1)).all():
            raise InputError(f"{path}: the labels of {text} must be 0 or 1; correct the file")
        if name in found:
            raise InputError(f"{path}: has two entries for {name}; keep one")
        found[name] = [classes[int(place)] for place in np.flatnonzero(values)]
    return found


def read_xml(path: Path) -> ET.Element:
    """Root of an annotation, its names without namespaces, without objects that LabelMe deleted.

    Raises:
        InputError: it is missing, no XML, or has objects deeper than directly below the root.
    """
    data = read_bytes(path, "no such file; add it, or set dataset.labels to a file of labels")
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path}: not XML ({error}); replace the file") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.find("object") is None and root.find(".//object") is not None:
        raise InputError(
            f"{path}: its `object` elements must be directly below the root, as in VOC; move them"
        )
    for one in root.findall("object"):
        if (one.findtext("deleted") or "").strip() == "1":
            root.remove(one)
    return root


def xml_size(root: ET.Element, path: Path) -> tuple[int, int]:
    """Height and width that an annotation states. Raises InputError if it does not."""
    try:
        return int(root.findtext("size/height", "")), int(root.findtext("size/width", ""))
    except ValueError:
        raise InputError(
            f"{path}: gives no width and height; add them, or set dataset.size to image"
        ) from None
