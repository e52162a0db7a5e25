"""The registry of sources (config/sources.yaml) and what a config puts in their place."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

from clip_wsss.core.errors import InputError
from clip_wsss.core.plain import read_yaml
from clip_wsss.core.resources import is_file
from clip_wsss.core.spelling import unknown

UNSIZED = 64 * 10**9  # bytes that are taken at most where nobody says how many there are
LARGER = 2  # than the registry's file another may be, of a server that states no length
KEYS = ("title", "url", "mirrors", "size", "md5", "licence", "citation")


@dataclass(frozen=True)
class Source:
    """One thing to download, or its local copy.

    Attributes:
        name: the name in the registry.
        path: a local file or folder that replaces the download, or None.
        urls: addresses, tried in order.
        file: the file name that it is stored under.
        size: bytes, or None if not known.
        md5: checksum in hexadecimal; None leaves it unchecked.
        most: bytes that are taken at most of a server that states no length, where the size is not
            known.
    """

    name: str
    path: Path | None
    urls: tuple[str, ...]
    file: str
    size: int | None
    md5: str | None
    most: int = UNSIZED


def find_source(name: str, settings: Mapping) -> Source:
    """The source called `name`, after the replacements of the config's `sources` block.

    A replacement may give `path` (a file or folder), `url`, `mirrors` and `md5`; what is null is as
    in the registry, but `md5`: without one the file is not checked. Another `url` has to serve the
    file of the registry unless it comes with an `md5` of its own.

    Raises:
        InputError: no such source, or one without an address and without a local copy.
    """
    entries = _read(settings["registry"])["sources"]
    for given in (name, *settings["replace"]):
        if given not in entries:
            raise InputError(f"sources.replace: {unknown('source', given, entries)}")
    entry, replacement = entries[name], settings["replace"].get(name) or {}
    path = replacement.get("path")
    address = replacement.get("url") or entry["url"]
    md5 = replacement.get("md5", "registry")
    if path is None and address is None:
        raise InputError(
            f"sources.replace.{name}.path: {entry['title']}: there is no address to download from;"
            " name a local copy, a folder or an archive"
        )
    mirrors = replacement.get("mirrors")
    if mirrors is None:
        mirrors = [] if replacement.get("url") else entry["mirrors"]
    file = _file_name(entry["url"] or address or str(path))
    if address is not None and not file:
        raise InputError(
            f"sources.replace.{name}.url: {address} must end in the name of a file; correct it"
        )
    return Source(
        name=name,
        path=None if path is None else Path(path),
        urls=() if address is None else (address, *mirrors),
        file=file,
        size=entry["size"] if md5 == "registry" else None,
        md5=entry["md5"] if md5 == "registry" else md5,
        most=LARGER * entry["size"] if entry["size"] else UNSIZED,
    )


def check_split(ids: Sequence[str], split: str, dataset: str, settings: Mapping) -> None:
    """Compare the ids of a split with the registry, where the config says so.

    Raises:
        InputError: their number or the SHA-256 of the sorted ids is another.
    """
    if not settings["verify_splits"]:
        return
    expected = _read(settings["registry"])["splits"][dataset][split]
    if len(ids) != expected["ids"] or expected["sha256"] not in (None, ids_digest(ids)):
        raise InputError(
            f"{dataset}, split {split}: the {len(ids)} ids found are not the official "
            f"{expected['ids']}; use the official sources, or set sources.verify_splits to false "
            "for others"
        )


def ids_digest(ids: Sequence[str]) -> str:
    """SHA-256 of the sorted ids, one a line, each line ended by a newline."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(ids)).encode()).hexdigest()


def _read(path: str | os.PathLike) -> dict:
    if not is_file(path):
        raise InputError(f"{path}: no such registry; set sources.registry")
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("sources"), dict):
        raise InputError(f"{path}: must be a mapping with the key sources")
    for name, entry in content["sources"].items():
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {name}: must be a mapping with the keys {', '.join(KEYS)}")
        if missing := [key for key in KEYS if key not in entry]:
            raise InputError(f"{path}: {name}.{missing[0]}: is missing; write null if not known")
    return content


def _file_name(address: str) -> str:
    return PurePosixPath(urlparse(address).path).name
