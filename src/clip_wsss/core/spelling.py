"""What is said of a name that is not known."""

import difflib
from collections.abc import Iterable
from unicodedata import normalize

LOOK_ALIKE = "one of that look is made of other characters (Unicode NFC and NFD)"


def look_alike(name: str, known: Iterable[str]) -> bool:
    """Whether a name that is not among some looks like one of them."""
    look = normalize("NFC", name)
    return any(normalize("NFC", one) == look for one in known)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return "unknown <kind> `<name>`; …" with the closest known name, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if look_alike(name, close):
        hint = f"{LOOK_ALIKE}; copy it"
    elif close:
        hint = f"did you mean `{close[0]}`?"
    else:
        hint = f"known are: {', '.join(known) or 'none'}"
    return f"unknown {kind} `{name}`; {hint}"
