"""A config: its parents merged, its settings checked, and what its entries refer to by name."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import add_plugins, methods_below, methods_beside, methods_of, part_of
from clip_wsss.core.names import asks_for_towers, models_of
from clip_wsss.core.plain import check_values, read_yaml
from clip_wsss.core.resources import find, is_file, missing
from clip_wsss.core.spelling import unknown
from clip_wsss.data.unseen import unseen_keys
from clip_wsss.data.vocabulary import Vocabulary, duplicates, read_vocabulary
from clip_wsss.models.code import code_of, has_texts
from clip_wsss.runs.published import published_rows
from clip_wsss.runs.settings import (
    ENTRIES,
    Affinity,
    Cam,
    Config,
    Inference,
    Masks,
    Segmentation,
    Settings,
    Texts,
    check_part,
    entry_class,
    validated,
    validated_entry,
)

GROUPS = tuple(ENTRIES)
TEXT_MODEL = "text_head.model"  # of a training: the CLIP of its texts


def with_parents(content: dict, source: str, line: tuple[str, ...] = ()) -> dict:
    """Merge a config over the files that it names under `inherits`, the later over the earlier.

    Mappings are merged key by key, everything else is replaced. A key that is null takes out what a
    parent says: a group, an entry, or a setting of a method that the entry replaces. Nothing is
    inherited that is not named.

    Args:
        content: of the config.
        source: its file, for messages.
        line: the files that led here.

    Raises:
        InputError: a parent that is missing or not a config, a cycle, or what is wrong with the
            settings after a merge, named by the file that brings it in.
    """
    parents = content.get("inherits", [])
    if not isinstance(parents, list) or not all(isinstance(name, str) for name in parents):
        raise InputError(f"{source}: inherits: must be a list of files; got {parents!r}")
    parents = [os.path.expanduser(name) for name in parents]
    if twice := duplicates([str(find(name).resolve()) for name in parents]):
        raise InputError(f"{source}: inherits: names {twice[0]} twice; keep one")
    _use_folders(content.get("plugins"), source)
    merged: dict = {}
    for name in parents:
        if name in line:
            raise InputError(f"{source}: inherits: {' -> '.join((*line, name))} is a cycle")
        parent = read_yaml(name)
        if not isinstance(parent, dict):
            raise InputError(f"{name}: must be a mapping of settings")
        merged = merge(merged, with_parents(parent, name, (*line, name)))
    own = {key: value for key, value in content.items() if key != "inherits"}
    merged = _without_taken_out(merge(merged, own), merged, own, source)
    check_part(merged, source)
    return merged


def _without_taken_out(merged: dict, parents: dict, own: dict, source: str) -> dict:
    """A config over its parents without what it takes out of them, by null or another method."""
    found = {key: one for key, one in merged.items() if one is not None or key not in parents}
    for group in {"models", *GROUPS} & found.keys():
        above = parents.get(group) or {}
        if not isinstance(found[group], dict):
            continue
        found[group] = entries = {
            name: one for name, one in found[group].items() if one is not None or name not in above
        }
        for name in entries.keys() & above.keys() if group in ENTRIES else ():
            if isinstance(entries[name], dict) and isinstance(above[name], dict):
                where, said = f"{source}: {group}.{name}", (own.get(group) or {}).get(name) or {}
                kinds = [entry_class(group, one, where) for one in (above[name], entries[name])]
                left = without_replaced(
                    entries[name],
                    {k: one for k, one in said.items() if one is not None or k not in above[name]},
                    (kinds[0], above[name]),
                    (kinds[1], entries[name]),
                )
                entries[name] = _settings_left(left, above[name], kinds[1])
    return found


def _settings_left(merged: dict, above: dict, kind: type[BaseModel]) -> dict:
    """An entry's settings, nested ones too, without what null takes out of its parents'."""
    found = {}
    for key, value in merged.items():
        part, parent = part_of(kind, key), above.get(key)
        is_value = key in kind.model_fields and part is None  # which may be null itself
        if value is None and key in above and not is_value:
            continue
        if part is not None and isinstance(value, dict) and isinstance(parent, dict):
            value = _settings_left(value, parent, part)
        found[key] = value
    return found


def without_replaced(
    merged: dict,
    said: dict,
    before: tuple[type[Settings], dict],
    after: tuple[type[Settings], dict],
) -> dict:
    """Merged settings without those of methods that `said` replaces, by classes and contents."""
    old, new = (methods_below(*one) for one in (before, after))
    others = methods_beside(*after)
    gone = {
        key
        for field, one in methods_beside(*before).items()
        if field in others and others[field].target != one.target
        for key in one.fields
    }
    found = {}
    for key, value in merged.items():
        own = said.get(key)
        if key in gone:  # the new method may have a setting of that name
            if key in said:
                found[key] = own
            continue
        if key in before[0].model_fields.keys() - after[0].model_fields.keys() - said.keys():
            continue
        if key in old and key in new and old[key] != new[key]:  # two of one short name
            if own is not None:
                found[key] = own
            continue
        kinds = [part_of(kind, key) for kind, _ in (before, after)]
        inside = [content.get(key) for _, content in (before, after)]
        if None not in kinds and isinstance(own, dict) and all(isinstance(i, dict) for i in inside):
            pair: Any = zip(kinds, inside, strict=True)
            value = without_replaced(value, own, *pair)
        found[key] = value
    return found


def merge(under: dict, over: dict) -> dict:
    """One mapping over another, key by key; everything that is not a mapping is replaced."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def load_config(content: dict, source: str = "config") -> Config:
    """Check a config as Snakemake has read it.

    Raises:
        InputError: one line: an unknown key, a wrong value, an entry that names a missing file,
            list or model.
    """
    check_values(content, source)
    _find_plugins(source)
    merged = with_parents(dict(content), source)
    for group in GROUPS:
        if isinstance(merged.get(group), dict):
            merged[group] = {
                name: validated_entry(group, one, f"{source}: {group}.{name}")
                for name, one in merged[group].items()
            }
    config = validated(Config, merged, source)
    published = config.evaluation.published
    if published is not None and not is_file(published):
        raise InputError(f"{source}: evaluation.published: {missing(published)}")
    if published is not None:
        published_rows(published)
    vocabulary = read_vocabulary(config.dataset.vocabulary)
    try:
        unseen_keys(config.dataset.model_dump(), vocabulary.classes)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    for group in GROUPS:
        for name, entry in getattr(config, group).items():
            check_entry(config, entry, f"{source}: {group}.{name}", vocabulary)
    _check_tags(config, f"{source}: dataset.tagclip")
    return config


