"""The runs tables as a terminal shows them when a run of the workflow has ended."""

from collections.abc import Iterator
from pathlib import Path

from clip_wsss.core.csvs import read_csv

STAGES = ("initial", "refined", "mask", "labels", "segmentation")


def lines(table: str | Path) -> Iterator[str]:
    """Yield the measured rows of a table (CSV) in columns: mIoU in percent by stage, difference.

    Columns that no row fills are left out, and all of them where nothing was scored. `noise` marks
    a difference whose interval holds 0, `oracle` one of figures at the best of all background
    powers, which are not those in the columns.
    """
    rows = [row for _, row in read_csv(table).iterrows() if row["kind"] == "measured"]
    shown = [stage for stage in STAGES if any(row[stage] == row[stage] for row in rows)]
    if not shown:
        return
    cells = [["run", *shown, "difference"]]
    for row in rows:
        change = ""
        if row["difference"] == row["difference"]:
            said = [] if row["more_than_noise"] == "yes" else ["noise"]
            said += ["oracle"] if "oracle" in str(row["difference_of"]) else []
            words = f" ({', '.join(said)})" if said else ""
            change = f"{round(row['difference'], 1) + 0.0:+} to {row['base']}{words}"
        values = [f"{row[stage]:.1f}" if row[stage] == row[stage] else "" for stage in shown]
        cells.append([row["run"], *values, change])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        first, *middle, last = line
        numbers = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *numbers, last]).rstrip()
