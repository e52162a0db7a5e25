"""What the counts of a measurement say beyond its mIoU: single images, object sizes, classes.

Everything comes from the Parquet of counts (columns id, truth, prediction, pixels; ground truth
255 left out). Labels are 0 for the background and 1..C for the classes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from clip_wsss.score.confusion import over_union

SIZES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)  # shares of the image that bound the object sizes
MOST_CLASSES = 4  # images with as many classes or more are one group


def region_iou(counts: pd.DataFrame) -> pd.DataFrame:
    """IoU of every class that an image's ground truth has, within that image.

    Returns:
        Columns id, label (0..C), iou in [0, 1], share (of the image's pixels) in (0, 1].
    """
    truth = counts.groupby(["id", "truth"])["pixels"].sum()
    predicted = counts.groupby(["id", "prediction"])["pixels"].sum()
    hits = counts[counts["truth"] == counts["prediction"]].groupby(["id", "truth"])["pixels"].sum()
    hits = hits.reindex(truth.index, fill_value=0)
    predicted = predicted.reindex(truth.index, fill_value=0)
    iou = over_union(hits.to_numpy(), truth.to_numpy(), predicted.to_numpy())
    share = truth / truth.groupby(level="id").transform("sum")
    table = truth.index.to_frame(index=False)
    table.columns = ["id", "label"]
    return table.assign(iou=iou, share=share.to_numpy())


def image_iou(regions: pd.DataFrame) -> pd.DataFrame:
    """Mean IoU of every image over the classes in its ground truth, the background among them.

    Args:
        regions: what `region_iou` returns.

    Returns:
        Columns id, iou, classes (foreground classes in the ground truth), in the order of ids.
    """
    table = regions.groupby("id").agg(iou=("iou", "mean")).reset_index()
    foreground = regions[regions["label"] > 0].groupby("id")["label"].nunique()
    return table.assign(classes=foreground.reindex(table["id"], fill_value=0).to_numpy())


def extremes(images: pd.DataFrame, count: int) -> tuple[list[str], list[str]]:
    """Ids of the best and of the worst images, each `count` at most, none in both."""
    order = images.sort_values(["iou", "id"], ascending=[False, True])["id"].tolist()
    count = min(count, len(order) // 2)
    return order[:count], order[len(order) - count :][::-1]


def by_size(regions: pd.DataFrame) -> pd.DataFrame:
    """IoU of the foreground regions by their share of the image.

    Returns:
        Columns label, mean, error (1.96 standard errors), n; sizes that do not occur left out.
    """
    objects = regions[regions["label"] > 0]
    bins = pd.cut(objects["share"], SIZES)
    names = {cut: f"{100 * cut.left:g}–{100 * cut.right:g}" for cut in bins.cat.categories}
    return _means(objects["iou"], bins, names)


def by_classes(images: pd.DataFrame) -> pd.DataFrame:
    """IoU of the images by the number of classes in them; columns as in `by_size`."""
    kinds = images["classes"].clip(upper=MOST_CLASSES)
    names = {n: str(n) for n in range(MOST_CLASSES)} | {MOST_CLASSES: f"{MOST_CLASSES}+"}
    return _means(images["iou"], kinds, names)


def _means(values: pd.Series, kinds: pd.Series, names: dict) -> pd.DataFrame:
    groups = values.groupby(kinds, observed=True)
    table = groups.agg(mean="mean", deviation="std", n="count").reset_index(names="kind")
    error = 1.96 * table["deviation"].fillna(0) / np.sqrt(table["n"])
    labels = [names[kind] for kind in table["kind"]]
    return pd.DataFrame({"label": labels, "mean": table["mean"], "error": error, "n": table["n"]})


def coarse(calibration: pd.DataFrame, edges: np.ndarray) -> pd.DataFrame:
    """Merge the fine bins of a calibration: what `Calibration.table` gives, in fewer rows.

    Args:
        calibration: columns lower, confidence, pixels, correct.
        edges: of the new bins, ascending, each an edge of the old ones; the last bin is closed.

    Returns:
        Columns low, high, confidence (mean in the bin), pixels, correct; empty bins left out.
    """
    bins = np.digitize(calibration["lower"] + 1e-9, edges[1:-1])
    weighted = calibration["confidence"].fillna(0) * calibration["pixels"]
    table = calibration[["pixels", "correct"]].assign(weighted=weighted).groupby(bins).sum()
    table = table[table["pixels"] > 0]
    return pd.DataFrame(
        {
            "low": edges[:-1][table.index],
            "high": edges[1:][table.index],
            "confidence": table["weighted"] / table["pixels"],
            "pixels": table["pixels"],
            "correct": table["correct"],
        }
    ).reset_index(drop=True)