def _check_tags(config: Config, where: str) -> None:
    """Check what predicted labels refer to by name."""
    own = config.dataset.tagclip
    if own is None:
        return
    for key, group in (("model", config.models), ("texts", config.texts)):
        if (name := getattr(own, key)) not in group:
            raise InputError(f"{where}.{key}: {unknown(f'entry of {key}', name, group)}")
    if code_of(config.models[own.model].model_dump()):
        raise InputError(
            f"{where}.model: `{own.model}` must be a CLIP whose network is open_clip's own"
        )
    if config.texts[own.texts].template == "sharpest":
        raise InputError(
            f"{where}.texts: `{own.texts}` ranks its templates by labels; name an entry with a "
            "fixed template"
        )


def _use_folders(folders: Any, source: str) -> None:
    """Let methods be found in the folders of a config; anything but texts is refused later."""
    for folder in folders if isinstance(folders, list) else ():
        if isinstance(folder, str):
            if not os.path.isdir(os.path.expanduser(folder)):
                raise InputError(f"{source}: plugins: there is no folder {folder}")
            add_plugins(os.path.expanduser(folder))


def _find_plugins(source: str) -> None:
    """Let methods be found beside the config and in the working directory."""
    parts = source.split(", ")  # of several files, or of the name of one
    first = (", ".join(parts[:count]) for count in range(len(parts), 0, -1))
    path = next((name for name in first if is_file(name)), parts[0])
    for folder in (Path(path).parent, Path()):
        if folder.is_dir():
            add_plugins(folder)


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
    named = models_of(entry)
    others = [key for key in named if key != TEXT_MODEL]
    if isinstance(entry, Segmentation) and len(others) > 1:
        raise InputError(f"{where}.{others[1]}: a training gets one tower; name one only")
    for key, model in named.items():
        if model not in config.models:
            raise InputError(f"{where}.{key}: {unknown('model', model, config.models)}")
        built = isinstance(entry, Segmentation) and methods_of(entry, "segmentor")
        if key == TEXT_MODEL or (built and key.startswith(f"{built[0].short}.")):
            _check_clip(config, model, f"{where}.{key}")
        elif not isinstance(entry, Cam | Affinity | Masks):
            raise InputError(
                f"{where}.{key}: only a cam, an affinity or masks get a tower; leave it out"
            )
    if isinstance(entry, Inference) and asks_for_towers(entry):
        raise InputError(
            f"{where}.refinement: {entry.refinement} asks for a tower, which predictions do not "
            "have; use it in masks"
        )
    if isinstance(entry, Cam):
        _check_clip(config, entry.model, f"{where}.model")
    if isinstance(entry, Texts):
        vocabulary = vocabulary or read_vocabulary(config.dataset.vocabulary)
        names, words = list(vocabulary.names), list(vocabulary.backgrounds)
        known = {"names": names, "ranked_names": names, "background": words}
        for key, lists in known.items():
            if getattr(entry, key) not in (None, *lists):
                problem = unknown("list", getattr(entry, key), lists)
                raise InputError(f"{where}.{key}: {problem} ({vocabulary.path})")
        _check_templates(entry, where)
    if not isinstance(entry, Segmentation) or methods_of(entry, "segmentor"):
        return
    if not is_file(entry.segmentor):
        raise InputError(f"{where}.segmentor: {missing(entry.segmentor)}")


def _check_clip(config: Config, model: str, where: str) -> None:
    if not has_texts(config.models[model].model_dump()):
        raise InputError(f"{where}: `{model}` has no texts; name a CLIP of open_clip")


def _check_templates(entry: Texts, where: str) -> None:
    """Check the template of a texts entry: `sharpest` and numbers need a list, others their {}."""
    if entry.template == "sharpest" or isinstance(entry.template, int):
        if not is_file(entry.templates):
            raise InputError(f"{where}.templates: {missing(entry.templates)}")
        return
    if isinstance(entry.template, list) and (twice := duplicates(entry.template)):
        raise InputError(
            f"{where}.template: lists `{twice[0]}` more than once, which would count as "
            "often in the mean; keep one"
        )
    for template in [entry.template] if isinstance(entry.template, str) else entry.template:
        if template.count("{}") != 1:
            raise InputError(
                f"{where}.template: `{template}` must hold {{}} once, where the class goes "
                "(or be `sharpest`)"
            )
