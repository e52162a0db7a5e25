"""The ladder: every run of a table as a line of marks; labels and segmentation have own axes.

Places are in per cent of an axis; the template draws them with HTML, so that a phone can wrap them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from clip_wsss.report.charts import ticks
from clip_wsss.report.tables import arrows, bounds, comparison, decimal, text, there
from clip_wsss.runs.stages import SCORED
from clip_wsss.tables.layout import TITLES

AXES = (SCORED[:-1], SCORED[-1:])  # labels of the images that are trained on, and predictions


def ladder(frame: pd.DataFrame) -> dict | None:
    """Compute the ladder chart of a table of runs.

    Args:
        frame: the measured lines of tables/<table>.csv.

    Returns:
        axes (title, ticks, legend) and rows for the template, or None where nothing was measured.
    """
    axes = [[stage for stage in stages if frame[stage].notna().any()] for stages in AXES]
    axes = [stages for stages in axes if stages]
    if not axes:
        return None
    lines = frame.to_dict("records")
    made, tracks = [], []
    for stages in axes:
        start, end = _range(frame, stages)

        def place(value: float, start: float = start, end: float = end) -> float:
            return round((value - start) / (end - start) * 100, 2)

        marks = [{"left": place(tick), "text": f"{tick:g}"} for tick in ticks(start, end, 5)]
        legend = [{"stage": stage, "label": TITLES[stage]} for stage in stages]
        made.append({"title": _title(frame, stages), "ticks": marks, "legend": legend})
        tracks.append(_tracks(lines, stages, place))
    rows = [
        {
            "name": line["run"],
            "note": text(line["note"]) or arrows(text(line["differs"])),
            "tracks": [track[number] for track in tracks],
            "delta": comparison(line),
            "of_full": _of_full(line),
        }
        for number, line in enumerate(lines)
    ]
    return {"axes": made, "rows": rows}


def _range(frame: pd.DataFrame, stages: list[str]) -> tuple[float, float]:
    """Where an axis begins and ends: round numbers about all intervals."""
    low = min(frame[[f"{stage}_low" for stage in stages]].min())
    high = max(frame[[f"{stage}_high" for stage in stages]].max())
    marks = ticks(max(0.0, low - 2), min(100.0, high + 2), 6)
    step = marks[1] - marks[0] if len(marks) > 1 else 10
    start = math.floor(low / step) * step
    return start, max(math.ceil(high / step) * step, start + step)


def _title(frame: pd.DataFrame, stages: list[str]) -> str:
    prefix = "segmentation_" if stages[-1] == "segmentation" else ""
    first = frame[frame[stages].notna().any(axis=1)].iloc[0]
    what = "segmentation" if prefix else "pseudo labels"
    return f"{what}: {first[f'{prefix}split']}, {int(first[f'{prefix}images'])} images"


def _tracks(
    lines: list[dict], stages: list[str], place: Callable[[float], float]
) -> list[dict | None]:
    """The marks of every run on one axis; None of a run without any."""
    seen: dict[tuple, str] = {}
    tracks: list[dict | None] = []
    for line in lines:
        measured = [stage for stage in stages if there(line[stage])]
        if not measured:
            tracks.append(None)
            continue
        last = measured[-1]
        # The very same figure with the very same interval: these runs share what was scored.
        figures = (last, *(line[f"{last}{end}"] for end in ("", "_low", "_high")))
        same = seen.setdefault(figures, line["run"])
        marks = [_mark(line, stage, place) for stage in measured]
        lefts = [mark["left"] for mark in marks]
        tracks.append(
            {
                "marks": marks,
                "from": min(lefts),
                "span": round(max(lefts) - min(lefts), 2),
                "label": decimal(line[last]),
                "label_left": lefts[-1],
                "label_stage": last,
                "as": "" if same == line["run"] else same,
                "aria": "; ".join(mark["tip"] for mark in marks),
            }
        )
    return tracks


def _mark(line: dict, stage: str, place: Callable[[float], float]) -> dict:
    low, high = place(line[f"{stage}_low"]), place(line[f"{stage}_high"])
    return {
        "stage": stage,
        "left": place(line[stage]),
        "low": low,
        "width": round(high - low, 2),
        "tip": f"{TITLES[stage]} {decimal(line[stage])} {bounds(line, stage)}",
    }


def _of_full(line: dict) -> str:
    """The share of full supervision; empty for a run without one, and for that run itself."""
    share = line["segmentation_of_full"]
    return f"{decimal(share)} % of full supervision" if there(share) and share != 100 else ""
