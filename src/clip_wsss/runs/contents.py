"""What named files, folders and models hold, for keys: a copy of a file has the same key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import content_sha256
from clip_wsss.core.resources import find, is_file, missing
from clip_wsss.data.lists import IMAGE_SUFFIXES, is_picture
from clip_wsss.models.code import architecture_json
from clip_wsss.runs.settings import Model


def model_identity(model: Model) -> dict[str, Any]:
    """What decides the features of a model: contents of files, names of what is downloaded."""
    identity = model.model_dump(exclude_defaults=True, exclude={"license", "source"})
    identity["weights"] = file_identity(model.weights)
    if model.text_features is not None:
        if not is_file(model.text_features):
            raise InputError(
                f"models: text_features: {missing(model.text_features)}; docs/towers.md makes one"
            )
        identity["text_features"] = file_identity(model.text_features)
    if model.architecture is not None and is_file(model.architecture):
        identity["architecture"] = architecture_json(model.architecture)
    return identity


def contents_of(value: Any) -> Any:
    """Plain settings with the names of local files replaced by digests of what they hold."""
    if isinstance(value, dict):
        files = ("weights", "architecture")
        return {
            str(key): file_identity(one)
            if key in files and isinstance(one, str)
            else contents_of(one)
            for key, one in value.items()
        }
    return [contents_of(item) for item in value] if isinstance(value, list) else value


def file_identity(name: str) -> str:
    """Digest of a local file; what is not one (a tag, an address) stays as it is."""
    return f"sha256:{digest_of(find(name))}" if is_file(name) else name


def digest_of(path: Path) -> str:
    """`content_sha256` of a file, read once while it does not change."""
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    return content_sha256(path)


def folder_digest(
    folder: str, key: str = "masks.folder", suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> str:
    """Digest of the names and contents of a folder's files by image.

    Raises:
        InputError: there is no such folder, or it holds no file of these suffixes.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"{key}: there is no folder {folder}; correct it, or make the folder")
    files = sorted(one for one in path.iterdir() if is_picture(one.name, suffixes))
    if not files:
        raise InputError(f"{key}: {folder} must hold <id>.png for each image")
    lines = [f"{file_identity(str(one))} {one.name}" for one in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
