"""What the parts of the report read: a results folder, its runs and its measurements."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from clip_wsss.core.errors import InputError
from clip_wsss.data.datasets import Dataset
from clip_wsss.report.panels import stage_files
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.stages import LABEL_STAGES, MAP_STAGES, TRAINED
from clip_wsss.runs.table import Run
from clip_wsss.score.measurements import Figure, counts_file, map_scoring, read_counts
from clip_wsss.tables.write import Row, read_rows


@dataclass(frozen=True)
class Scored:
    """Labels of images, as they were scored.

    Attributes:
        stage: that they come from.
        file: the score.json, relative to the results folder; the counts lie beside it.
        power: of the background, for maps.
    """

    stage: str
    file: str
    power: float | None = None


class Results:
    """The results of a plan, and the data set that they are of."""

    def __init__(self, plan: Plan, dataset: Dataset):
        self.plan, self.graph, self.config = plan, plan.graph, plan.config
        self.runs, self.root, self.dataset = plan.graph.runs, plan.root, dataset
        self.names = ("background", *dataset.vocabulary.classes)
        self.files = {run.name: plan.graph.scores(run) for run in self.runs}
        self.panel_files = {run.name: stage_files(plan, run) for run in self.runs}

    @cached_property
    def rows(self) -> dict[str, Row]:
        """The rows of all runs by name, which read figures and differences."""
        return read_rows(self.plan)

    def seen(self, figure: Figure) -> list[int]:
        """In how many images of a figure's split the ground truth has each class."""
        counts = self.counts(Scored(figure.stage, figure.files[0], figure.power))
        images = counts.groupby("truth")["id"].nunique()
        return [int(images.get(number, 0)) for number in range(len(self.names))]

    @cached_property
    def scored(self) -> bool:
        """Whether anything was measured."""
        return any(self.files.values())

    @property
    def panel_split(self) -> str:
        """The split whose images are shown."""
        splits = self.config.dataset.splits
        return splits.score or splits.pseudo

    def fully_supervised(self, run: Run) -> bool:
        """Whether a run learns from the ground truth of all classes."""
        own = self.graph.settings[run.name]
        if own.masks is None or own.masks.source != "ground-truth":
            return False
        return own.segmentation is None or not own.segmentation.seen_only

    def path(self, file: str) -> Path:
        """A file of a measurement. Raises InputError where it is missing."""
        path = self.root / file
        if not path.is_file():
            raise InputError(f"{path}: missing; run snakemake to make it")
        return path

    def info(self, file: str) -> dict:
        """Content of a score.json."""
        return json.loads(self.path(file).read_text(encoding="utf-8"))

    def counts(self, found: Scored) -> pd.DataFrame:
        """Counts of a measurement: id, truth, prediction, pixels."""
        return read_counts(self.path(counts_file(found.file)), found.power)

    def power(self, run: Run, stage: str) -> float | None:
        """The background power that a stage of a run is scored at; None for labels."""
        if stage not in MAP_STAGES:
            return None
        scoring, power = map_scoring(self.graph, run)
        if scoring == "oracle":
            return self.info(self.files[run.name][stage][0])["oracle"]["power"]
        return power

    def measurements(self, run: Run) -> list[Scored]:
        """What the run ends in: its pseudo labels, and what the first seed's training gives."""
        files, found = self.files[run.name], []
        labels = [stage for stage in LABEL_STAGES if stage in files]
        if labels:
            stage = labels[-1]
            found.append(Scored(stage, files[stage][0], self.power(run, stage)))
        found += [Scored(stage, files[stage][0]) for stage in TRAINED if stage in files]
        return found
