"""How the runs of a table compare with one another: best runs, ties, any run as the base.

All differences are the paired ones of `clip_wsss.tables.write`, from the measurements themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from clip_wsss.report.tables import comparison
from clip_wsss.runs.stages import LABEL_STAGES
from clip_wsss.score.measurements import Figure, difference
from clip_wsss.tables.write import Row, against

MOST_PAIRED = 40  # runs of a table, above which no base is chosen in the page: pairs are squares


@dataclass(frozen=True)
class Best:
    """The best figure of some runs.

    Attributes:
        figure: it.
        runs: those that have it: the first, and those whose figure is the very same.
        near: runs whose paired difference to it is within noise.
    """

    figure: Figure
    runs: tuple[str, ...]
    near: tuple[str, ...]


def labels_of(row: Row) -> Figure | None:
    """The figure of a run's pseudo labels; of maps at the fixed power, as the ladder shows it."""
    stages = [stage for stage in LABEL_STAGES if stage in row.files]
    return row.figure(stages[-1], "fixed") if stages else None


def predictions_of(row: Row) -> Figure | None:
    """The figure of a run's segmentation."""
    return row.figure("segmentation") if "segmentation" in row.files else None


def best(rows: Iterable[Row], choose: Callable[[Row], Figure | None]) -> Best | None:
    """The best of the figures that `choose` takes from runs; None where there is none."""
    found = {row.run.name: figure for row in rows if (figure := choose(row)) is not None}
    if not found:
        return None
    top = found[max(found, key=lambda name: found[name].value)]
    ties = tuple(name for name, one in found.items() if one.same(top) or one.value == top.value)
    gaps = {name: difference(top, one) for name, one in found.items() if name not in ties}
    near = tuple(name for name, gap in gaps.items() if gap and not gap.more_than_noise)
    return Best(top, ties, near)


def pairs(rows: Mapping[str, Row]) -> dict[str, dict[str, dict]]:
    """Base -> run -> comparison, of all runs of a table; none of a table of too many runs."""
    if len(rows) > MOST_PAIRED:
        return {}
    return {
        base: {
            name: comparison({"base": base, **against(row, rows[base])})
            for name, row in rows.items()
            if name != base
        }
        for base in rows
    }


def across(rows: Mapping[str, Row]) -> list[dict]:
    """Runs that no chain of bases ties to the first run, against those that are most like them.

    Their pseudo labels are compared with those of the earlier run of another chain whose settings
    differ least up to the masks, and their segmentation likewise.

    Returns:
        run and comparison of each, labels first.
    """
    roots = {name: _root(rows, name) for name in rows}
    first, names, found = next(iter(rows), None), list(rows), []
    for name, row in rows.items():
        if roots[name] == first:
            continue
        others = [
            rows[other]
            for other in names[: names.index(name)]
            if roots[other] not in (name, roots[name])
        ]
        for choose, cut in ((labels_of, Row.up_to_masks), (predictions_of, lambda row: row)):
            own = choose(row)
            alike = [
                {"base": other.run.name, **against(cut(row), cut(other))}
                for other in others
                if own and (figure := choose(other)) and figure.stage == own.stage
            ]
            if alike:
                nearest = min(alike, key=lambda line: len(line["differs"].split("; ")))
                found.append({"run": name, **comparison(nearest)})
    return found


def _root(rows: Mapping[str, Row], name: str) -> str:
    """The run at which the chain of bases of a run begins."""
    seen = {name}
    base = rows[name].run.base
    while base is not None and base in rows and base not in seen:
        seen.add(base)
        name, base = base, rows[base].run.base
    return name
