"""Values of command lines."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


def at_least(least: int) -> Callable[[str], int]:
    """Return a type for argparse: whole numbers from `least` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ArgumentTypeError(f"must be a whole number of at least {least}; got {text}")
        return int(text)

    return read


def output(text: str) -> Path:
    """A type for argparse: where something is written. Nothing would be the working directory."""
    if not text.strip():
        raise ArgumentTypeError("must name where to write; got nothing")
    return Path(text)
