"""Scoring of maps, pseudo masks and predictions against the ground truth.

A measurement is two files. The Parquet holds the counts of every image: id, truth, prediction,
pixels, and for maps the background power. The JSON holds what follows from the counts.
docs/results.md describes both. Nothing here needs torch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from clip_wsss.core.archives import Archive
from clip_wsss.core.confidence import MU, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import atomic_path, write_json
from clip_wsss.core.images import SMALLER
from clip_wsss.core.maps import ImageMaps, read_maps, read_skipped, upsample_maps
from clip_wsss.core.memory import fitting
from clip_wsss.core.processes import parallel_map
from clip_wsss.core.progress import log_images
from clip_wsss.data.bad_images import left_out
from clip_wsss.data.datasets import Dataset
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.runs.stages import MAP_STAGES
from clip_wsss.score.calibration import Calibration
from clip_wsss.score.confusion import (
    Sparse,
    confusion_matrix,
    count_label,
    count_sweep,
    exchanged,
    iou,
    mean_iou,
)

SURE = int(encode(np.array([MU], np.float32))[0])  # the code of the paper's mu


@dataclass(frozen=True)
class Measurement:
    """What is measured, and where it goes.

    Attributes:
        stage: initial or refined, of maps; mask, labels or segmentation, of labels: 0..C or 255,
            unlabelled, which is a miss of the true class and a false alarm of none.
        read: the maps, or the archives of labels, a file a shard; images of
            other splits are passed over.
        json: what follows from the counts. Of maps: powers (power -> mIoU), iou (power -> class ->
            IoU), oracle (power and mIoU of the best), maps (how many the scored images have),
            zero_maps (of these zero all over), zero_classes (those whose maps all are),
            scaled_down (images that were, for their maps); of labels: miou, iou (class -> IoU),
            unlabelled (share of the counted pixels that are predicted 255), exchanged (class of
            the truth, label, IoU of these two, see `confusion.exchanged`), of pseudo masks
            unsure (images without a labelled pixel of a confidence of `SURE` or more). Of both
            without_truth: the classes that have none, which the mIoU is without.
        counts: Parquet of id, truth, prediction, for maps power, and pixels.
        precision: of the network, for the JSON.
        seed: of the training, for the JSON.
        powers: the background powers that maps are counted at.
        sweep: those of the powers that the oracle chooses among; None: all of them.
        confidence: Parquet of the calibration of the confidences in archives, see `Calibration`;
            unlabelled pixels are not in it. None: there are no confidences.
    """

    stage: str
    read: Sequence[Path]
    json: Path
    counts: Path
    precision: str
    seed: int | None = None
    powers: Sequence[float] = ()
    sweep: Sequence[float] | None = None
    confidence: Path | None = None

    @property
    def counted(self) -> tuple[float, ...]:
        """The different powers, ascending."""
        return tuple(sorted({float(power) for power in self.powers}))


def measure(
    dataset: Dataset, split: str, measurements: Sequence[Measurement], workers: int = 1
) -> list[dict]:
    """Score maps or labels of one split; write the counts and what follows from them.

    The ground truth of an image is read once for all measurements.

    Args:
        dataset: gives the ground truth and the classes.
        split: the images to score; their order is that of the counts.
        measurements: of the same shards.
        workers: processes; they change nothing but the time.

    Returns:
        What the JSON files hold.

    Raises:
        InputError: an image is in no shard or its ground truth cannot be used (with
            `on_bad_image: skip` it is left out and listed); a file cannot be used; no image is
            left; no power.
    """
    for one in measurements:
        if one.stage in MAP_STAGES and not one.powers:
            raise InputError("evaluation.powers: must list a background power or more; got none")
    ids = dataset.ids(split)
    shards = list(zip(*(one.read for one in measurements), strict=True))
    shares = -(-workers // max(len(shards), 1))  # of a shard, where there are more workers
    parts = [(files, ids[share::shares]) for files in shards for share in range(shares)]
    begun = time.perf_counter()
    with parallel_map(min(workers, len(parts))) as mapped:
        counted = mapped(partial(_count, dataset, measurements), parts)
        progress = tqdm(counted, total=len(parts), desc=f"score {split}", disable=None)
        found = list(zip(*progress, strict=True))
    log_images(f"score {split}", len(ids), begun)
    return [_write(dataset, split, ids, *one) for one in zip(measurements, found, strict=True)]


def _count(
    dataset: Dataset, measurements: Sequence[Measurement], part: tuple[Sequence[Path], list[str]]
) -> Sequence["_Counts"]:
    """Count images of a shard, a file of it for each measurement."""
    files, ids = part
    counts = [
        (_MapCounts if one.stage in MAP_STAGES else _LabelCounts)(dataset, one, path)
        for one, path in zip(measurements, files, strict=True)
    ]
    for name in ids:
        truth = cache(partial(_truth, dataset, name))
        for one in counts:
            if name in one:
                one.add(name, truth)
    for one in counts:
        one.close()
    return counts


class _Counts:
    """What was counted of a shard."""

    def __init__(self, dataset: Dataset, measurement: Measurement, path: Path):
        self.path, self.measurement = Path(path), measurement
        self.classes = len(dataset.vocabulary.classes) + 1
        self.skipped = _Skipped(dataset)
        self.images: dict[str, dict[str, np.ndarray]] = {}
        # (classes, 2): how many maps, how many are zero all over
        self.maps = np.zeros((self.classes - 1, 2), np.int64)
        self.scaled_down, self.unsure, self.calibration = 0, 0, Calibration()
        self.left_out: dict[str, str] = {}  # in the shard itself


class _MapCounts(_Counts):
    def __init__(self, dataset: Dataset, measurement: Measurement, path: Path):
        super().__init__(dataset, measurement, path)
        self.left_out = read_skipped(path)
        self._maps = {image.id: image for image in read_maps(path)}

    def __contains__(self, name: str) -> bool:
        return name in self._maps

    def add(self, name: str, truth: Callable[[], np.ndarray]) -> None:
        """Count an image, or note why it cannot be counted."""
        image, powers = self._maps[name], self.measurement.counted
        with self.skipped.bad(name), fitting(f"{name}: its score", SMALLER):
            grid = _maps(image, self.path)
            mask = _fitting(truth(), name, image.size)
            full = upsample_maps(grid, image.size)
            keys = [int(key) for key in image.keys]
            counts = count_sweep(mask, full, keys, powers, self.classes)
            self.images[name] = _columns(counts, powers)
            self.maps[keys, 0] += 1
            self.maps[keys, 1] += (grid == 0).all(axis=(1, 2))
            self.scaled_down += image.scaled_down

    def close(self) -> None:
        """Forget the maps: what was counted goes from process to process."""
        self._maps = {}


class _LabelCounts(_Counts):
    def __init__(self, dataset: Dataset, measurement: Measurement, path: Path):
        super().__init__(dataset, measurement, path)
        self._archive: Archive | None = Archive(path)
        self.left_out, self._ids = self._archive.skipped, set(self._archive.ids)

    def __contains__(self, name: str) -> bool:
        return name in self._ids

    def add(self, name: str, truth: Callable[[], np.ndarray]) -> None:
        """Count an image, or note why it cannot be counted."""
        # A damaged archive stops the job even where a bad image may be left out.
        assert self._archive is not None  # it is until `close`
        label = self._archive.label(name)
        if (strange := label[(label >= self.classes) & (label != IGNORE)]).size:
            raise InputError(
                f"{self.path}: {name} holds the value {strange[0]}, but there are "
                f"{self.classes - 1} classes; labels go from 0 to {self.classes - 1}, or are "
                f"{IGNORE}"
            )
        codes = None if self.measurement.confidence is None else self._archive.codes(name)
        with self.skipped.bad(name), fitting(f"{name}: its score", SMALLER):
            mask = _fitting(truth(), name, label.shape)
            self.images[name] = _columns([count_label(mask, label, self.classes)])
            if codes is not None:
                self.unsure += not (codes[label != IGNORE] >= SURE).any()
                counted = (mask != IGNORE) & (label != IGNORE)
                self.calibration.add(codes, label == mask, counted)

    def close(self) -> None:
        """Close the archive: what was counted goes from process to process."""
        self._archive = None


def _write(
    dataset: Dataset,
    split: str,
    ids: Sequence[str],
    one: Measurement,
    parts: Sequence[_Counts],
) -> dict:
    """Write what was counted for one measurement, and what follows from it."""
    skipped, calibration = _Skipped(dataset), Calibration()
    images: dict[str, dict[str, np.ndarray]] = {}
    left_out: dict[str, str] = {}
    paths: dict[str, Path] = {}
    for part in parts:
        for name in (*part.images, *part.skipped.reasons):
            if name in paths:
                raise InputError(
                    f"{part.path}: names {name}, and so does {paths[name]}; delete the one that is "
                    "out of date"
                )
            paths[name] = part.path
        images |= part.images
        skipped.reasons |= part.skipped.reasons
        left_out |= part.left_out
        calibration.merge(part.calibration)
    for name in ids:
        if name not in images and name not in skipped:
            with skipped.bad(name):
                raise InputError(left_out.get(name) or _nothing_of(name, one))
    kept = [name for name in ids if name in images]
    result = _result(dataset, split, one, kept, skipped)
    counts = _table([(name, images[name]) for name in kept])
    names = ("background", *dataset.vocabulary.classes)
    if one.stage in MAP_STAGES:
        result |= _follows_of_maps(dataset, one, counts)
        made, zero = np.sum([part.maps for part in parts], axis=0).T
        classes = np.array(dataset.vocabulary.classes)
        result |= {
            "maps": int(made.sum()),
            "zero_maps": int(zero.sum()),
            "zero_classes": classes[(zero == made) & (made > 0)].tolist(),
            "scaled_down": sum(part.scaled_down for part in parts),
        }
    else:
        result["miou"], result["iou"] = _scores(dataset, counts)
        unlabelled = counts["pixels"][counts["prediction"] == IGNORE].sum()
        result["unlabelled"] = float(unlabelled / max(counts["pixels"].sum(), 1))
        pairs = exchanged(confusion_matrix(counts, len(names)))
        result["exchanged"] = [[names[i], names[j], ratio] for i, j, ratio in pairs]
        if one.stage == "mask":
            result["unsure"] = sum(part.unsure for part in parts)
    there = set(counts["truth"])
    result["without_truth"] = [name for place, name in enumerate(names) if place not in there]
    if one.confidence is not None:
        _write_parquet(one.confidence, calibration.table())
    _write_parquet(one.counts, counts)
    write_json(one.json, result, sort_keys=False)
    return result


def _nothing_of(name: str, one: Measurement) -> str:
    if one.stage in MAP_STAGES:
        return (
            f"{name}: is to be scored, but no CAM was made of it; the split `score` must be a part "
            "of the split `pseudo`"
        )
    return (
        f"{name}: is to be scored, but {', '.join(map(str, one.read))} hold no label of it; make "
        "them again"
    )


def _follows_of_maps(dataset: Dataset, one: Measurement, counts: pd.DataFrame) -> dict:
    scores = {power: _scores(dataset, counts[counts["power"] == power]) for power in one.counted}
    mious = {power: mean for power, (mean, _) in scores.items()}
    ordered = {power: -1 if mean is None else mean for power, mean in mious.items()}
    tried = one.powers if one.sweep is None else one.sweep
    best = max(map(float, tried), key=lambda power: ordered[power])
    return {
        "powers": {power_key(power): mean for power, mean in mious.items()},
        "iou": {power_key(power): values for power, (_, values) in scores.items()},
        "oracle": {"power": best, "miou": mious[best]},
    }


def power_key(power: float) -> str:
    """Return the key of a power in a metrics JSON: `1`, `2.5`."""
    return f"{power:g}"


class _Skipped:
    """Images that were left out, and why."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.reasons: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self.reasons

    @contextmanager
    def bad(self, name: str) -> Iterator[None]:
        """Run a block whose InputError leaves the image out, where that is allowed."""
        try:
            yield
        except InputError as error:
            self.reasons[name] = left_out(self._dataset, error)


