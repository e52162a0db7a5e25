"""Image-level labels on disk: VOC's XML files, and CSVs."""

import csv
import io
import os
import xml.etree.ElementTree as ET
from pathlib import Path

from clip_wsss.core.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_labels_csv(path: str | os.PathLike) -> dict[str, list[str]]:
    """Image-level labels: image id -> class names in the order of the file.

    Columns `image` (a file name or an id) and `labels` (names with `;` between them), or
    `image` and `label` with one row for each pair.

    Raises:
        InputError: no such file, no UTF-8, other columns, or an image with two rows of `labels`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such CSV; set dataset.labels to one with the columns image and labels"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")  # -sig: Excel writes a BOM
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; save it as a CSV in UTF-8") from None
    found: dict[str, list[str]] = {}
    reader = csv.DictReader(io.StringIO(text))
    columns = set(reader.fieldnames or ())
    if "image" not in columns or not columns & {"labels", "label"}:
        raise InputError(
            f"{path}: needs the columns image and labels (names with ; between them), "
            "or image and label"
        )
    many = "labels" in columns
    for row in reader:
        name = Path((row["image"] or "").strip())
        stem = name.stem if name.suffix.lower() in IMAGE_SUFFIXES else name.name
        if many and stem in found:
            raise InputError(f"{path}: has two rows for {stem}; put all its labels into one")
        labels = (row["labels"] or "").split(";") if many else [row["label"] or ""]
        found.setdefault(stem, []).extend(filter(None, map(str.strip, labels)))
    return found


def read_xml(path: Path) -> ET.Element:
    """Root of an annotation. Raises InputError if it is missing or no XML."""
    try:
        return ET.parse(path).getroot()
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; add it, or set dataset.labels to a CSV of labels"
        ) from None
    except ET.ParseError as error:
        raise InputError(f"{path}: not XML ({error}); replace the file") from None


def xml_size(root: ET.Element, path: Path) -> tuple[int, int]:
    """Height and width that an annotation states. Raises InputError if it does not."""
    try:
        return int(root.findtext("size/height", "")), int(root.findtext("size/width", ""))
    except ValueError:
        raise InputError(
            f"{path}: gives no width and height; add them, or set dataset.size to image"
        ) from None
