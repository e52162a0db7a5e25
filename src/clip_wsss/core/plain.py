"""Files of plain YAML: no tags, no key twice, nothing that runs."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import read_text
from clip_wsss.core.resources import find


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
        return yaml.load(read_text(find(path), "there is no such file"), _Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: not YAML that can be used{where} ({problem})") from None
