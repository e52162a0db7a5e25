"""Registries: methods of one kind by the names that the config gives them."""

from collections.abc import Callable

from clip_wsss.errors import InputError


def lookup(registry: dict[str, Callable], name: str, key: str) -> Callable:
    """The function that a config key names. Raises InputError if the registry lacks it."""
    if name not in registry:
        raise InputError(f"{key}: {name} is unknown; known are {', '.join(sorted(registry))}")
    return registry[name]
