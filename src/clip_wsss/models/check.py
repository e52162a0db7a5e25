"""Entries of `models` looked at before the first map is made."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from clip_wsss.core.errors import InputError


def check_models(models: Mapping[str, dict[str, Any]]) -> list[str]:
    """Look whether towers can be loaded; weights that would be downloaded are known by their names.

    Args:
        models: entries of the config, by name.

    Returns:
        A line for each that cannot: names that its library does not know, a network of another
        kind, a file that is damaged or does not fit.
    """
    problems = []
    for name, model in models.items():
        try:
            if model["library"] == "timm":
                # By its name, as in `open_tower`.
                import_module("clip_wsss.models.timm_tower").load_timm(model, download=False)
            else:
                from clip_wsss.models.clip import check_clip

                check_clip(model)
        except InputError as error:
            problems.append(f"models.{name}: {str(error).removeprefix('models: ')}")
    return problems
