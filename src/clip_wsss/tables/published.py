"""Published figures, quoted beside the measured ones."""

import re
from pathlib import Path

import pandas as pd

from clip_wsss.core.errors import InputError
from clip_wsss.core.resources import find, is_file
from clip_wsss.runs.stages import SCORED

COLUMNS = ("method", "stage", "split", "miou", "source", "note")


def read_published(path: str | Path) -> pd.DataFrame:
    """Read a CSV of quoted figures: method, stage, split, miou (percent), source, note.

    The name of the file is the data set that they hold for.

    Raises:
        InputError: a missing file or column, an unknown stage, a figure beyond 0 to 100.
    """
    path = Path(path)
    if not is_file(path):
        raise InputError(f"evaluation.published: there is no file {path}; null quotes nothing")
    table = pd.read_csv(find(path), dtype=str, keep_default_na=False)
    if list(table.columns) != list(COLUMNS):
        raise InputError(f"{path}: the columns must be {', '.join(COLUMNS)}")
    for number, row in enumerate(table.to_dict("records"), start=2):
        if row["stage"] not in SCORED:
            raise InputError(
                f"{path}, line {number}: unknown stage `{row['stage']}`; stages are "
                f"{', '.join(SCORED)}"
            )
        if not re.fullmatch(r"\d+(\.\d+)?", row["miou"]) or float(row["miou"]) > 100:
            raise InputError(
                f"{path}, line {number}: miou: must be a percentage; got {row['miou'] or 'nothing'}"
            )
        if not row["source"]:
            raise InputError(f"{path}, line {number}: source: a quoted figure needs one")
    table["miou"] = table["miou"].astype(float)
    table["dataset"] = path.stem
    return table


def quoted(
    published: pd.DataFrame | None, run: str, dataset: str, stage: str, split: str
) -> pd.Series | None:
    """Return the quoted figure for what a run measured, or None.

    It is the first row with the run's name as its method (case and punctuation aside), the same
    data set, stage and split.
    """
    if published is None:
        return None
    for _, row in published.iterrows():
        same = (row["dataset"], row["stage"], row["split"]) == (dataset, stage, split)
        if same and _plain(row["method"]) == _plain(run):
            return row
    return None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
