"""Tables of the report: what the CSV files hold, as cells that are read and sorted, and the ladder.

A cell is {text, extra, value, number}: what is shown, smaller words below it, what it sorts by.
"""

from __future__ import annotations

import math
import re

import pandas as pd

from clip_wsss.core.images import voc_palette
from clip_wsss.report.charts import DARK, shade, ticks
from clip_wsss.runs.stages import MAP_STAGES, SCORED, TRAINED
from clip_wsss.tables.layout import TITLES

MINUS = "−"


def cell(text: object, extra: str = "", value: float | None = None) -> dict:
    """Return a cell; one with a value is a number."""
    return {"text": text, "extra": extra, "value": value, "number": value is not None}


EMPTY = cell("–")


def runs_table(frame: pd.DataFrame, name: str) -> dict:
    """Lay out a table of runs.

    Args:
        frame: the measured lines of tables/<table>.csv.
        name: of the table.

    Returns:
        id, title, caption, columns ({label, number}) and rows of cells.
    """
    stages = [stage for stage in SCORED if frame[stage].notna().any()]
    numbers = [*(TITLES[stage] for stage in stages), "difference"]
    labels = ["run", "differs from its base", "split (images)", "seeds", *numbers, "precision"]
    rows = []
    for line in frame.to_dict("records"):
        differs = text(line["base"]) or "–"
        if there(line["differs"]):
            differs += f", with {arrows(line['differs'])}"
        rows.append(
            [
                cell(line["run"]),
                cell(differs),
                cell(_splits(line)),
                cell(text(line["seeds"]) or "–"),
                *(_stage(line, stage) for stage in stages),
                _difference(line),
                cell(text(line["precision"]) or "–"),
            ]
        )
    return {
        "id": f"table-{name}",
        "title": f"Table {name}",
        "caption": "mIoU in per cent with its 95 % interval; differences are paired. Where another "
        "background power p would score higher, it is given as an oracle: it takes the ground "
        "truth to know it.",
        "columns": [{"label": label, "number": label in numbers} for label in labels],
        "rows": rows,
    }


def plain_table(frame: pd.DataFrame, name: str, caption: str) -> dict:
    """Lay out any CSV as it is; columns of numbers alone become numbers."""
    columns = [column for column in frame.columns if frame[column].notna().any()]
    numbers = {column for column in columns if pd.api.types.is_numeric_dtype(frame[column])}
    rows = [
        [
            cell(short(line[column]), value=line[column])
            if column in numbers and there(line[column])
            else cell(text(line[column]) or "–")
            for column in columns
        ]
        for line in frame.to_dict("records")
    ]
    heads = [{"label": column.replace("_", " "), "number": column in numbers} for column in columns]
    return {
        "id": f"table-{name}",
        "title": name,
        "caption": caption,
        "columns": heads,
        "rows": rows,
    }


def published_table(published: pd.DataFrame) -> dict:
    """Lay out the quoted figures (`published.read_published`)."""
    shown = published.drop(columns="dataset").rename(columns={"miou": "mIoU"})
    shown["stage"] = shown["stage"].map(TITLES)
    shown["split"] = published["dataset"] + " " + published["split"]
    table = plain_table(
        shown.replace("", None),
        "published",
        "mIoU in per cent, as published. Figures are comparable where kind, backbone, "
        "pre-training, further models, CRF and scales are; a dash: the source does not say it.",
    )
    for row, figure in zip(table["rows"], published["miou"], strict=True):
        row[shown.columns.get_loc("mIoU")] = cell(_one(figure), value=figure)
    return table | {"title": "Published figures"}


def ladder(frame: pd.DataFrame) -> dict | None:
    """Compute the ladder chart of a table of runs; places are in per cent of the axis.

    Args:
        frame: the measured lines of tables/<table>.csv.

    Returns:
        ticks, legend and rows for the template, or None where nothing was measured.
    """
    stages = [stage for stage in SCORED if frame[stage].notna().any()]
    if not stages:
        return None
    low = min(frame[[f"{stage}_low" for stage in stages]].min())
    high = max(frame[[f"{stage}_high" for stage in stages]].max())
    marks = ticks(max(0.0, low - 2), min(100.0, high + 2), 6)
    step = marks[1] - marks[0] if len(marks) > 1 else 10
    start = math.floor(low / step) * step
    end = max(math.ceil(high / step) * step, start + step)

    def place(value: float) -> float:
        return round((value - start) / (end - start) * 100, 2)

    return {
        "ticks": [{"left": place(tick), "text": f"{tick:g}"} for tick in ticks(start, end, 8)],
        "legend": [{"stage": stage, "label": _legend(frame, stage)} for stage in stages],
        "rows": [_rung(line, stages, place) for line in frame.to_dict("records")],
    }