def _maps(image: ImageMaps, path: Path) -> np.ndarray:
    maps = np.ascontiguousarray(image.maps, dtype=np.float32)
    if not maps.min(initial=0) >= 0:  # so written NaN is refused, too
        raise InputError(f"{path}: {image.id} has a map with values below 0 or NaN; make it again")
    return maps + np.float32(0)  # -0 becomes 0: the sweep compares bits


def _truth(dataset: Dataset, name: str) -> np.ndarray:
    truth = dataset.mask(name)
    if truth is None:
        raise InputError("dataset.masks: null, so nothing can be scored; set splits.score to null")
    return truth


def _fitting(truth: np.ndarray, name: str, size: tuple[int, int]) -> np.ndarray:
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
        columns["power"] = np.repeat(
            np.asarray(powers, np.float64), [len(one[2]) for one in counts]
        )
    return columns | {"pixels": pixels.astype(np.int32)}


def _table(images: Sequence[tuple[str, dict[str, np.ndarray]]]) -> pd.DataFrame:
    """Put the counts of images, one or more, below one another."""
    lengths = [len(columns["pixels"]) for _, columns in images]
    names = np.array([name for name, _ in images], dtype=object)
    together = {key: np.concatenate([c[key] for _, c in images]) for key in images[0][1]}
    return pd.DataFrame({"id": np.repeat(names, lengths), **together})


def _result(
    dataset: Dataset, split: str, one: Measurement, ids: Sequence[str], skipped: _Skipped
) -> dict:
    """What the JSON of every measurement begins with."""
    if not ids:
        reason = next(iter(skipped.reasons.values()), "the split is empty")
        raise InputError(f"stage {one.stage}: no image is left to score; the first: {reason}")
    return {
        "stage": one.stage,
        "dataset": dataset.name,
        "split": split,
        "images": len(ids),
        "seed": one.seed,
        "precision": one.precision,
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
    with atomic_path(path) as part:
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), part, compression="zstd")
