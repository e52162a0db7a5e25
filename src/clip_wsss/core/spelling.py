"""What is said of a name that is not known."""

import difflib
from collections.abc import Iterable
from unicodedata import normalize

LOOK_ALIKE = "one of that look is made of other characters (Unicode NFC and NFD)"


def looks(names: Iterable[str]) -> frozenset[str]:
    """How names look: those that differ in their Unicode form alone look the same."""
    return frozenset(normalize("NFC", one) for one in names)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown <kind> `<name>`; …" with the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if looks([name]) == looks(close):
        hint = f"{LOOK_ALIKE}; copy it"
    elif close:
        hint = f"did you mean `{close[0]}`?"
    else:
        hint = f"known are: {', '.join(known) or 'none'}"
    return f"unknown {kind} `{name}`; {hint}"
