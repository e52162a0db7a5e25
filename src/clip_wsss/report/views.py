"""What the report shows of single runs: charts of a measurement, pictures, ranked templates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup

from clip_wsss.core.confidence import MU
from clip_wsss.core.csvs import read_csv
from clip_wsss.core.errors import InputError
from clip_wsss.data.choice import choose
from clip_wsss.data.datasets import Dataset
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.report import charts as figures
from clip_wsss.report.panels import Panels, stage_files
from clip_wsss.report.tables import colour
from clip_wsss.runs.graph import RANKING, Node
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.stages import LABEL_STAGES, MAP_STAGES, SCORED, TRAINED
from clip_wsss.runs.table import Run
from clip_wsss.score.breakdown import by_classes, by_size, coarse, extremes, image_iou, region_iou
from clip_wsss.score.calibration import MUS, mu_curve
from clip_wsss.score.confusion import confusion_matrix
from clip_wsss.score.measurements import counts_file, map_scoring, read_counts
from clip_wsss.score.metrics import power_key
from clip_wsss.tables.layout import TITLES

PICTURES = 2_600_000  # bytes of pictures in the page, at most: a page that can be mailed
SIDE = 320  # longest side of a picture, made smaller where the pictures would be too many
SMALLEST = 64
EXTREMES = 3  # best and worst images of a run
RELIABILITY = np.linspace(0, 1, 21)  # bins of the calibration chart
SCATTERED = 3  # templates that must have been measured before they are drawn against mIoU
# What is shown of the best and worst images, by what they were scored on.
OF_LABELS = ("image", "truth", "initial", "refined", "mask", "confidence")
OF_TRAINING = {
    "labels": ("Final labels", ("image", "truth", "labels")),
    "segmentation": ("Segmentation", ("image", "truth", "prediction")),
}


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
    def scored(self) -> bool:
        """Whether anything was measured."""
        return any(self.files.values())

    @property
    def panel_split(self) -> str:
        """The split whose images are shown."""
        splits = self.config.dataset.splits
        return splits.score or splits.pseudo

    def fully_supervised(self, run: Run) -> bool:
        """Whether a run learns from the ground truth."""
        masks = self.graph.settings[run.name].masks
        return masks is not None and masks.source == "ground-truth"

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


def details(results: Results) -> list[dict]:
    """Charts of every measurement, with the numbers of the runs that share it."""
    parts: dict[Scored, dict] = {}
    for number, run in enumerate(results.runs):
        for found in results.measurements(run):
            if found not in parts:
                parts[found] = _charts(results, found) | {"runs": []}
            parts[found]["runs"].append(number)
    return [parts[found] for found in sorted(parts, key=lambda one: SCORED.index(one.stage))]


def _charts(results: Results, found: Scored) -> dict:
    info, counts = results.info(found.file), results.counts(found)
    regions = region_iou(counts)
    title = f"{TITLES[found.stage].capitalize()}, {info['split']}, {info['images']} images"
    if info["seed"] is not None:
        title += f", seed {info['seed']}"
    matrix = confusion_matrix(counts, len(results.names))
    sizes, numbers = by_size(regions), by_classes(image_iou(regions))
    charts = [
        _chart(
            "Confusion",
            "What the pixels of a class (rows) are labelled (columns), in per cent of the row.",
            figures.confusion_chart(f"Confusion matrix: {title}", matrix, results.names),
            wide=True,
        ),
        _chart(
            "Object size",
            "IoU within an image by the share of it that the class covers; mean and its 95 % "
            "interval.",
            figures.means_chart(
                f"IoU by object size: {title}",
                sizes,
                ("share of the image, %", "IoU, %"),
                found.stage,
            ),
        ),
        _chart(
            "Number of classes",
            "Mean IoU of an image by the number of classes in it.",
            figures.means_chart(
                f"IoU by number of classes: {title}",
                numbers,
                ("classes in the image", "IoU, %"),
                found.stage,
            ),
        ),
    ]
    path = (results.root / found.file).with_name("confidence.parquet")
    if found.stage == "mask" and path.is_file():
        charts += _confidence_charts(pq.read_table(path).to_pandas(), title)
    return {"title": title, "charts": charts}


def _confidence_charts(calibration: pd.DataFrame, title: str) -> list[dict]:
    return [
        _chart(
            "Is the confidence right?",
            "Right pixels among those of a confidence; on the dashed line a pixel at 95 % is right "
            "95 % of the time. Grey: where the pixels are.",
            figures.calibration_chart(f"Calibration: {title}", coarse(calibration, RELIABILITY)),
        ),
        _chart(
            "What a threshold keeps",
            "Each dot is a μ of the confidence-guided loss, the paper’s marked: the share of the "
            "pixels that count, and how many of these are right.",
            figures.mu_chart(
                f"Kept pixels against precision: {title}", mu_curve(calibration, MUS), MU
            ),
        ),
    ]


def _chart(title: str, caption: str, svg: str, wide: bool = False) -> dict:
    return {"title": title, "caption": caption, "svg": Markup(svg), "wide": wide}


def pictures(results: Results) -> dict[str, dict]:
    """Panels of all runs and their best and worst images, in pictures that fit the page.

    Returns:
        panels: run -> images, each with id, classes, score, and cells: stage -> key of a picture,
            or `!` and why there is none.
        extremes: run -> groups of best and worst images.
        pictures: key -> data URI.
    """
    split = results.panel_split
    names = choose(results.dataset, split, results.config.evaluation.panels)
    scores = {run.name: [_scores(results, one) for one in results.measurements(run)]
              for run in results.runs}  # fmt: skip
    side, panels = SIDE, Panels(results.dataset)
    while True:
        panels.restart(side)
        made: dict[str, dict] = {
            "panels": {
                run.name: [_item(results, panels, run, name) for name in names]
                for run in results.runs
            },
            "extremes": {
                run.name: [_extremes(results, panels, run, one) for one in scores[run.name]]
                for run in results.runs
            },
            "pictures": panels.album.pictures,
        }
        if panels.album.size <= PICTURES or side == SMALLEST:
            return made
        # Bytes grow a little slower than pixels do.
        shrink = 0.9 * (PICTURES / panels.album.size) ** 0.5
        side = max(SMALLEST, int(min(side, panels.longest) * shrink))


def _item(results: Results, panels: Panels, run: Run, name: str, score: str = "") -> dict:
    classes = [
        {"name": results.names[label + 1], "colour": colour(label + 1)}
        for label in _labels(results.dataset, name)
    ]
    cells = panels.panel(results.panel_files[run.name], name)
    return {"id": name, "classes": classes, "cells": cells, "score": score}


def _labels(dataset: Dataset, name: str) -> list[int]:
    """Classes of an image; from its ground truth where it needs no labels and has none."""
    try:
        return dataset.labels(name)
    except InputError:
        mask = dataset.mask(name)
        return [] if mask is None else [int(v) - 1 for v in np.unique(mask) if 0 < v < IGNORE]


def _scores(results: Results, found: Scored) -> tuple[Scored, pd.DataFrame]:
    return found, image_iou(region_iou(results.counts(found)))


def _extremes(
    results: Results, panels: Panels, run: Run, scored: tuple[Scored, pd.DataFrame]
) -> dict:
    found, images = scored
    title, stages = OF_TRAINING.get(found.stage, ("Pseudo labels", OF_LABELS))
    scores = dict(zip(images["id"], images["iou"], strict=True))
    best, worst = (
        [_item(results, panels, run, name, f"IoU {scores[name]:.1%}") for name in names]
        for names in extremes(images, EXTREMES)
    )
    return {
        "title": f"{title}, {results.info(found.file)['split']}",
        "stages": stages,
        "best": best,
        "worst": worst,
    }


def rankings(results: Results) -> list[dict]:
    """Templates by sharpness, of every ranking that a run chose by."""
    found: dict[Node, Run] = {}
    for run in results.runs:
        texts = results.graph.paths[run.name].get("texts")
        if texts is not None and texts.identity["template"] == "sharpest":
            found.setdefault(texts, run)
    made = []
    for texts, run in found.items():
        ranking = _ranking(results, texts)
        low, high = ranking["sharpness"].min(), ranking["sharpness"].max()
        rows = [
            {
                "template": row.template,
                "text": f"{row.sharpness:.4f}",
                "left": round(100 * (row.sharpness - low) / (high - low), 1) if high > low else 0,
                "chosen": row.rank == 1,
            }
            for row in ranking.itertuples()
        ]
        scatter = _scatter(results, ranking, texts)
        made.append({"title": f"Texts {run.texts}", "rows": rows, "scatter": scatter})
    return made


def _ranking(results: Results, texts: Node) -> pd.DataFrame:
    """Columns rank, template, sharpness of ranked texts."""
    return read_csv(results.path(f"{texts.folder}/{RANKING}"))


def _scatter(results: Results, ranking: pd.DataFrame, ranked: Node) -> Markup | None:
    """Sharpness against mIoU, where enough of the ranked templates were measured.

    Only runs that agree with the ranking in all but the template, and with one another in the
    CAM, are comparable.
    """
    sharpness = dict(zip(ranking["template"], ranking["sharpness"], strict=True))
    points: dict[str, dict[str, tuple[float, float, str]]] = {}
    for run in results.runs:
        path = results.graph.paths[run.name]
        if "initial" not in results.files[run.name]:
            continue
        chosen = path["texts"].identity["template"]
        if chosen == "sharpest":
            rows = _ranking(results, path["texts"])
            chosen = rows.loc[rows["rank"] == 1, "template"].tolist()
        same = _wording(path["texts"]) == _wording(ranked)
        if same and len(chosen) == 1 and chosen[0] in sharpness:
            # All at one power, so that an oracle is not compared with a fixed one.
            power = power_key(results.config.evaluation.background_power)
            miou = results.info(results.files[run.name]["initial"][0])["powers"][power]
            point = (sharpness[chosen[0]], miou, f"{chosen[0]} {miou:.1%}")
            cam = json.dumps(path["cam"].identity, sort_keys=True)
            points.setdefault(cam, {})[chosen[0]] = point
    most = max(points.values(), key=len, default={})
    if len(most) < SCATTERED:
        return None
    labels = ("sharpness (lower is better)", "mIoU of the initial CAM, %")
    return Markup(figures.scatter_chart("Sharpness against mIoU", list(most.values()), labels))


def _wording(texts: Node) -> tuple:
    """What texts are made of but for their template."""
    model = texts.parent("model")
    assert model is not None  # texts are made by one
    return texts.identity["names"], texts.identity["background"], model.key
