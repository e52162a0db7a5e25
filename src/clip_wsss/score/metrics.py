"""Scoring of maps, pseudo masks and predictions against the ground truth.

A measurement is two files. The Parquet holds the counts of every image: id, truth, prediction,
pixels, and for maps the background power. The JSON holds what follows from the counts.
docs/results.md describes both. Nothing here needs torch.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from clip_wsss.core.archives import Archives
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import ImageMaps, read_maps, read_skipped, upsample_maps
from clip_wsss.core.progress import over_images
from clip_wsss.data.datasets import IGNORE, Dataset
from clip_wsss.score.calibration import Calibration
from clip_wsss.score.confusion import (
    Sparse,
    confusion_matrix,
    count_label,
    count_sweep,
    iou,
    mean_iou,
)


def evaluate_maps(
    dataset: Dataset,
    ids: Sequence[str],
    shards: Sequence[Path],
    powers: Sequence[float],
    out_json: Path,
    out_parquet: Path,
    meta: dict,
    sweep: Sequence[float] | None = None,
) -> dict:
    """Score maps at every background power; write the counts and what follows from them.

    Args:
        dataset: gives the ground truth and the classes.
        ids: the images to score; their order is that of the Parquet.
        shards: the maps that hold them (others in the shards are passed over).
        powers: the background powers that are counted.
        out_json: the measurement: powers (power -> mIoU), iou (power -> class -> IoU), oracle
            (power and mIoU of the best), zero_maps (how many maps of the scored images are zero
            all over), and what `meta` and the data set say.
        out_parquet: its counts: id, truth, prediction, power, pixels.
        meta: stage (initial or refined), split and precision, and if wanted seed.
        sweep: those of the powers that the oracle chooses among; None: all of them.

    Returns:
        What the JSON holds.

    Raises:
        InputError: an image is in no shard or its ground truth cannot be used (with
            `on_bad_image: skip` it is left out and listed), no image is left, or no power.
    """
    stage = meta["stage"]
    if not powers:
        raise InputError("evaluation.powers: must list a background power or more; got none")
    counted = tuple(sorted({float(power) for power in powers}))
    classes = len(dataset.vocabulary.classes) + 1
    wanted, found, reasons, zero_maps = set(ids), {}, {}, 0
    progress = tqdm(total=len(wanted), desc=f"score {stage}", unit="image", disable=None)
    skipped = _Skipped(dataset)
    for path in shards:
        reasons |= read_skipped(path)
        for image in read_maps(path):
            if image.id not in wanted:
                continue
            progress.update()
            with skipped.bad(image.id):
                grid = _maps(image, path)
                truth = _truth(dataset, image.id, image.size)
                full = upsample_maps(grid, image.size)
                keys = [int(key) for key in image.keys]
                counts = count_sweep(truth, full, keys, counted, classes)
                found[image.id] = _columns(counts, counted)
                zero_maps += int((grid == 0).all(axis=(1, 2)).sum())
    progress.close()
    for name in ids:
        if name not in found and name not in skipped:
            with skipped.bad(name):
                raise InputError(
                    reasons.get(name)
                    or f"{name}: is to be scored, but no CAM was made of it; the split `score` "
                    "must be a part of the split `pseudo`"
                )
    kept = [name for name in ids if name in found]
    counts = _counts([(name, found[name]) for name in kept])
    result = _result(dataset, meta, kept, skipped)
    scores = {power: _scores(dataset, counts[counts["power"] == power]) for power in counted}
    mious = {power: mean for power, (mean, _) in scores.items()}
    tried = powers if sweep is None else sweep
    best = max(map(float, tried), key=lambda power: -1 if mious[power] is None else mious[power])
    result["powers"] = {power_key(power): mean for power, mean in mious.items()}
    result["iou"] = {power_key(power): values for power, (_, values) in scores.items()}
    result["oracle"] = {"power": best, "miou": mious[best]}
    result["zero_maps"] = zero_maps
    _write_parquet(out_parquet, counts)
    _write_json(out_json, result)
    return result


def evaluate_labels(
    dataset: Dataset,
    split: str,
    archives: Sequence[Path],
    stage: str,
    out_json: Path,
    out_parquet: Path,
    meta: dict,
    out_confidence: Path | None = None,
) -> dict:
    """Score labels: pseudo masks or a segmentor's predictions.

    Args:
        dataset: gives the ground truth and the classes.
        split: the images to score.
        archives: hold their labels, 0..C or 255, unlabelled: a miss of the true class and a false
            alarm of none. Other images in them are passed over.
        stage: `mask` or `segmentation`.
        out_json: the measurement: miou, iou (class -> IoU), unlabelled (share of the counted
            pixels that are predicted 255), and what `meta` and the data set say.
        out_parquet: its counts: id, truth, prediction, pixels.
        meta: precision, and if wanted seed.
        out_confidence: Parquet of the calibration of the archives' confidences, see
            `Calibration`; unlabelled pixels are not in it.

    Returns:
        What the JSON holds.

    Raises:
        InputError: an image has no labels, or its ground truth cannot be used (with
            `on_bad_image: skip` the image is left out and listed); an archive cannot be used; no
            image is left.
    """
    ids, labels = dataset.ids(split), Archives(archives)
    classes = len(dataset.vocabulary.classes) + 1
    calibration = Calibration()
    rows: list[tuple[str, dict[str, np.ndarray]]] = []
    skipped = _Skipped(dataset)
    for name in over_images(ids, len(ids), f"score {stage}"):
        with skipped.bad(name):
            if name not in labels:
                raise InputError(
                    labels.skipped.get(name)
                    or f"{name}: is to be scored, but {', '.join(map(str, archives))} hold no "
                    "label of it; make them again"
                )
        if name in skipped:
            continue
        # A damaged archive stops the job even where a bad image may be left out.
        label = labels[name].label(name)
        if (strange := label[(label >= classes) & (label != IGNORE)]).size:
            raise InputError(
                f"{labels[name].path}: {name} holds the value {strange[0]}, but there are "
                f"{classes - 1} classes; labels go from 0 to {classes - 1}, or are {IGNORE}"
            )
        codes = None if out_confidence is None else labels[name].codes(name)
        with skipped.bad(name):
            truth = _truth(dataset, name, label.shape)
            rows.append((name, _columns([count_label(truth, label, classes)])))
            if codes is not None:
                calibration.add(codes, label == truth, (truth != IGNORE) & (label != IGNORE))
    counts = _counts(rows)
    kept = [name for name, _ in rows]
    result = _result(dataset, {**meta, "stage": stage, "split": split}, kept, skipped)
    result["miou"], result["iou"] = _scores(dataset, counts)
    unlabelled = counts["pixels"][counts["prediction"] == IGNORE].sum()
    result["unlabelled"] = float(unlabelled / max(counts["pixels"].sum(), 1))
    if out_confidence is not None:
        _write_parquet(out_confidence, calibration.table())
    _write_parquet(out_parquet, counts)
    _write_json(out_json, result)
    return result


def power_key(power: float) -> str:
    """Return the key of a power in a metrics JSON: `1`, `2.5`."""
    return f"{power:g}"


class _Skipped:
    """Images that were left out; whether a bad one may be is the data set's setting."""

    def __init__(self, dataset: Dataset):
        self._allowed = dataset.settings.get("on_bad_image", "fail") == "skip"
        self.reasons: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.reasons

    @contextmanager
    def bad(self, name: str) -> Iterator[None]:
        """Run a block whose InputError leaves the image out, where that is allowed."""
        try:
            yield
        except InputError as error:
            if not self._allowed:
                raise
            self.reasons[name] = str(error)


