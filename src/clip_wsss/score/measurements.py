"""Measurements read back: a figure with its resamples, and the difference of two figures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from clip_wsss.core.errors import InputError
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.stages import MAP_STAGES
from clip_wsss.runs.table import Run
from clip_wsss.score.bootstrap import (
    Interval,
    interval,
    nan_mean,
    over_seeds,
    resampled_iou,
    tally,
    tally_iou,
    tally_rates,
)
from clip_wsss.score.metrics import power_key
from clip_wsss.score.zero_shot import PARTS, HeldOut


class ResultsFolder(Protocol):
    """A results folder, wherever it is kept."""

    def open(self, name: str) -> BinaryIO:
        """Open a file by its path relative to the results folder.

        Raises:
            InputError: there is no such file.
        """


class Folder:
    """A results folder on disk."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def __str__(self) -> str:
        return str(self.root)

    def open(self, name: str) -> BinaryIO:
        """Open a file below the folder. Raises InputError where it is missing."""
        try:
            return (self.root / name).open("rb")
        except FileNotFoundError:
            raise InputError(f"{self.root / name}: no such file; run snakemake first") from None


def map_scoring(graph: Graph, run: Run) -> tuple[str, float]:
    """How the maps of a run are scored: fixed or oracle, and the background power if fixed."""
    masks = graph.settings[run.name].masks
    if masks is None:
        return "fixed", graph.config.evaluation.background_power
    return masks.scoring, masks.background_power


def counts_file(file: str) -> str:
    """The counts beside a score.json."""
    return file.removesuffix("score.json") + "counts.parquet"


def read_counts(source: str | Path | BinaryIO, power: float | None = None) -> pd.DataFrame:
    """Read the counts of a measurement: id, truth, prediction, pixels.

    Args:
        source: the Parquet, or an open file.
        power: the background power wanted; None for counts of labels, which have none.

    Raises:
        InputError: the Parquet has no counts of that power.
    """
    table = pq.read_table(source).to_pandas()
    if power is None:
        return table
    chosen = table[np.isclose(table["power"], power)].drop(columns="power")
    if chosen.empty:
        known = ", ".join(map(power_key, sorted(table["power"].unique())))
        raise InputError(
            f"background_power: {power_key(power)} was not counted (there: {known}); "
            "add it to evaluation.powers"
        )
    return chosen.reset_index(drop=True)


