"""Checks of the config before any job: the schema, and the names that its entries refer to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from clip_wsss.errors import InputError
from clip_wsss.vocabulary import read_vocabulary

GROUPS = ("texts", "cam", "masks", "segmentation")


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown <kind> `<name>`; …" with the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known are: {', '.join(known) or 'none'}"
    return f"unknown {kind} `{name}`; {hint}"


def _message(error: jsonschema.ValidationError) -> str:
    """Turn the deepest schema error into "key: what is wrong"."""
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = set(error.schema.get("properties", {}))
        extra = sorted(set(error.instance) - known)[0]
        return f"{where + '.' if where else ''}{extra}: {unknown('key', extra, known)}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{where + '.' if where else ''}{missing}: is missing; config/config.yaml shows it"
    if error.validator == "enum":
        allowed = ", ".join(str(value) for value in error.validator_value)
        return f"{where}: `{error.instance}` is none of {allowed}"
    if error.validator == "type":
        kinds = error.validator_value
        kinds = kinds if isinstance(kinds, str) else " or ".join(kinds)
        return f"{where}: `{error.instance}` should be of type {kinds}"
    return f"{where}: {' '.join(error.message.split())}"


def validate(instance: Any, schema: dict, source: str) -> None:
    """Check `instance` against a JSON schema.

    Raises:
        InputError: one line, "<source>: <key>: <what is wrong>".
    """
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(instance))
    if error is not None:
        raise InputError(f"{source}: {_message(error)}")


def read_yaml(path: str | Path) -> dict:
    """Read a schema or another file of plain YAML."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def canonical(value: Any) -> Any:
    """Return a setting with the keys of its mappings sorted: their order in a file means nothing.

    Snakemake compares parameters as they are written, so that without this a config with its lines
    in another order would compute everything again.
    """
    if isinstance(value, dict):
        return {key: canonical(value[key]) for key in sorted(value)}
    return [canonical(item) for item in value] if isinstance(value, list) else value


def entry_schema(schema: dict, group: str) -> dict:
    """Return the schema of one entry of a group, with the definitions that it refers to."""
    return {**schema["$defs"][group], "$defs": schema["$defs"]}


def check_config(config: dict, schema: dict, source: str = "config") -> None:
    """Check a whole config: its schema, then what its entries refer to by name.

    Raises:
        InputError: an unknown key, a wrong type, an entry that names a missing file, list or model,
            a mu that does nothing, or a vocabulary that cannot be used.
    """
    validate(config, schema, source)
    published = config["evaluation"]["published"]
    if published is not None and not Path(published).is_file():
        raise InputError(f"{source}: evaluation.published: there is no file {published}")
    vocabulary = config["dataset"]["vocabulary"]
    if not Path(vocabulary).is_file():
        raise InputError(f"{source}: dataset.vocabulary: there is no file {vocabulary}")
    for name, entry in config["cam"].items():
        check_entry(config, "cam", name, entry, source)
    for name, entry in config["texts"].items():
        check_entry(config, "texts", name, entry, source)
    for name, entry in config["segmentation"].items():
        check_entry(config, "segmentation", name, entry, source)


def check_entry(config: dict, group: str, name: str, entry: dict, source: str) -> None:
    """Check the references of one entry (models, vocabulary lists, template and segmentor files).

    Raises:
        InputError: one line that names the key.
    """
    where = f"{source}: {group}.{name}"
    if group == "cam" and entry["model"] not in config["models"]:
        raise InputError(f"{where}.model: {unknown('model', entry['model'], config['models'])}")
    if group == "texts":
        vocabulary = read_vocabulary(config["dataset"]["vocabulary"])
        for key, lists in (("names", vocabulary.names), ("background", vocabulary.backgrounds)):
            if entry[key] not in lists:
                problem = unknown("list", entry[key], lists)
                raise InputError(f"{where}.{key}: {problem} ({vocabulary.path})")
        _check_templates(entry, where)
    if group == "segmentation":
        _check_training(entry, where)


def _check_templates(entry: dict, where: str) -> None:
    """Check the template of a texts entry: `sharpest` and numbers need a list, others their {}."""
    if entry["template"] == "sharpest" or isinstance(entry["template"], int):
        if not Path(entry["templates"]).is_file():
            raise InputError(f"{where}.templates: there is no file {entry['templates']}")
        return
    templates = entry["template"]
    for template in [templates] if isinstance(templates, str) else templates:
        if template.count("{}") != 1:
            raise InputError(
                f"{where}.template: `{template}` should hold {{}} once, where the class goes "
                "(or be `sharpest`)"
            )


def _check_training(entry: dict, where: str) -> None:
    """Check what would otherwise stop a training only after the hours that its masks take."""
    if not Path(entry["segmentor"]).is_file():
        raise InputError(f"{where}.segmentor: there is no file {entry['segmentor']}")
    if entry["loss"] == "cross-entropy" and entry["mu"] != 0:
        raise InputError(
            f"{where}.mu: {entry['mu']} does nothing with loss: cross-entropy, which counts all "
            "pixels; set mu to 0, or loss to confidence-guided"
        )
