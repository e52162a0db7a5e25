"""What is said of a name that is not known."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown <kind> `<name>`; …" with the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known are: {', '.join(known) or 'none'}"
    return f"unknown {kind} `{name}`; {hint}"
