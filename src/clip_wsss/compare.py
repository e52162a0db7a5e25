"""Compare two results folders or two git revisions of one: python -m clip_wsss.compare A B.

A and B are results folders (results/demo, or a copy of it), or git revisions, whose results are
read from what Git and DVC track, without a checkout. What changed is printed, B minus A, for every
run, stage and class, with paired intervals; --out writes it too.
"""

import argparse
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from clip_wsss.core.arguments import output
from clip_wsss.core.csvs import markdown_table, markdown_text, write_csv
from clip_wsss.core.errors import InputError, failed, stopped
from clip_wsss.core.files import check_own, check_replaceable, make_output, write_text
from clip_wsss.runs.config import GROUPS
from clip_wsss.runs.sidecar import check_bytes, parse_sidecar
from clip_wsss.runs.stages import MAP_STAGES, SCORED, TRAINED
from clip_wsss.score.changes import changes, flat_changes
from clip_wsss.score.measurements import (
    Difference,
    Figure,
    Folder,
    Reader,
    ResultsFolder,
    difference,
)
from clip_wsss.tables.write import INDEX_FORMAT, percent

TITLE = "# B - A: what"

STAGE_COLUMNS = (
    "run", "same_as", "stage", "images", "other_truth",
    "a", "a_images", "a_scoring", "b", "b_images", "b_scoring",
    "difference", "low", "high", "more_than_noise", "changed",
)  # fmt: skip
CLASS_COLUMNS = (
    "run",
    "same_as",
    "stage",
    "class",
    "a",
    "b",
    "difference",
    "low",
    "high",
    "more_than_noise",
)
GROUPS_OF = {  # what a stage depends on
    "initial": ("texts", "cam"),
    "refined": ("texts", "cam", "affinity"),
    "mask": ("texts", "cam", "affinity", "masks"),
    **dict.fromkeys(TRAINED, GROUPS),
}
SHOWN = 15  # classes that are printed


class Revision:
    """A results folder as a git revision has it, whether Git or DVC holds the files."""

    def __init__(self, revision: str, folder: str):
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException

        self.revision, self.folder = revision, folder
        self._files = DVCFileSystem(rev=revision)
        try:
            self._files.repo  # noqa: B018 - opened when it is first asked for
        except DvcException:
            raise InputError(f"{revision}: neither a folder nor a git revision") from None

    def __str__(self) -> str:
        return f"{self.folder} at {self.revision}"

    def open(self, name: str) -> BinaryIO:
        """Open a file as the revision has it. Raises InputError where it has none."""
        from dvc_data.index import DataIndexDirError

        try:
            with self._files.open(f"{self.folder}/{name}", "rb") as file:
                return io.BytesIO(file.read())  # what comes from Git cannot seek
        except (FileNotFoundError, DataIndexDirError):
            raise InputError(
                f"{self}: there is no {name}; results are tracked by `make track` and brought "
                "back by `dvc fetch --all-commits`"
            ) from None


class Whole:
    """A results folder whose files are what their sidecars say, or they are not read."""

    def __init__(self, source: ResultsFolder):
        self.source = source
        self._sidecars: dict[str, dict] = {}

    def __str__(self) -> str:
        return str(self.source)

    def open(self, name: str) -> BinaryIO:
        """Open a file. Raises InputError where it is missing or was changed since it was made."""
        folder = name.rpartition("/")[0]
        if folder not in self._sidecars:
            beside = f"{folder}/sidecar.json"
            with self.source.open(beside) as file:
                self._sidecars[folder] = parse_sidecar(file.read(), f"{self.source}/{beside}")
        with self.source.open(name) as file:
            data = file.read()
        check_bytes(self._sidecars[folder], f"{self.source}/{name}", data)
        return io.BytesIO(data)


def open_results(text: str, results: str) -> ResultsFolder:
    """Return the results folder that A or B names.

    Args:
        text: a folder, or a git revision.
        results: the folder within the revision.

    Raises:
        InputError: it is neither.
    """
    return Folder(text) if Path(text).is_dir() else Revision(text, results.rstrip("/"))