def _maps(image: ImageMaps, path: Path) -> np.ndarray:
    maps = np.ascontiguousarray(image.maps, dtype=np.float32)
    if not (np.isfinite(maps).all() and maps.min(initial=0) >= 0):
        raise InputError(f"{path}: {image.id} has a map with values below 0 or NaN; make it again")
    return maps + np.float32(0)  # -0 becomes 0: the sweep compares bits


def _truth(dataset: Dataset, name: str, size: tuple[int, int]) -> np.ndarray:
    truth = dataset.mask(name)
    if truth is None:
        raise InputError("dataset.masks: null, so nothing can be scored; set splits.score to null")
    if truth.shape != tuple(size):
        raise InputError(
            f"{name}: the ground truth is {truth.shape[1]} x {truth.shape[0]}, what is scored is "
            f"{size[1]} x {size[0]} (width x height); make it again from the present image"
        )
    return truth


def _columns(
    counts: Sequence[Sparse], powers: Sequence[float] | None = None
) -> dict[str, np.ndarray]:
    """The counts of an image as columns of the Parquet, one background power after the other."""
    truth, prediction, pixels = (np.concatenate(part) for part in zip(*counts, strict=True))
    columns = {"truth": truth.astype(np.uint8), "prediction": prediction.astype(np.uint8)}
    if powers is not None:
        columns["power"] = np.repeat(np.float64(powers), [len(one[2]) for one in counts])
    return columns | {"pixels": pixels.astype(np.int32)}


def _counts(images: Sequence[tuple[str, dict[str, np.ndarray]]]) -> pd.DataFrame:
    """Put the counts of images below one another."""
    if not images:
        return pd.DataFrame({"id": [], "truth": [], "prediction": [], "power": [], "pixels": []})
    lengths = [len(columns["pixels"]) for _, columns in images]
    names = np.array([name for name, _ in images], dtype=object)
    together = {key: np.concatenate([c[key] for _, c in images]) for key in images[0][1]}
    return pd.DataFrame({"id": np.repeat(names, lengths), **together})


def _result(dataset: Dataset, meta: dict, ids: Sequence[str], skipped: _Skipped) -> dict:
    """What the JSON of every measurement begins with."""
    if not ids:
        reason = next(iter(skipped.reasons.values()), "the split is empty")
        raise InputError(f"stage {meta['stage']}: no image is left to score; the first: {reason}")
    return {
        "stage": meta["stage"],
        "dataset": dataset.name,
        "split": meta["split"],
        "images": len(ids),
        "seed": meta.get("seed"),
        "precision": meta["precision"],
        "skipped": sorted(skipped.reasons),
    }


def _scores(dataset: Dataset, counts: pd.DataFrame) -> tuple[float | None, dict[str, float | None]]:
    """mIoU, and IoU of every class, background first; None without ground truth."""
    names = ("background", *dataset.vocabulary.classes)
    values = iou(confusion_matrix(counts, len(names)))
    named = {name: _number(value) for name, value in zip(names, values, strict=True)}
    return _number(mean_iou(values)), named


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    part = _part(path)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), part, compression="zstd")
    part.replace(path)


def _write_json(path: Path, content: dict) -> None:
    part = _part(path)
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def _part(path: Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.part")
