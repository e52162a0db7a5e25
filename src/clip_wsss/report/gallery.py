"""The pictures of the page: panels of all runs, and the best and worst images of each."""

from __future__ import annotations

import pandas as pd

from clip_wsss.core.errors import InputError
from clip_wsss.data.choice import choose
from clip_wsss.data.datasets import Dataset, classes_in
from clip_wsss.report.panels import Panels
from clip_wsss.report.results import Results, Scored
from clip_wsss.runs.table import Run
from clip_wsss.score.breakdown import extremes, image_iou, region_iou

PICTURES = 2_600_000  # bytes of pictures in the page, at most: a page that can be mailed
SIDE = 320  # longest side of a picture, made smaller where the pictures would be too many
SMALLEST = 64
EXTREMES = 3  # best and worst images of a run
# What is shown of the best and worst images, by what they were scored on.
OF_LABELS = ("image", "truth", "initial", "refined", "mask", "dropped")
OF_TRAINING = {
    "labels": ("Final labels", ("image", "truth", "labels")),
    "segmentation": ("Segmentation", ("image", "truth", "prediction")),
}


def pictures(results: Results) -> dict[str, dict]:
    """Panels of all runs and their best and worst images, in pictures that fit the page.

    Returns:
        panels: run -> images, each with id, classes, score, cells: stage -> key of a picture,
            or `!` and why there is none, maps: stage -> label -> key, and measures
            (`Panels.measures`).
        extremes: run -> groups of best and worst images.
        pictures: key -> data URI.
    """
    names = choose(results.dataset, results.panel_split, results.config.evaluation.panels)
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
    files = results.panel_files[run.name]
    return {
        "id": name,
        "classes": [label + 1 for label in _labels(results.dataset, name)],
        "cells": panels.panel(files, name),
        "maps": panels.class_maps(files, name),
        "measures": panels.measures(files, name),
        "score": score,
    }


def _labels(dataset: Dataset, name: str) -> list[int]:
    """Classes of an image; from its ground truth where it needs no labels and has none."""
    try:
        return dataset.labels(name)
    except InputError:
        mask = dataset.mask(name)
        return [] if mask is None else classes_in(mask)


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