@dataclass(frozen=True)
class Figure:
    """One figure of a table: the mIoU of a stage of a run, a mean where it has several seeds.

    Attributes:
        stage: initial, refined, mask, labels or segmentation.
        files: the score.json files, one a seed.
        power: background power of a map, else None.
        scoring: fixed, or oracle where the power was chosen by the ground truth.
        info: the first JSON.
        ids: the n images that have counted pixels, sorted.
        truth: (n, C) pixels of their ground truth.
        seed_iou: (S, C) IoU in [0, 1] of each seed, NaN without ground truth.
        seed_rates: (S, C, 3) precision, recall and confusion ratio, see `tally_rates`.
        class_samples: (R, C) resampled IoU.
        samples: (R,) resampled mIoU.
        seed_parts: (S, 3) mIoU of the seen classes, of the unseen ones and their harmonic mean;
            None where no class is held out.
        part_samples: (R, 3) of them, resampled.
    """

    stage: str
    files: tuple[str, ...]
    power: float | None
    scoring: str
    info: dict = field(repr=False)
    ids: tuple[str, ...] = field(repr=False)
    truth: np.ndarray = field(repr=False)
    seed_iou: np.ndarray = field(repr=False)
    seed_rates: np.ndarray = field(repr=False)
    class_samples: np.ndarray = field(repr=False)
    samples: np.ndarray = field(repr=False)
    reader: "Reader" = field(repr=False)
    seed_parts: np.ndarray | None = field(default=None, repr=False)
    part_samples: np.ndarray | None = field(default=None, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, background first."""
        return _names(self.info)

    @cached_property
    def seed_miou(self) -> np.ndarray:
        """(S,) mIoU of each seed."""
        return nan_mean(self.seed_iou)

    @property
    def value(self) -> float:
        """The mIoU in [0, 1], mean over the seeds."""
        return float(self.seed_miou.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds (divisor S - 1); NaN with one seed."""
        return float(self.seed_miou.std(ddof=1)) if len(self.seed_miou) > 1 else float("nan")

    @property
    def class_iou(self) -> np.ndarray:
        """(C,) IoU of the classes, mean over the seeds."""
        return self.seed_iou.mean(axis=0)

    @property
    def class_rates(self) -> np.ndarray:
        """(C, 3) precision, recall and confusion ratio of the classes, mean over the seeds."""
        return self.seed_rates.mean(axis=0)

    @property
    def rates(self) -> np.ndarray:
        """(3,) their means over the classes that have one, then over the seeds."""
        return nan_mean(self.seed_rates.swapaxes(1, 2)).mean(axis=0)

    @property
    def interval(self) -> Interval:
        """95 % interval of the mIoU."""
        return interval(self.samples)

    @property
    def parts(self) -> dict[str, tuple[float, Interval]]:
        """Seen, unseen and harmonic: mean over the seeds and 95 % interval; empty without them."""
        if self.seed_parts is None or self.part_samples is None:
            return {}
        return _intervals(self.seed_parts.mean(axis=0), self.part_samples)

    def same(self, other: "Figure") -> bool:
        """Whether this is the very same measurement: same files, same power."""
        return (self.reader, self.files, self.power) == (other.reader, other.files, other.power)


@dataclass(frozen=True)
class Difference:
    """The difference of two figures, the second subtracted from the first.

    Attributes:
        value: difference of the mIoUs.
        interval: its 95 % interval, paired.
        images: the images that both have, on which it was computed.
        other_truth: those of them of which the ground truth differs, so that it is of that, too.
        seeds: whether the interval covers the spread over seeds too: both have several.
        class_values: (C,) differences of the IoUs.
        class_intervals: one a class.
        parts: of seen, unseen and harmonic, as `Figure.parts`.
    """

    value: float
    interval: Interval
    images: int
    other_truth: int
    seeds: bool
    class_values: np.ndarray
    class_intervals: tuple[Interval, ...]
    parts: dict[str, tuple[float, Interval]] = field(default_factory=dict)

    @property
    def more_than_noise(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval.excludes_zero


class Reader:
    """Reads figures from one results folder, each once.

    Args:
        source: the results folder.
        resamples: number of resamples of every interval.
        seed: of the resampling.
        held_out: the classes that are unseen; None: figures have no such parts.
    """

    def __init__(
        self,
        source: ResultsFolder,
        resamples: int,
        seed: int,
        held_out: HeldOut | None = None,
    ):
        self.source, self.resamples, self.seed = source, resamples, seed
        self.held_out = held_out
        self._infos: dict[str, dict] = {}
        self._figures: dict[tuple, Figure] = {}

    def info(self, name: str) -> dict:
        """The content of a score.json. Raises InputError where it is missing or broken."""
        if name not in self._infos:
            with self.source.open(name) as file:
                try:
                    self._infos[name] = json.load(file)
                except ValueError:
                    raise InputError(f"{name}: is not JSON; delete it and run again") from None
        return self._infos[name]

    def figure(
        self,
        stage: str,
        files: Sequence[str],
        scoring: str = "fixed",
        background_power: float = 1,
        ids: tuple[str, ...] | None = None,
    ) -> Figure:
        """Read one figure.

        Args:
            stage: of the pipeline.
            files: score.json files relative to the results folder, one a seed; the counts lie
                beside them.
            scoring: fixed or oracle; labels have no power, so there it changes nothing.
            background_power: the power of a map where the scoring is fixed.
            ids: only these images; None for all that the counts hold.

        Raises:
            InputError: a missing file, or a power that was not counted.
        """
        info = self.info(files[0])
        power = None
        if stage not in MAP_STAGES:
            scoring = "fixed"
        else:
            power = info["oracle"]["power"] if scoring == "oracle" else float(background_power)
        key = (tuple(files), power, ids)
        if key not in self._figures:
            self._figures[key] = self._read(stage, tuple(files), power, scoring, ids)
        # The oracle may choose the very power that is fixed: the same numbers under another name.
        return replace(self._figures[key], scoring=scoring)

    def _read(self, stage, files, power, scoring, ids) -> Figure:
        infos = [self.info(name) for name in files]
        classes = len(_names(infos[0]))
        tables = []
        for name in files:
            with self.source.open(counts_file(name)) as file:
                tables.append(read_counts(file, power))
        if ids is None:
            ids = tuple(sorted(set(tables[0]["id"]).union(*(table["id"] for table in tables))))
        sums = [tally(table, list(ids), classes) for table in tables]
        whole, samples = self._ious(sums)
        return Figure(
            stage=stage,
            files=files,
            power=power,
            scoring=scoring,
            info=infos[0],
            ids=ids,
            truth=sums[0][..., 0] + sums[0][..., 2],
            seed_iou=whole,
            seed_rates=np.stack([tally_rates(one.sum(axis=0)) for one in sums]),
            class_samples=over_seeds(samples, self.seed),
            samples=over_seeds(nan_mean(samples), self.seed),
            reader=self,
            **self._parts(tables, list(ids), _names(infos[0]), whole, samples),
        )

    def _ious(self, sums: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """IoU of the tallies of S seeds: (S, C), and resampled (S, R, C)."""
        samples = [resampled_iou(one, self.resamples, self.seed) for one in sums]
        return np.stack([tally_iou(one.sum(axis=0)) for one in sums]), np.stack(samples)

    def _parts(
        self,
        tables: Sequence[pd.DataFrame],
        ids: list[str],
        names: Sequence[str],
        whole: np.ndarray,
        samples: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Seen, unseen and harmonic of some seeds, on the resamples of the figure.

        They are made of the figure's IoUs, but where the background does not count.
        """
        if (held_out := self.held_out) is None:
            return {}
        if held_out.background == "ignored":
            counted = [table[table["truth"] != 0] for table in tables]
            whole, samples = self._ious([tally(table, ids, len(names)) for table in counted])
        return {
            "seed_parts": held_out.of(whole, names),
            "part_samples": over_seeds(held_out.of(samples, names), self.seed),
        }


def _intervals(values: np.ndarray, samples: np.ndarray) -> dict[str, tuple[float, Interval]]:
    """Value and interval of each of PARTS, of (3,) and (R, 3)."""
    columns = zip(PARTS, values, samples.T, strict=True)
    return {part: (float(value), interval(column)) for part, value, column in columns}


def _names(info: dict) -> tuple[str, ...]:
    """Class names in a score.json; a map has an IoU of each class at every power."""
    iou = info["iou"]
    return tuple(next(iter(iou.values())) if info["stage"] in MAP_STAGES else iou)


def difference(first: Figure, second: Figure) -> Difference | None:
    """Subtract the second figure from the first, on the images that both have.

    None where they cannot be compared: other classes, another split, or no image in common.
    """
    comparable = ("dataset", "split")
    if first.names != second.names or any(first.info[k] != second.info[k] for k in comparable):
        return None
    if first.ids != second.ids:
        common = tuple(sorted(set(first.ids) & set(second.ids)))
        if not common:
            return None
        first, second = (
            one.reader.figure(one.stage, one.files, one.scoring, one.power or 1, common)
            for one in (first, second)
        )
    classes = first.class_samples - second.class_samples
    return Difference(
        value=first.value - second.value,
        interval=interval(first.samples - second.samples),
        images=len(first.ids),
        other_truth=int((first.truth != second.truth).any(axis=1).sum()),
        seeds=min(len(first.files), len(second.files)) > 1,
        class_values=first.class_iou - second.class_iou,
        class_intervals=tuple(interval(column) for column in classes.T),
        parts=_part_differences(first, second),
    )


def _part_differences(first: Figure, second: Figure) -> dict[str, tuple[float, Interval]]:
    if first.seed_parts is None or second.seed_parts is None:
        return {}
    assert first.part_samples is not None  # both are there, or neither
    assert second.part_samples is not None
    values = first.seed_parts.mean(axis=0) - second.seed_parts.mean(axis=0)
    return _intervals(values, first.part_samples - second.part_samples)