def compare(first: ResultsFolder, second: ResultsFolder) -> "Comparison":
    """Compare two results folders, the first subtracted from the second.

    Raises:
        InputError: a folder without tables/runs.json or with that of an earlier version, or a
            measurement that is missing or was changed since it was made.
    """
    old, new = _index(first), _index(second)
    first, second = Whole(first), Whole(second)
    reader = Reader(first, old["resamples"], old["seed"])
    # The resamples must be the same on both sides, so the first decides on them.
    others = Reader(second, old["resamples"], old["seed"])
    olds, news = ({run["name"]: run for run in index["runs"]} for index in (old, new))
    stages, classes = [], []
    firsts: dict[tuple, str] = {}
    for name in (name for name in news if name in olds):
        for stage in SCORED:
            one, other = _figure(reader, olds[name], stage), _figure(others, news[name], stage)
            if one is None and other is None:
                continue
            gap = difference(other, one) if one and other else None
            changed = "; ".join(_changes(olds[name], news[name], stage))
            keys = [figure and (figure.files, figure.power) for figure in (one, other)]
            known = firsts.setdefault((stage, *keys, changed), name)
            place = (name, "" if known == name else known, stage)
            stages.append((*place, *_stage_line(one, other, gap), changed))
            if one and other and gap:
                classes += [(*place, *line) for line in _class_lines(one, other, gap)]
    settings = [key for key in ("dataset", "evaluation") if old.get(key) != new.get(key)]
    return Comparison(
        names=(str(first), str(second)),
        removed=[name for name in olds if name not in news],
        added=[name for name in news if name not in olds],
        settings=[
            line
            for key in settings
            for line in flat_changes({key: old.get(key, {})}, {key: new.get(key, {})})
        ],
        stages=pd.DataFrame(stages, columns=list(STAGE_COLUMNS)),
        classes=pd.DataFrame(classes, columns=list(CLASS_COLUMNS)),
    )


