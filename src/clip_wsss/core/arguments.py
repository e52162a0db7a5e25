"""Values of command lines."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type for argparse: whole numbers from `least` on, to `most`."""
    range_ = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        # More digits than Python takes are no number of anything.
        number = int(text) if text.isdecimal() and len(text) < 20 else -1
        if number < least or (most is not None and number > most):
            raise ArgumentTypeError(f"must be a whole number {range_}; got {text}")
        return number

    return read


def output(text: str) -> Path:
    """A type for argparse: where something is written. Nothing would be the working directory."""
    if not text.strip():
        raise ArgumentTypeError("must name where to write; got nothing")
    return Path(text)
