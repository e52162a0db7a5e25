"""Tables as CSV, and cells of Markdown tables: whatever a name or a note holds stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_wsss.core.files import write_text

if TYPE_CHECKING:
    import pandas as pd

_ENTITY = re.compile(r"&(?=#?\w+;)")
# What a spreadsheet takes for the beginning of a formula, as some do of its wide form.
FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
# Columns of text, even where a name looks like a number or like nothing (`1`, `NA`).
TEXTS = (
    *("run", "base", "differs", "split", "seeds", "class", "template", "folder", "source", "note"),
    *("segmentation_split", "headline", "scoring", "difference_of", "difference_note"),
)


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table; a text that a spreadsheet would compute gets an apostrophe before it."""
    write_text(path, csv_text(frame))


def csv_text(frame: pd.DataFrame) -> str:
    """The text that `write_csv` writes."""
    return frame.map(guarded).to_csv(index=False, lineterminator="\n")


def read_csv(path: str | Path) -> pd.DataFrame:
    """Read what `write_csv` has written; empty cells are NaN."""
    import pandas as pd

    frame = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values="")
    return frame.map(unguarded)


def guarded(value: Any) -> Any:
    """A value of a cell; a text that a spreadsheet would compute gets an apostrophe before it."""
    return f"'{value}" if _computed(value) else value


def unguarded(value: Any) -> Any:
    """What `guarded` was given."""
    return value[1:] if _computed(value) and value[0] == "'" else value


def _computed(value: object) -> bool:
    """Whether it is a formula, or one with apostrophes before it."""
    return isinstance(value, str) and value.lstrip("'").startswith(FORMULA)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first row the head, the second the line below it."""
    return "".join(f"| {' | '.join(map(markdown_text, row))} |\n" for row in rows)


def markdown_text(words: object) -> str:
    """A text on one line that Markdown shows as it is: no HTML, link or further cell."""
    line = " ".join(str(words).split())
    line = _ENTITY.sub("&amp;", line.replace("\\", r"\\"))
    return line.replace("<", "&lt;").replace("|", r"\|").replace("](", r"]\(")
