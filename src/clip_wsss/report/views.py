"""What the report shows of single runs in charts: each measurement closer, and ranked templates."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup

from clip_wsss.core.confidence import MU
from clip_wsss.core.csvs import csv_text, read_csv
from clip_wsss.report import charts as figures
from clip_wsss.report.results import Results, Scored
from clip_wsss.runs.graph import RANKING
from clip_wsss.runs.nodes import Node
from clip_wsss.runs.stages import SCORED
from clip_wsss.score.breakdown import by_classes, by_size, coarse, image_iou, region_iou
from clip_wsss.score.calibration import MUS, mu_curve
from clip_wsss.score.confusion import confusion_matrix
from clip_wsss.score.metrics import power_key
from clip_wsss.tables.layout import TITLES

RELIABILITY = np.linspace(0, 1, 21)  # bins of the calibration chart
SCATTERED = 3  # templates that must have been measured before they are drawn against mIoU


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
            _confusion_table(matrix, results.names),
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
            sizes,
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
            numbers,
        ),
    ]
    path = (results.root / found.file).with_name("confidence.parquet")
    if found.stage == "mask" and path.is_file():
        charts += _confidence_charts(pq.read_table(path).to_pandas(), title)
    return {"title": title, "charts": charts}


def _confusion_table(matrix: np.ndarray, names: tuple[str, ...]) -> pd.DataFrame:
    """Pixels by ground truth (lines) and label (columns)."""
    return pd.DataFrame(matrix, list(names), [*names, "unlabelled"]).reset_index(names="truth")


def _confidence_charts(calibration: pd.DataFrame, title: str) -> list[dict]:
    bins, curve = coarse(calibration, RELIABILITY), mu_curve(calibration, MUS)
    return [
        _chart(
            "Is the confidence right?",
            "Right pixels among those of a confidence; on the dashed line a pixel at 95 % is right "
            "95 % of the time. Below, on a scale of its own, where the pixels are.",
            figures.calibration_chart(f"Calibration: {title}", bins),
            bins,
        ),
        _chart(
            "What a threshold keeps",
            "Each dot is a μ of the confidence-guided loss, the paper’s marked: the share of the "
            "pixels that count, and how many of these are right.",
            figures.mu_chart(f"Kept pixels against precision: {title}", curve, MU),
            curve,
        ),
    ]


def _chart(title: str, caption: str, svg: str, frame: pd.DataFrame, wide: bool = False) -> dict:
    """A drawing with the numbers that are drawn, as CSV."""
    csv = csv_text(frame)
    return {"title": title, "caption": caption, "svg": Markup(svg), "csv": csv, "wide": wide}


def rankings(results: Results) -> list[dict]:
    """Templates by sharpness, of every ranking that a run chose by."""
    found: dict[Node, str] = {}
    for run in results.runs:
        texts = results.graph.paths[run.name].get("texts")
        if texts is not None and texts.identity["template"] == "sharpest":
            found.setdefault(texts, str(run.texts))
    alike: dict[str, list[Node]] = {}  # texts that share what ranks them share the ranking
    for texts in found:
        alike.setdefault(_ranking(results, texts).to_csv(index=False), []).append(texts)
    made = []
    for csv, nodes in alike.items():
        ranking = _ranking(results, nodes[0])
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
        scatters = [_scatter(results, ranking, texts) for texts in nodes]
        made.append(
            {
                "title": f"Texts {', '.join(found[texts] for texts in nodes)}",
                "rows": rows,
                "scatters": [one for one in scatters if one is not None],
                "csv": csv,
            }
        )
    return made


def _ranking(results: Results, texts: Node) -> pd.DataFrame:
    """Columns rank, template, sharpness of ranked texts."""
    return read_csv(results.path(f"{texts.folder}/{RANKING}"))


def _scatter(results: Results, ranking: pd.DataFrame, ranked: Node) -> dict | None:
    """Sharpness against mIoU, where enough of the ranked templates were measured.

    Only runs that agree with the ranking in all but the template, and with one another in the
    CAM, are comparable.
    """
    sharpness = dict(zip(ranking["template"], ranking["sharpness"], strict=True))
    points: dict[str, dict[str, tuple[float, float]]] = {}
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
            point = (sharpness[chosen[0]], miou)
            cam = json.dumps(path["cam"].identity, sort_keys=True)
            points.setdefault(cam, {})[chosen[0]] = point
    most = max(points.values(), key=len, default={})
    if len(most) < SCATTERED:
        return None
    labels = ("sharpness (lower is better)", "mIoU of the initial CAM, %")
    drawn = [(x, y, f"{template} {y:.1%}") for template, (x, y) in most.items()]
    return _chart(
        "Sharpness against mIoU",
        "of the initial CAM, for the templates that a run used",
        figures.scatter_chart("Sharpness against mIoU", drawn, labels),
        pd.DataFrame([(t, x, y) for t, (x, y) in most.items()],
                     columns=["template", "sharpness", "miou"]),
    )  # fmt: skip


def _wording(texts: Node) -> tuple:
    """What texts are made of but for their template."""
    model = texts.parent("model")
    assert model is not None  # texts are made by one
    return texts.identity["names"], texts.identity["background"], model.key
