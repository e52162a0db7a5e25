"""IoU class by class: a heat map of all runs, and what each changes against its base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pandas as pd

from clip_wsss.core.csvs import csv_text
from clip_wsss.report.charts import shade
from clip_wsss.report.relations import labels_of, predictions_of
from clip_wsss.report.tables import colour, decimal, signed
from clip_wsss.score.measurements import Difference, Figure, difference
from clip_wsss.tables.write import Row

STRONG = 20.0  # points of IoU from which on a change has the full colour


def heatmaps(rows: Mapping[str, Row], seen: Callable[[Figure], list[int]]) -> list[dict]:
    """Per-class IoU of all runs, of their last labels and of their predictions.

    Args:
        rows: of all runs, by name.
        seen: figure -> in how many images the ground truth has each class.

    Returns:
        title, runs and bases (of the columns), rows of cells, means, changed (whether a column has
        a change), csv. Runs that share their labels share a column, whose base is the first's.
    """
    made = []
    for title, choose in (("Pseudo labels", labels_of), ("Segmentation", predictions_of)):
        columns = _columns(rows, choose)
        if columns:
            made.append(_heatmap(title, columns, seen))
    return made


def _columns(rows: Mapping[str, Row], choose) -> list[tuple[list[str], str, Figure, Figure | None]]:
    """Names of runs, base, figure and figure of the base, of every different measurement."""
    columns: list[tuple[list[str], str, Figure, Figure | None]] = []
    for name, row in rows.items():
        figure = choose(row)
        if figure is None:
            continue
        alike = next((names for names, _, other, _ in columns if other.same(figure)), None)
        if alike is not None:
            alike.append(name)
            continue
        base = rows.get(row.run.base) if row.run.base else None
        before = None if base is None else choose(base)
        columns.append(([name], base.run.name if base and before else "", figure, before))
    return columns


def _heatmap(title: str, columns: list, seen: Callable[[Figure], list[int]]) -> dict:
    changes = [
        None if before is None else difference(figure, before) for _, _, figure, before in columns
    ]
    first, images, lines = columns[0][2], seen(columns[0][2]), []
    rows = []
    for number, name in enumerate(first.names):
        cells = []
        for (names, base, figure, _), change in zip(columns, changes, strict=True):
            value = 100 * figure.class_iou[number]
            cells.append(_cell(value, change, number))
            line = {
                "runs": " ".join(names),
                "stage": figure.stage,
                "split": figure.info["split"],
                "class": name,
                "images": images[number],
                "iou": value,
                "base": base,
            }
            lines.append(line | _change_columns(change, number))
        head = {"name": name, "colour": colour(number), "images": images[number]}
        rows.append(head | {"cells": cells})
    return {
        "title": f"{title}, {first.info['split']}",
        "id": f"heat-{title.split()[-1].lower()}",
        "runs": [", ".join(names) for names, *_ in columns],
        "bases": [base for _, base, *_ in columns],
        "rows": rows,
        "means": [
            {"text": decimal(100 * figure.value), "change": _mean_change(change)}
            for (_, _, figure, _), change in zip(columns, changes, strict=True)
        ],
        "changed": any(changes),
        "csv": csv_text(pd.DataFrame(lines).round(4)),
    }


def _cell(value: float, change: Difference | None, number: int) -> dict | None:
    """One class of one column; None without ground truth."""
    if math.isnan(value):
        return None
    return {
        "shade": shade(value / 100),
        "value": round(value, 4),
        "text": f"{value:.0f}",
        "change": None if change is None else _change(change, number),
    }


def _change(change: Difference, number: int) -> dict:
    value, around = 100 * change.class_values[number], change.class_intervals[number]
    sure = around.excludes_zero
    words = "more than noise" if sure else "within noise"
    interval = f"[{signed(100 * around.low)}, {signed(100 * around.high)}]"
    return {
        "value": round(value, 4),
        "text": signed(value),
        "sure": sure,
        "shade": shade(abs(value) / STRONG),
        "worse": value < 0,
        "tip": f"{signed(value)} {interval}, {words}",
    }


def _mean_change(change: Difference | None) -> dict | None:
    if change is None:
        return None
    return {"text": signed(100 * change.value), "sure": change.more_than_noise}


def _change_columns(change: Difference | None, number: int) -> dict:
    if change is None:
        return {}
    around = change.class_intervals[number]
    return {
        "change": 100 * change.class_values[number],
        "change_low": 100 * around.low,
        "change_high": 100 * around.high,
        "more_than_noise": "yes" if around.excludes_zero else "no",
    }
