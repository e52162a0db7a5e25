"""A config: its parents merged, its settings checked, and what its entries refer to by name."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from clip_wsss.errors import InputError
from clip_wsss.settings import Config, Segmentation, Settings, Texts, unknown, validated
from clip_wsss.vocabulary import Vocabulary, read_vocabulary

GROUPS = ("texts", "cam", "affinity", "masks", "segmentation", "inference")


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
    """Read a file of plain YAML.

    Raises:
        InputError: it is missing, not YAML, or has a key twice.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: not YAML that can be used{where} ({problem})") from None


def with_parents(content: dict, source: str, line: tuple[str, ...] = ()) -> dict:
    """Merge a config over the files that it names under `inherits`, the later over the earlier.

    Mappings are merged key by key, everything else is replaced. Nothing is inherited that is not
    named.

    Args:
        content: of the config.
        source: its file, for messages.
        line: the files that led here.

    Raises:
        InputError: a parent that is missing or not a config, or a cycle.
    """
    parents = content.get("inherits", [])
    if not isinstance(parents, list) or not all(isinstance(name, str) for name in parents):
        raise InputError(f"{source}: inherits: must be a list of files; got {parents!r}")
    merged: dict = {}
    for name in parents:
        if name in line:
            raise InputError(f"{source}: inherits: {' -> '.join((*line, name))} is a cycle")
        parent = read_yaml(name)
        if not isinstance(parent, dict):
            raise InputError(f"{name}: must be a mapping of settings")
        merged = _merge(merged, with_parents(parent, name, (*line, name)))
    own = {key: value for key, value in content.items() if key != "inherits"}
    return _merge(merged, own)


def _merge(under: dict, over: dict) -> dict:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def load_config(content: dict, source: str = "config") -> Config:
    """Check a config as Snakemake has read it.

    Raises:
        InputError: one line: an unknown key, a wrong value, an entry that names a missing file,
            list or model.
    """
    config = validated(Config, with_parents(dict(content), source), source)
    published = config.evaluation.published
    if published is not None and not Path(published).is_file():
        raise InputError(f"{source}: evaluation.published: there is no file {published}")
    vocabulary = read_vocabulary(config.dataset.vocabulary)
    for group in GROUPS:
        for name, entry in getattr(config, group).items():
            check_entry(config, entry, f"{source}: {group}.{name}", vocabulary)
    return config


def read_config(path: str | Path) -> Config:
    """Read and check a config file. Raises InputError as `load_config`."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of settings")
    return load_config(content, str(path))


def check_entry(
    config: Config, entry: Settings, where: str, vocabulary: Vocabulary | None = None
) -> None:
    """Check what an entry refers to by name.

    Raises:
        InputError: one line that begins with `where` and names the key.
    """
    model = getattr(entry, "model", None)
    if model is not None and model not in config.models:
        raise InputError(f"{where}.model: {unknown('model', model, config.models)}")
    if isinstance(entry, Texts):
        vocabulary = vocabulary or read_vocabulary(config.dataset.vocabulary)
        for key, lists in (("names", vocabulary.names), ("background", vocabulary.backgrounds)):
            if getattr(entry, key) not in lists:
                problem = unknown("list", getattr(entry, key), lists)
                raise InputError(f"{where}.{key}: {problem} ({vocabulary.path})")
        _check_templates(entry, where)
    if isinstance(entry, Segmentation) and not Path(entry.segmentor).is_file():
        raise InputError(f"{where}.segmentor: there is no file {entry.segmentor}")


def _check_templates(entry: Texts, where: str) -> None:
    """Check the template of a texts entry: `sharpest` and numbers need a list, others their {}."""
    if entry.template == "sharpest" or isinstance(entry.template, int):
        if not Path(entry.templates).is_file():
            raise InputError(f"{where}.templates: there is no file {entry.templates}")
        return
    for template in [entry.template] if isinstance(entry.template, str) else entry.template:
        if template.count("{}") != 1:
            raise InputError(
                f"{where}.template: `{template}` must hold {{}} once, where the class goes "
                "(or be `sharpest`)"
            )