@dataclass(frozen=True)
class Comparison:
    """What changed from a first to a second results folder, in percent.

    Attributes:
        names: of the two.
        removed: runs that only the first has.
        added: runs that only the second has.
        settings: what changed beside the runs' own settings, in words.
        stages: one line a run and stage.
        classes: one line a run, stage and class that has ground truth.
    """

    names: tuple[str, str]
    removed: list[str]
    added: list[str]
    settings: list[str]
    stages: pd.DataFrame
    classes: pd.DataFrame

    @property
    def changed(self) -> pd.DataFrame:
        """The lines of `stages` that are not the same on both sides."""
        same = (self.stages[["difference", "low", "high", "other_truth"]] == 0).all(axis=1)
        for side in ("a", "b"):
            same &= self.stages[f"{side}_images"] == self.stages["images"]
        return self.stages[~(same & (self.stages["changed"] == ""))]

    @property
    def notes(self) -> list[str]:
        """What makes differences of the stages say less: other images, other ground truth."""
        found = self.stages.dropna(subset="difference")
        keys = ["a_images", "b_images", "images", "other_truth"]
        lines = []
        for (a, b, both, other), rows in found.groupby(keys, sort=False):
            where = ", ".join(dict.fromkeys(rows["stage"]))
            if not a == b == both:
                lines.append(
                    f"{where}: A was scored on {a:.0f} images and B on {b:.0f}: their figures are "
                    f"of these, B - A of the {both:.0f} in common"
                )
            if other:
                lines.append(
                    f"{where}: the ground truth differs in {other:.0f} of {both:.0f} images, and "
                    "B - A is of that, too"
                )
        return lines

    def write(self, folder: Path) -> None:
        """Write comparison.md, stages.csv and classes.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "comparison.md", self.text())
        write_csv(self.stages, folder / "stages.csv")
        write_csv(self.classes, folder / "classes.csv")

    def text(self) -> str:
        """Return it as Markdown."""
        lines = [f"{TITLE} {self.names[1]} changes against {self.names[0]}", ""]
        for title, items in (
            ("only in A", self.removed),
            ("only in B", self.added),
            ("settings of both sides", self.settings),
        ):
            lines += [f"- {title}: {markdown_text(', '.join(items))}"] if items else []
        changed = self.changed
        same = len(self.stages) - len(changed)
        lines += [f"- {markdown_text(note)}" for note in self.notes]
        lines += [f"- the same on both sides: {same} of {len(self.stages)} figures", ""]
        if len(changed):
            lines += _markdown(
                ["run", "stage", "A", "B", "B - A [95 %]", "more than noise", "changed settings"],
                [_stage_cells(row) for row in _merged(changed)],
            )
        moved = self.classes[self.classes["more_than_noise"] == "yes"]
        moved = _merged(moved.sort_values("difference", key=lambda gap: -gap.abs(), kind="stable"))
        if moved:
            title = f"## Classes that changed by more than noise ({len(moved)}"
            shown = f", the largest {SHOWN}" if len(moved) > SHOWN else ""
            lines += ["", f"{title}{shown})", ""]
            lines += _markdown(
                ["run", "stage", "class", "A", "B", "B - A [95 %]"],
                [_class_cells(row) for row in moved[:SHOWN]],
            )
        return "\n".join(lines) + "\n"


def _merged(frame: pd.DataFrame) -> list[dict]:
    """The rows of measurements of their own, each with all runs that share it."""
    sharing: dict[tuple, list[str]] = {}
    for row in frame.to_dict("records"):
        key = (row["same_as"] or row["run"], row["stage"], row.get("class"))
        sharing.setdefault(key, []).append(row["run"])
    return [
        {**row, "run": ", ".join(sharing[row["run"], row["stage"], row.get("class")])}
        for row in frame.to_dict("records")
        if not row["same_as"]
    ]


def _index(source: ResultsFolder) -> dict:
    with source.open("tables/runs.json") as file:
        try:
            index = json.load(file)
        except ValueError:
            index = {}
    if not isinstance(index, dict) or index.get("format") != INDEX_FORMAT:
        raise InputError(
            f"{source}: tables/runs.json was written by another version of this suite; compare "
            "with that version, or make the results again with this one"
        )
    with Whole(source).open("tables/runs.json"):
        return index


def _figure(reader: Reader, run: dict, stage: str) -> Figure | None:
    if stage not in run["files"]:
        return None
    return reader.figure(stage, run["files"][stage], run["scoring"], run["background_power"])


def _changes(old: dict, new: dict, stage: str) -> list[str]:
    """What changed in the settings that a stage depends on."""
    words = changes(old["entries"], new["entries"], GROUPS_OF[stage])
    if stage in MAP_STAGES:
        words += flat_changes(*({key: run[key] for key in ("background_power", "scoring")}
                                for run in (old, new)))  # fmt: skip
    if stage in TRAINED and old["seeds"] != new["seeds"]:
        seeds = [" ".join(map(str, run["seeds"])) for run in (old, new)]
        words.append(f"seeds: {seeds[0]} -> {seeds[1]}")
    return words


def _stage_line(one: Figure | None, other: Figure | None, gap: Difference | None) -> tuple:
    values = [
        cell
        for figure in (one, other)
        for cell in (
            (percent(figure.value), len(figure.ids), figure.scoring)
            if figure
            else (np.nan, None, "")
        )
    ]
    numbers: tuple = (np.nan, np.nan, np.nan, "")
    if gap:
        ends = (gap.value, gap.interval.low, gap.interval.high)
        numbers = (*map(percent, ends), "yes" if gap.more_than_noise else "no")
    images = (gap.images, gap.other_truth) if gap else (None, None)
    return (*images, *values, *numbers)


def _class_lines(one: Figure, other: Figure, gap: Difference) -> list[tuple]:
    lines = []
    for place, label in enumerate(one.names):
        around = gap.class_intervals[place]
        numbers = (one.class_iou[place], other.class_iou[place], gap.class_values[place])
        if not np.isnan(numbers[2]):
            cells = map(percent, (*numbers, around.low, around.high))
            lines.append((label, *cells, "yes" if around.excludes_zero else "no"))
    return lines


def _stage_cells(row: dict) -> list[str]:
    sides = []
    for side in ("a", "b"):
        oracle = " (oracle)" if row[f"{side}_scoring"] == "oracle" else ""
        other = row[f"{side}_images"] != row["images"] and not np.isnan(row["difference"])
        images = f" ({row[f'{side}_images']:.0f} images)" if other else ""
        sides.append("" if np.isnan(row[side]) else f"{row[side]:.1f}{oracle}{images}")
    both = all(sides)
    gap = _gap(row) if not np.isnan(row["difference"]) else "not comparable" if both else ""
    return [row["run"], row["stage"], *sides, gap, row["more_than_noise"], row["changed"]]


def _class_cells(row: dict) -> list[str]:
    values = [row["run"], row["stage"], row["class"]]
    return [*values, f"{row['a']:.1f}", f"{row['b']:.1f}", _gap(row)]


def _gap(row: dict) -> str:
    return f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"


def _markdown(head: list[str], rows: list[list[str]]) -> list[str]:
    return markdown_table([head, ["---"] * len(head), *rows]).splitlines()


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="clip-wsss compare", description=__doc__)
    parser.add_argument("a", metavar="A", help="results folder or git revision")
    parser.add_argument("b", metavar="B", help="results folder or git revision")
    parser.add_argument(
        "--results", default="results/demo", help="the folder in a git revision (results/demo)"
    )
    parser.add_argument("--out", type=output, help="folder for comparison.md and the CSVs")
    parser.add_argument("--overwrite", action="store_true", help="replace files of others there")
    options = parser.parse_args(arguments)
    try:
        if options.out is not None:
            make_output(options.out)
            files = [options.out / name for name in ("comparison.md", "stages.csv", "classes.csv")]
            if not options.overwrite:
                check_own(options.out, "comparison.md", TITLE, files)
            for file in files:
                check_replaceable(file)
        sources = (open_results(text, options.results) for text in (options.a, options.b))
        found = compare(*sources)
    except InputError as error:
        return failed(error)
    print(found.text(), end="")
    if options.out is not None:
        try:
            found.write(options.out)
        except OSError as error:
            return stopped(error, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
