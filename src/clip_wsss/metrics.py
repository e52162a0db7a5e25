"""Scoring of CAMs, pseudo masks and predictions against the ground truth.

A measurement is two files. The Parquet holds the counts of every image: id, truth, prediction,
pixels, and for CAMs the background power. The JSON holds what follows from the counts.
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

from clip_wsss.calibration import Calibration
from clip_wsss.confusion import (
    Sparse,
    confusion_matrix,
    count_label,
    count_sweep,
    iou,
    mean_iou,
    miou,
)
from clip_wsss.datasets import IGNORE, Dataset
from clip_wsss.errors import InputError
from clip_wsss.imageio import read_confidence, read_label

MAP_STAGES = ("initial", "refined")  # maps, scored at a background power
STAGES = (*MAP_STAGES, "mask", "segmentation")  # in the order of the pipeline


def evaluate_cams(
    dataset: Dataset,
    ids: Sequence[str],
    cams: Sequence[Path],
    stage: str,
    powers: Sequence[float],
    fixed_power: float,
    out_json: Path,
    out_parquet: Path,
    meta: dict,
) -> dict:
    """Score maps at every background power; write the counts and what follows from them.

    Args:
        dataset: gives the ground truth and the classes.
        ids: the images to score; their order is that of the Parquet.
        cams: the CAM shards that hold them (others in the shards are passed over).
        stage: `initial` or `refined`.
        powers: background powers of the oracle sweep.
        fixed_power: the power of the reported figure.
        out_json: the measurement.
        out_parquet: its counts: id, truth, prediction, power, pixels.
        meta: split and precision, and if wanted seed and headline (`fixed` or `oracle`).

    Returns:
        What the JSON holds.

    Raises:
        InputError: an image is in no shard or its ground truth cannot be used (with
            `on_bad_image: skip` it is left out and listed), or no image is left.
    """
    from clip_wsss.cam import read_cams, read_skipped
    from clip_wsss.masks import upsample_maps

    if stage not in MAP_STAGES:
        raise InputError(f"stage: `{stage}` is neither initial nor refined")
    counted = tuple(sorted({*map(float, powers), float(fixed_power)}))
    classes = len(dataset.vocabulary.classes) + 1
    wanted, found, reasons = set(ids), {}, {}
    progress = tqdm(total=len(wanted), desc=f"score {stage}", unit="image", disable=None)
    skipped = _Skipped(dataset)
    for path in cams:
        reasons |= read_skipped(path)
        for image in read_cams(path):
            if image.id not in wanted:
                continue
            progress.update()
            with skipped.bad(image.id):
                grid = _maps(image, stage, path)
                truth = _truth(dataset, image.id, image.size)
                full = upsample_maps(grid, image.size)
                keys = [int(key) for key in image.keys]
                sweep = count_sweep(truth, full, keys, counted, classes)
                found[image.id] = _columns(sweep, counted)
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
    tables = {power: counts[counts["power"] == power] for power in counted}
    mious = {power: miou(table, classes) for power, table in tables.items()}
    best = max(map(float, powers), key=lambda power: mious[power], default=None)
    result = _result(dataset, stage, meta, kept, skipped, tables[float(fixed_power)])
    result["power"] = float(fixed_power)
    result["oracle"] = None if best is None else {"power": best, "miou": _number(mious[best])}
    result["powers"] = {power_key(power): _number(value) for power, value in mious.items()}
    _write_parquet(out_parquet, counts)
    _write_json(out_json, result)
    return result


def evaluate_labels(
    dataset: Dataset,
    split: str,
    folder: Path,
    stage: str,
    out_json: Path,
    out_parquet: Path,
    meta: dict,
    confidence_folder: Path | None = None,
    out_confidence: Path | None = None,
) -> dict:
    """Score the label PNGs of a folder: pseudo masks or a segmentor's predictions.

    Args:
        dataset: gives the ground truth and the classes.
        split: the images to score.
        folder: holds <id>.png, values 0..C.
        stage: `mask` or `segmentation`.
        out_json: the measurement.
        out_parquet: its counts: id, truth, prediction, pixels.
        meta: precision, and if wanted seed and headline.
        confidence_folder: holds <id>.png, 16-bit confidences of the labels.
        out_confidence: Parquet of their calibration, see `Calibration`.

    Returns:
        What the JSON holds.

    Raises:
        InputError: a label or ground truth is missing or cannot be used (with
            `on_bad_image: skip` the image is left out and listed), or no image is left.
    """
    ids = dataset.ids(split)
    classes = len(dataset.vocabulary.classes) + 1
    calibration = Calibration()
    rows: list[tuple[str, dict[str, np.ndarray]]] = []
    skipped = _Skipped(dataset)
    for name in tqdm(ids, desc=f"score {stage}", unit="image", disable=None):
        with skipped.bad(name):
            label = read_label(Path(folder) / f"{name}.png")
            truth = _truth(dataset, name, label.shape)
            if label.max(initial=0) >= classes:
                raise InputError(
                    f"{Path(folder) / name}.png: holds the value {label.max()}, but there are "
                    f"{classes - 1} classes; labels go from 0 to {classes - 1}"
                )
            if confidence_folder is not None:
                confidence = read_confidence(Path(confidence_folder) / f"{name}.png")
                calibration.add(confidence, label == truth, truth != IGNORE)
            rows.append((name, _columns([count_label(truth, label, classes)])))
    counts = _counts(rows)
    meta = {**meta, "split": split}
    result = _result(dataset, stage, meta, [name for name, _ in rows], skipped, counts)
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


def _maps(image, stage: str, path: Path) -> np.ndarray:
    maps = image.initial if stage == "initial" else image.refined
    if maps is None:
        raise InputError(
            f"{path}: {image.id} has no {stage} map; its cam entry has `affinity: none`"
        )
    maps = np.ascontiguousarray(maps, dtype=np.float32)
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


def _result(
    dataset: Dataset,
    stage: str,
    meta: dict,
    ids: Sequence[str],
    skipped: _Skipped,
    counts: pd.DataFrame,
) -> dict:
    if not ids:
        reason = next(iter(skipped.reasons.values()), "the split is empty")
        raise InputError(f"stage {stage}: no image is left to score; the first: {reason}")
    names = ("background", *dataset.vocabulary.classes)
    values = iou(confusion_matrix(counts, len(names)))
    return {
        "stage": stage,
        "dataset": dataset.name,
        "split": meta["split"],
        "images": len(ids),
        "seed": meta.get("seed"),
        "precision": meta["precision"],
        "power": None,
        "miou": _number(mean_iou(values)),
        "iou": {name: _number(value) for name, value in zip(names, values, strict=True)},
        "oracle": None,
        "powers": None,
        "headline": meta.get("headline", "fixed"),
        "skipped": sorted(skipped.reasons),
    }


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
