"""What the page says first: what helped, on what data, and the best runs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from clip_wsss.data.datasets import ALL
from clip_wsss.report.relations import Best, best, labels_of, predictions_of
from clip_wsss.report.results import Results
from clip_wsss.report.tables import decimal, signed


def opening(results: Results, tables: dict[str, pd.DataFrame], demo: bool) -> dict[str, Any]:
    """The lead and the tiles at the top."""
    splits = results.config.dataset.splits
    shown = dict.fromkeys(filter(None, (splits.pseudo, splits.val)))
    counts = {split: len(results.dataset.ids(split)) for split in shown}
    images = " and ".join(
        f"{count:,}" if split == ALL else f"{count:,} {split}" for split, count in counts.items()
    )
    masks = [results.graph.settings[run.name].masks for run in results.runs]
    made = {one.source for one in masks if one is not None}
    words = {"ground-truth": "ground truth", "import": "masks made elsewhere"}
    left_out = " and ".join(said for source, said in words.items() if source in made)
    several = len(results.runs) > 1
    each = "each " if several else ""
    if several:
        but = f" but those on {left_out}" if left_out else ""
        taught = f"All{but} learn from image-level labels alone"
    else:
        taught = f"It {f'has {left_out}' if left_out else 'learns from image-level labels alone'}"
    found = answer(tables)
    if found and demo:
        found += "The demo shows that methods run; it does not rank them. "
    lead = found + (
        f"{f'{len(results.runs)} runs' if several else 'One run'} on the {images} images of "
        f"{'the demo' if demo else results.dataset.name}"
        f"{f', {each}measured after every stage' if results.scored else ''}. {taught}."
    )
    lines = [] if [*counts] == [ALL] else [images]
    tiles: list[dict[str, Any]] = [
        {"label": "Images", "value": f"{sum(counts.values()):,}", "lines": lines}
    ]
    if several:
        tiles.insert(0, {"label": "Runs", "value": len(results.runs), "lines": list(tables)})
    return {"lead": lead, "tiles": tiles + _best_tiles(results, tables)}


def _best_tiles(results: Results, tables: dict[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """The best pseudo labels and the best segmentation; what learns from the truth is left out."""
    if not results.scored:
        return []
    bounds = {run.name for run in results.runs if results.fully_supervised(run)}
    rows = [row for name, row in results.rows.items() if name not in bounds]
    shares = {
        line["run"]: line["segmentation_of_full"]
        for frame in tables.values()
        for line in frame.dropna(subset="segmentation_of_full").to_dict("records")
    }
    several, tiles = len(rows) > 1, []
    for what, choose in (("pseudo labels", labels_of), ("segmentation", predictions_of)):
        found = best(rows, choose)
        if found is not None:
            label = f"Best {what}, mIoU" if several else f"{what.capitalize()}, mIoU"
            lines = best_lines(found)
            if choose is predictions_of and found.runs[0] in shares:
                lines.insert(1, f"{decimal(shares[found.runs[0]])} % of full supervision")
            tiles.append(
                {"label": label, "value": decimal(100 * found.figure.value), "lines": lines}
            )
    return tiles


def best_lines(found: Best) -> list[str]:
    """Who has the best figure, with its interval; what ties with it, and what noise may explain."""
    around = found.figure.interval
    first, *ties = found.runs
    lines = [f"{first}, interval {decimal(100 * around.low)} to {decimal(100 * around.high)}"]
    if ties:
        lines.append(f"tie with {', '.join(ties)}")
    if found.near:
        lines.append(f"within noise of it: {', '.join(found.near)}")
    return lines


def answer(tables: dict[str, pd.DataFrame], most: int = 5) -> str:
    """What helped against its base, by how much, and what is within noise; empty without bases."""
    lines = [
        line
        for frame in tables.values()
        for line in frame.dropna(subset="difference").to_dict("records")
    ]
    sure = sorted(
        (line for line in lines if line["more_than_noise"] == "yes"),
        key=lambda line: -abs(line["difference"]),
    )
    said = {line["run"]: f"{line['run']} {signed(line['difference'])}" for line in sure}
    for line in sorted(sure, key=lambda line: line["difference"] < 0)[:1]:  # named first
        said[line["run"]] += " points of mIoU"
    groups = {
        "better than their base": [said[line["run"]] for line in sure if line["difference"] > 0],
        "worse": [said[line["run"]] for line in sure if line["difference"] < 0],
        "within noise": [line["run"] for line in lines if line["run"] not in said],
    }
    parts = [
        f"{words}: {', '.join(names[:most])}"
        + (f" and {len(names) - most} more" if len(names) > most else "")
        for words, names in groups.items()
        if names
    ]
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}. " if parts else ""