def heatmaps(per_class: pd.DataFrame) -> list[dict]:
    """Per-class IoU of all runs: the last labels of each, and its predictions.

    Args:
        per_class: tables/per_class.csv.
    """
    made = []
    trained = per_class["stage"] == "segmentation"
    for title, part in (
        ("Pseudo labels", per_class[~trained]),
        ("Segmentation", per_class[trained]),
    ):
        if part.empty:
            continue
        last = part.groupby("run", sort=False)["stage"].transform("last")
        part = part[part["stage"] == last]
        runs, classes = list(part["run"].unique()), list(part["class"].unique())
        wide = part.pivot(index="class", columns="run", values="iou").loc[classes, runs]
        alike: dict[tuple, list[str]] = {}  # runs that share their labels share a column
        for run in runs:
            alike.setdefault(tuple(wide[run].fillna(-1)), []).append(run)
        runs = [names[0] for names in alike.values()]
        rows = [
            {
                "name": name,
                "colour": colour(number),
                "cells": [_shade(wide.loc[name, run]) for run in runs],
            }
            for number, name in enumerate(classes)
        ]
        means = [_one(wide[run].mean()) for run in runs]
        title = f"{title}, {part['split'].iloc[0]}"
        heads = [", ".join(names) for names in alike.values()]
        made.append({"title": title, "runs": heads, "rows": rows, "means": means})
    return made


def colour(label: int) -> str:
    """The colour of a label in VOC's palette, for CSS."""
    return "#" + "".join(f"{part:02x}" for part in voc_palette()[label])


def there(value: object) -> bool:
    """Say whether a cell of a CSV holds something."""
    return not (value is None or value == "" or (isinstance(value, float) and math.isnan(value)))


def text(value: object) -> str:
    """Text of a cell of a CSV, empty where it holds nothing; whole numbers without a point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if there(value) else ""


def short(value: float) -> str:
    """A number to three figures, or whole from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def signed(value: float) -> str:
    """A difference with its sign."""
    words = f"{value:+.1f}"
    return "0.0" if words in ("+0.0", "-0.0") else words.replace("-", MINUS)


def arrows(words: str) -> str:
    """What differs, with real arrows."""
    return re.sub(r"\s*->\s*", " → ", words)


def _one(value: float) -> str:
    return f"{value:.1f}"


def _range(line: dict, name: str, write=_one) -> str:
    return f"[{write(line[f'{name}_low'])}, {write(line[f'{name}_high'])}]"


def _splits(line: dict) -> str:
    pairs = [(line["split"], line["images"])]
    pairs.append((line.get("segmentation_split"), line.get("segmentation_images")))
    return "\n".join(f"{split} ({int(images)})" for split, images in pairs if there(split)) or "–"


def _stage(line: dict, stage: str) -> dict:
    if not there(line[stage]):
        return EMPTY
    extra = [_range(line, stage)]
    if stage in TRAINED and there(line[f"{stage}_sd"]):
        extra.append(f"± {_one(line[f'{stage}_sd'])} over seeds")
    if stage == "segmentation" and there(line["segmentation_of_full"]):
        extra.append(f"{_one(line['segmentation_of_full'])} % of full supervision")
    if stage in MAP_STAGES and line[f"{stage}_oracle_power"] != line[f"{stage}_power"]:
        power = line[f"{stage}_oracle_power"]
        extra.append(f"oracle {_one(line[f'{stage}_oracle'])}, p = {power:g}")
    if there(line[f"{stage}_quoted"]):
        extra.append(f"quoted {_one(line[f'{stage}_quoted'])}")
    return cell(_one(line[stage]), "\n".join(extra), line[stage])


def _difference(line: dict) -> dict:
    if not there(line["difference"]):
        return EMPTY | {"extra": text(line["difference_note"])}
    noise = "more than noise" if line["more_than_noise"] == "yes" else "within noise"
    of = str(line["difference_of"]).replace(" - ", f" {MINUS} ")
    extra = "\n".join([_range(line, "difference", signed), noise, of])
    return cell(signed(line["difference"]), extra, line["difference"])


def _legend(frame: pd.DataFrame, stage: str) -> str:
    prefix = "segmentation_" if stage == "segmentation" else ""
    first = frame[frame[stage].notna()].iloc[0]
    split, images = first[f"{prefix}split"], int(first[f"{prefix}images"])
    return f"{TITLES[stage]} ({split}, {images} images)"


def _rung(line: dict, stages: list[str], place) -> dict:
    marks = []
    for stage in stages:
        if not there(line[stage]):
            continue
        low, high = place(line[f"{stage}_low"]), place(line[f"{stage}_high"])
        marks.append(
            {
                "stage": stage,
                "left": place(line[stage]),
                "low": low,
                "width": round(high - low, 2),
                "tip": f"{TITLES[stage]} {_one(line[stage])} {_range(line, stage)}",
            }
        )
    lefts = [mark["left"] for mark in marks] or [0]
    delta = None
    if there(line["difference"]):
        delta = {
            "text": signed(line["difference"]),
            "interval": _range(line, "difference", signed),
            "base": f"to {line['base']}"
            + ("" if line["more_than_noise"] == "yes" else ", within noise"),
            "sure": line["more_than_noise"] == "yes",
        }
    return {
        "name": line["run"],
        "note": text(line["note"]) or arrows(text(line["differs"])),
        "marks": marks,
        "from": min(lefts),
        "span": round(max(lefts) - min(lefts), 2),
        "label": _one(line["miou"]) if there(line["miou"]) else "",
        "label_left": lefts[-1],
        "label_stage": marks[-1]["stage"] if marks else "",
        "aria": "; ".join(mark["tip"] for mark in marks),
        "delta": delta,
    }


def _shade(value: float) -> dict | None:
    if math.isnan(value):
        return None
    share = value / 100
    return {"shade": shade(share), "dark": share >= DARK, "value": value, "text": f"{value:.0f}"}
