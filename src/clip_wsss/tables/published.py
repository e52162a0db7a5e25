"""Published figures, quoted beside the measured ones."""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from clip_wsss.runs.published import ABOUT, COLUMNS, published_rows


def read_published(path: str | Path) -> pd.DataFrame:
    """Read a CSV of quoted figures, see `published_rows`; what it does not say is empty.

    The name of the file is the data set that they hold for.

    Raises:
        InputError: as for `published_rows`.
    """
    table = pd.DataFrame(
        published_rows(path), columns=[*COLUMNS[:4], *ABOUT, *COLUMNS[4:]], dtype=str
    )
    table["miou"] = table["miou"].astype(float)
    table["dataset"] = Path(path).stem
    return table


def about(row: Mapping[str, str]) -> str:
    """What a quoted figure was got with, and its note, in words."""
    crf = {"yes": "CRF", "no": "no CRF"}.get(row["crf"], row["crf"])
    weights = f"{row['pretraining']} weights" if row["pretraining"] else ""
    scales = f"scales {row['scales']}" if row["scales"] else ""
    models = f"with {row['models']}" if row["models"] else ""
    words = (row["venue"], row["kind"], row["backbone"], weights, models, crf, scales, row["note"])
    return ", ".join(filter(None, words))


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
