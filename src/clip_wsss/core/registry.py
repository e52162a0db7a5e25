"""Registries: methods of one kind by the names that the config gives them."""

import difflib
from collections.abc import Callable, Iterable

from clip_wsss.core.errors import InputError


def lookup(registry: dict[str, Callable], name: str, key: str) -> Callable:
    """The function that a config key names. Raises InputError if the registry lacks it."""
    if name not in registry:
        raise InputError(f"{key}: {name} is unknown; known are {', '.join(sorted(registry))}")
    return registry[name]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown <kind> `<name>`; …" with the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known are: {', '.join(known) or 'none'}"
    return f"unknown {kind} `{name}`; {hint}"
