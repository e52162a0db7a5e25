"""Files of plain YAML: no tags, no key twice, nothing that runs."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from clip_wsss.core.errors import InputError
from clip_wsss.core.registry import unknown
from clip_wsss.core.resources import find

SEGMENTOR_KEYS = {  # what a segmentor's file holds, and whether it must
    "model": True,
    "init": False,
    "train_pipeline": True,
    "train_dataloader": True,
    "optim_wrapper": True,
    "param_scheduler": True,
    "checkpoint_interval": True,
}


class _Loader(yaml.SafeLoader):
    """Plain YAML in which no key stands twice: the last one would win in silence."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key must be a word")
        if key in seen:
            line = key_node.start_mark.line + 1
            raise yaml.constructor.ConstructorError(
                None, None, f"line {line}: the key `{key}` stands twice; keep one"
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: str | Path) -> Any:
    """Read a file of plain YAML: the user's, or the project's of that name.

    Raises:
        InputError: it is missing, not YAML, or has a key twice.
    """
    try:
        return yaml.load(find(path).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: not YAML that can be used{where} ({problem})") from None


def read_segmentor_file(path: str | Path) -> dict[str, Any]:
    """Read the YAML of a segmentor (config/segmentors/) as plain data.

    Raises:
        InputError: the file is missing or not YAML, or lacks a key or has an unknown one (such as
            MMEngine's `_base_` and `custom_imports`, which run code).
    """
    if not find(path).is_file():
        raise InputError(f"segmentation.segmentor: there is no file {path}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping with the keys {', '.join(SEGMENTOR_KEYS)}")
    for key in content:
        if key not in SEGMENTOR_KEYS:
            raise InputError(f"{path}: {unknown('key', str(key), SEGMENTOR_KEYS)}")
    for key, needed in SEGMENTOR_KEYS.items():
        if needed and key not in content:
            raise InputError(f"{path}: the key {key} is missing")
    if not isinstance(content["model"], dict):
        raise InputError(f"{path}: model: must be a mapping; got {content['model']!r}")
    if not isinstance(content.get("init"), str | None):
        raise InputError(f"{path}: init: must be a file, an address or null")
    return content
