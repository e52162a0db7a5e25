"""Tables of the report: what the CSV files hold, as cells that are read and sorted.

A cell is {text, extra, value, number}: what is shown, smaller words below it, what it sorts by.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd

from clip_wsss.core.csvs import csv_text
from clip_wsss.core.images import voc_palette
from clip_wsss.runs.stages import MAP_STAGES, SCORED, TRAINED
from clip_wsss.score.zero_shot import PARTS
from clip_wsss.tables.layout import TITLES

MINUS = "−"
DIFFERS = "base: what differs from it"
KEYS = {DIFFERS: "differs", "difference": "difference"}  # cells that follow a chosen base


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
    labels = ["run", DIFFERS, "split (images)", "seed", *numbers, "precision"]
    rows = []
    for line in frame.to_dict("records"):
        said = comparison(line)
        rows.append(
            [
                cell(line["run"]),
                cell(": ".join(filter(None, (said["base"], said["differs"]))) or "–"),
                cell(_splits(line)),
                cell(text(line["seeds"]) if any(there(line[s]) for s in TRAINED) else "–"),
                *(_stage(line, stage) for stage in stages),
                difference_cell(said),
                cell(text(line["precision"]) or "–"),
            ]
        )
    return {
        "id": f"table-{name}",
        "title": f"Table {name}",
        "caption": "mIoU in per cent with its 95 % interval; differences are paired. Where another "
        "background power p would score higher, it is given as an oracle, since finding it needs "
        "the ground truth. Other limits of the figures are listed above the table.",
        "columns": [
            {"label": label, "number": label in numbers, "key": KEYS.get(label)} for label in labels
        ],
        "rows": rows,
        "runs": frame["run"].tolist(),
        "csv": csv_text(frame),
    }


def across_table(lines: Sequence[dict], name: str) -> dict:
    """Lay out what `relations.across` found."""
    heads = [("run", False), ("against", False), ("difference", True), ("what differs", False)]
    cells = ("run", "base", "value", "interval", "sure", "of", "note", "differs")
    frame = pd.DataFrame(lines, columns=list(cells))
    return {
        "id": f"table-{name}-across",
        "title": "Runs without a common base",
        "caption": "No chain of bases ties these runs to the first one, so each is set against "
        "the earlier run that differs from it in the fewest settings: its pseudo labels up to the "
        "masks, and its segmentation.",
        "columns": [{"label": label, "number": number} for label, number in heads],
        "rows": [
            [
                cell(line["run"]),
                cell(line["base"]),
                difference_cell(line),
                cell("\n".join(line["differs"].split("; ")) or "–"),
            ]
            for line in lines
        ],
        "runs": [line["run"] for line in lines],
        "csv": csv_text(frame),
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
    labels = {column: column.replace("_", " ").replace(" mb", ", MB") for column in columns}
    heads = [{"label": labels[column], "number": column in numbers} for column in columns]
    return {
        "id": f"table-{name}",
        "title": name,
        "caption": caption,
        "columns": heads,
        "rows": rows,
        "csv": csv_text(frame),
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
        row[shown.columns.get_loc("mIoU")] = cell(decimal(figure), value=figure)
    return table | {"title": "Published figures"}


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


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign."""
    words = f"{value:+.{digits}f}"
    return words.replace("-", MINUS) if words.strip("+-0.") else words[1:]


def arrows(words: str) -> str:
    """What differs, with real arrows."""
    return re.sub(r"\s*->\s*", " → ", words)


def decimal(value: float) -> str:
    """A figure, to one decimal."""
    return f"{value:.1f}"


def bounds(line: Mapping, name: str, write: Callable[[float], str] = decimal) -> str:
    """The interval of a column of a CSV."""
    return f"[{write(line[f'{name}_low'])}, {write(line[f'{name}_high'])}]"


def comparison(line: Mapping) -> dict:
    """What the page says of a run against a base.

    Args:
        line: base, and the cells of `tables.write.against`.

    Returns:
        base, differs, note (why there is no difference), and where there is one value, text,
        interval, of (the stages, where they differ), sure (more than noise) and where classes are
        held out parts (the differences of seen, unseen and harmonic).
    """
    sure = line.get("more_than_noise") == "yes"
    said = {"base": text(line["base"]), "differs": arrows(text(line["differs"]))}
    if not there(line.get("difference")):
        return said | {"note": text(line.get("difference_note")) or "nothing to compare"}
    parts = [
        f"{part} {signed(line[name])} {bounds(line, name, signed)}"
        for part in PARTS
        if there(line.get(name := f"difference_{part}"))
    ]
    return said | {
        **({"parts": "\n".join(parts)} if parts else {}),
        "value": line["difference"],
        "text": signed(line["difference"]),
        "interval": _interval(line, sure),
        "sure": sure,
        "of": str(line["difference_of"]).replace(" - ", " \N{MINUS SIGN} "),
    }


def _interval(line: Mapping, sure: bool) -> str:
    """The interval of a difference, to the decimal at which one without a 0 is seen to be so."""
    for digits in (1, 2, 3):
        words = bounds(line, "difference", partial(signed, digits=digits))
        if not (sure and re.search(r"[\[ ]0\.0", words)):
            break
    return words


def _splits(line: dict) -> str:
    pairs = [(line["split"], line["images"])]
    pairs.append((line.get("segmentation_split"), line.get("segmentation_images")))
    return "\n".join(f"{split} ({int(images)})" for split, images in pairs if there(split)) or "–"


def _stage(line: dict, stage: str) -> dict:
    if not there(line[stage]):
        return EMPTY
    extra = [bounds(line, stage)]
    if stage in TRAINED and there(line[f"{stage}_sd"]):
        extra.append(f"± {decimal(line[f'{stage}_sd'])} over seeds")
    for part in PARTS if stage == "segmentation" else ():
        name = f"{stage}_{part}"
        if there(line.get(name)):
            extra.append(f"{part} {decimal(line[name])} {bounds(line, name)}")
    if stage == "segmentation" and there(line["segmentation_of_full"]):
        extra.append(f"{decimal(line['segmentation_of_full'])} % of full supervision")
    if stage in MAP_STAGES and line[f"{stage}_oracle_power"] != line[f"{stage}_power"]:
        power = line[f"{stage}_oracle_power"]
        extra.append(f"oracle {decimal(line[f'{stage}_oracle'])}, p = {power:g}")
    if there(line[f"{stage}_quoted"]):
        extra.append(f"quoted {decimal(line[f'{stage}_quoted'])}")
    return cell(decimal(line[stage]), "\n".join(extra), line[stage])


def difference_cell(said: dict) -> dict:
    """The cell of a comparison."""
    if "value" not in said:
        return EMPTY | {"extra": said["note"] if said["base"] else ""}
    noise = "more than noise" if said["sure"] else "within noise"
    lines = [said["interval"], noise, said["of"], said.get("parts", "")]
    return cell(said["text"], "\n".join(filter(None, lines)), said["value"])
