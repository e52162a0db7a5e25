"""Lists of image ids as the field ships them."""

import re
from collections.abc import Callable, Collection
from pathlib import Path, PureWindowsPath

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import is_note, read_text

# Line breaks and other control characters, and what stands for bytes that are not UTF-8.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jfif")


def is_picture(name: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Whether a file name has one of the suffixes and is none of macOS's ._ files beside others."""
    return Path(name).suffix.lower() in suffixes and not is_note(name)


def image_id(name: str) -> str:
    """A file name without the suffix of an image; an id stays what it is."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else name


def check_id(name: str, where: str) -> None:
    """Refuse an id with control characters or of undecodable bytes, which no table can hold."""
    if _ODD.search(name):
        raise InputError(
            f"{where}: the file name of {name!a} holds a control character or is not UTF-8; rename "
            "the file"
        )


def read_ids(
    path: Path,
    folder: str,
    files: Callable[[], Collection[str]],
    classes: Collection[str],
) -> list[str]:
    """Read the ids of a list, in its order.

    A line is an id; a file name; the path of an image, alone or followed by that of its mask; an
    id and VOC's 1, 0 or -1 (a line with -1 is left out: the image does not hold the class); or an
    id and classes, by name or number. Empty lines and those that begin with # do not count.

    Args:
        path: of the list.
        folder: name of the folder that a path must name.
        files: gives the ids of the images that are there, which a line with spaces may be one of.
        classes: names of the classes.

    Raises:
        InputError: the list cannot be read, or a line is something else.
    """
    found = []
    lines = read_text(path, "no such list of images; add it").split("\n")
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line and not line.startswith("#"):
            where = f"{path}, line {number}"
            if (name := _id(line, where, folder, files, classes)) is not None:
                check_id(name, where)
                found.append(name)
    return found


def _id(
    line: str,
    where: str,
    folder: str,
    files: Callable[[], Collection[str]],
    classes: Collection[str],
) -> str | None:
    """The id of a line; None for an image that a list of a class leaves out."""
    plain = image_id(line) == line and not set(line) & set(" \t/\\,")
    if plain or line in files():
        return line
    parts = line.split()
    if "/" in line or "\\" in line:
        return _of_paths(parts, where, folder)
    if parts[1:] == ["-1"]:
        return None
    if len(parts) > 1 and all(word in classes or word.isdecimal() for word in parts[1:]):
        return image_id(parts[0])
    if "," in line and line not in files() and image_id(line) not in files():
        raise InputError(f"{where}: holds a comma; write one image id a line")
    return image_id(line)


def _of_paths(parts: list[str], where: str, folder: str) -> str:
    paths = [PureWindowsPath(part) for part in parts]  # which knows both separators
    names = {image_id(path.name) for path in paths}
    if len(paths) > 2 or len(names) != 1:
        raise InputError(
            f"{where}: holds paths that are not those of an image and its mask; write image ids "
            "(the file name without folder and suffix), one a line"
        )
    if paths[0].parent.name != folder:
        raise InputError(
            f"{where}: holds a path in {paths[0].parent.name or '/'}, but the images lie in "
            f"{folder}; write image ids (the file name without folder and suffix), one a line"
        )
    return names.pop()
