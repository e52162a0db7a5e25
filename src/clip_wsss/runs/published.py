"""The file of published figures, which the plan reads before the tables quote it."""

import csv
import io
import re
from pathlib import Path

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import read_text
from clip_wsss.core.resources import find, is_file, missing
from clip_wsss.runs.stages import SCORED

COLUMNS = ("method", "stage", "split", "miou", "source", "note")
# What figures must share to be compared; empty where the source does not say it.
ABOUT = ("venue", "kind", "backbone", "pretraining", "models", "crf", "scales")


def published_rows(path: str | Path) -> list[dict[str, str]]:
    """Rows of a CSV of quoted figures: method, stage, split, miou (percent), source, note.

    It may have the columns of `ABOUT` too: venue, kind (single-stage, multi-stage, …), backbone and
    its pre-training, further models, crf, scales of the prediction.

    Raises:
        InputError: a missing file or column, another encoding, a row of more or fewer values, an
            unknown stage, a figure beyond 0 to 100.
    """
    if not is_file(path):
        raise InputError(
            f"evaluation.published: {missing(path)}; set it to null to quote no figures"
        )
    reader = csv.reader(io.StringIO(read_text(find(path), "no such file")), strict=True)
    rows: list[dict[str, str]] = []
    try:
        head = next(reader, None) or []
        known = len(set(head)) == len(head) and set(COLUMNS) <= set(head) <= {*COLUMNS, *ABOUT}
        if not known:
            raise InputError(
                f"{path}: the columns must be {', '.join(COLUMNS)}, and may be {', '.join(ABOUT)}"
            )
        for values in filter(None, reader):
            rows.append(_row(head, values, f"{path}, line {reader.line_num}"))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error}); correct it") from None
    return rows


def _row(head: list[str], values: list[str], where: str) -> dict[str, str]:
    if len(values) != len(head):
        raise InputError(f"{where}: must have {len(head)} values; got {len(values)}")
    row = dict.fromkeys(ABOUT, "") | dict(zip(head, values, strict=True))
    if row["stage"] not in SCORED:
        raise InputError(f"{where}: unknown stage `{row['stage']}`; stages are {', '.join(SCORED)}")
    if not re.fullmatch(r"\d+(\.\d+)?", row["miou"]) or float(row["miou"]) > 100:
        raise InputError(f"{where}: miou: must be a percentage; got {row['miou'] or 'nothing'}")
    if not row["source"]:
        raise InputError(f"{where}: source: a quoted figure needs one")
    return row
