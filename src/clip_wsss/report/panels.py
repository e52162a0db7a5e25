"""Pictures of every stage of a run for some images, small enough for a page that is mailed.

Runs that share a stage share its pictures: an album holds each different picture once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clip_wsss.core.archives import Archive
from clip_wsss.core.confidence import MU
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import ImageMaps, background_scores, read_maps, upsample_maps
from clip_wsss.data.datasets import Dataset
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.report.pictures import (
    Album,
    class_heat,
    hatched_bytes,
    heat_overlay,
    label_bytes,
    photo_bytes,
    shrink,
)
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.stages import MAP_STAGES
from clip_wsss.runs.table import Run
from clip_wsss.score.breakdown import region_iou
from clip_wsss.score.measurements import map_scoring

COLUMN_TITLES = {
    "image": "Image",
    "truth": "Ground truth",
    "initial": "Initial CAM",
    "refined": "Refined CAM",
    "mask": "Pseudo mask",
    "dropped": "Dropped by μ",
    "labels": "Final labels",
    "prediction": "Prediction",
}
SHOWN_STAGES = tuple(COLUMN_TITLES)
NOT_PART = "not part of this run"
HEAT_SIDE = 64  # of the map of one class, which the page enlarges


@dataclass(frozen=True)
class StageFiles:
    """The files of a run's stages; none of a stage that it lacks.

    Attributes:
        initial: shards of maps; refined: the same after the affinity.
        masks: archives of pseudo masks; a run without any is shown with what its last maps say at
            the background power `power`.
        labels: the archive of the labels that the finished training gives, of one seed.
        predictions: archives of predictions, of one seed.
        mu: pixels of masks of a lower confidence are shown as dropped.
    """

    initial: tuple[Path, ...] = ()
    refined: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    labels: tuple[Path, ...] = ()
    predictions: tuple[Path, ...] = ()
    power: float = 1
    mu: float = MU

    @property
    def maps(self) -> tuple[Path, ...]:
        """Shards of the last maps."""
        return self.refined or self.initial


def stage_files(plan: Plan, run: Run) -> StageFiles:
    """The files of a run's stages, the predictions of its first seed."""
    path, graph = plan.graph.paths[run.name], plan.graph

    def shards(group: str) -> tuple[Path, ...]:
        node = path.get(group)
        return tuple(plan.root / name for name in graph.shard_files(node)) if node else ()

    archives: list[Path] = []
    labels: tuple[Path, ...] = ()
    if "inference" in path:
        if graph.labels_whole_images(path["inference"]):
            labels = plan.predictions(path["inference"], run.seeds[0], "labels").files
        shown, val = (
            plan.root / graph.predictions(path["inference"], run.seeds[0], split)
            for split in ("shown", "val")
        )
        archives += [val] if plan.config.dataset.splits.val is not None else []
        archives += [shown] if shown.is_file() else []
    segmentation = graph.settings[run.name].segmentation
    mu = None if segmentation is None else segmentation.threshold
    return StageFiles(
        initial=shards("cam"),
        refined=shards("affinity"),
        masks=shards("masks"),
        labels=labels,
        predictions=tuple(archives),
        power=map_scoring(graph, run)[1],
        mu=MU if mu is None else mu,
    )


class Panels:
    """Makes the pictures of runs from the files of their stages.

    Args:
        dataset: where the images and the ground truth are.
        side: pictures whose longer side is above it are made smaller.
    """

    def __init__(self, dataset: Dataset, side: int = 320):
        self.dataset, self.side = dataset, side
        self.album = Album()
        self.longest = 1  # side of the images that were asked for, as they are on disk
        self._cached: dict[tuple, str] = {}
        self._maps: dict[Path, dict[str, ImageMaps]] = {}
        self._archives: dict[Path, Archive] = {}
        self._truths: dict[str, np.ndarray | None] = {}
        self._measured: dict[tuple, dict | None] = {}

    def restart(self, side: int) -> None:
        """Start again with pictures of another size; what was read of the files is kept."""
        self.side, self.album, self._cached = side, Album(), {}

    def panel(self, files: StageFiles, name: str) -> dict[str, str]:
        """Picture keys of one image by stage; `!` and a reason where there is no picture."""
        stages = {
            "image": self._picture(("image", name), lambda: self._photo(self._rgb(name))),
            "truth": self._truth(name),
            "initial": self._map(files.initial, name),
            "refined": self._map(files.refined, name),
            "mask": self._mask(files, name),
            "dropped": self._dropped(files, name),
            "labels": self._prediction(files.labels, name, "score"),
            "prediction": self._prediction(files.predictions, name),
        }
        assert tuple(stages) == SHOWN_STAGES
        return stages

    def labels(self, files: StageFiles, name: str, stage: str = "mask") -> np.ndarray | None:
        """Labels that a stage gives an image, (H, W) uint8; None where it gives none.

        Maps are labelled here, at the background power of the run, and so is the mask of a run
        without masks: as they are scored.
        """
        if stage == "truth":
            return self._true_mask(name)
        if stage in MAP_STAGES or (stage == "mask" and not files.masks):
            return self._labels_of_maps(getattr(files, stage, files.maps), files.power, name)
        found = {"mask": files.masks, "labels": files.labels, "prediction": files.predictions}
        archive = self.find_archive(found.get(stage, ()), name)
        return None if archive is None else archive.label(name)

    def class_maps(self, files: StageFiles, name: str) -> dict[str, dict[int, str]]:
        """Stage of maps -> label of a class -> picture of its map; of images of several classes."""
        found: dict[str, dict[int, str]] = {}
        for stage in MAP_STAGES:
            shards = getattr(files, stage)
            image = self.find_maps(shards, name)
            if image is None or len(image.keys) < 2:
                continue
            found[stage] = {
                int(key) + 1: self._picture(
                    ("class", shards, name, int(key)), self._class_map(values, image.size)
                )
                for key, values in zip(image.keys, image.maps, strict=True)
            }
        return found

    def _class_map(self, values: np.ndarray, size: tuple[int, int]) -> Callable[[], bytes]:
        return lambda: photo_bytes(class_heat(values, size, min(HEAT_SIDE, self.side)), 60)

    def measures(self, files: StageFiles, name: str) -> dict[str, dict]:
        """Stage -> what is known of its picture of an image.

        Returns:
            of stages of labels `classes`: [label, IoU in this image or None] of every class in the
            picture or the ground truth, and `iou`, their mean over those of the ground truth, or
            None; of `dropped` mu and the share of the pixels that it keeps.
        """
        found: dict[str, dict] = {}
        truth = self._true_mask(name)
        for stage in (*MAP_STAGES, "truth", "mask", "labels", "prediction"):
            key = ("measure", stage, self._source(files, stage), name)
            if key not in self._measured:
                label = self.labels(files, name, stage)
                self._measured[key] = None if label is None else measure_labels(truth, label)
            measured = self._measured[key]
            if measured is not None:
                found[stage] = measured
        archive = self.find_archive(files.masks, name)
        if archive is not None:
            kept = float((archive.confidence(name) >= np.float32(files.mu)).mean())
            found["dropped"] = {"mu": files.mu, "kept": round(kept, 4)}
        return found

    def _source(self, files: StageFiles, stage: str) -> tuple:
        if stage == "truth":
            return ()
        if stage in MAP_STAGES:
            return getattr(files, stage), files.power
        own = {"mask": files.masks, "labels": files.labels, "prediction": files.predictions}
        return own.get(stage) or (files.maps, files.power)

    def _labels_of_maps(self, shards, power: float, name: str) -> np.ndarray | None:
        image = self.find_maps(shards, name)
        if image is None:
            return None
        full = upsample_maps(image.maps, image.size)
        scores = np.concatenate([background_scores(full, power)[None], full])
        values = np.concatenate([[0], image.keys + 1]).astype(np.uint8)
        return values[scores.argmax(axis=0)]  # a tie goes to the background

    def _true_mask(self, name: str) -> np.ndarray | None:
        if name not in self._truths:
            try:
                self._truths[name] = self.dataset.mask(name)
            except InputError:
                self._truths[name] = None  # images outside the scored split need no ground truth
        return self._truths[name]

    def find_maps(self, shards: Iterable[Path], name: str) -> ImageMaps | None:
        """Maps of an image; None where no shard holds it. Raises InputError for a bad shard."""
        for path in shards:
            if path not in self._maps:
                self._maps[path] = {image.id: image for image in read_maps(path)}
            if name in self._maps[path]:
                return self._maps[path][name]
        return None

    def find_archive(self, archives: Iterable[Path], name: str) -> Archive | None:
        """The archive of an image's labels; None where none holds it. Raises InputError."""
        for path in archives:
            if path not in self._archives:
                self._archives[path] = Archive(path)
            if name in self._archives[path].ids:
                return self._archives[path]
        return None

    def _picture(self, key: tuple, make: Callable[[], bytes | str]) -> str:
        if key not in self._cached:
            data = make()
            self._cached[key] = data if isinstance(data, str) else self.album.add(data)
        return self._cached[key]

    def _photo(self, rgb: np.ndarray) -> bytes:
        return photo_bytes(shrink(rgb, self.side))

    def _label(self, label: np.ndarray) -> bytes:
        return label_bytes(shrink(label, self.side, nearest=True))

    def _rgb(self, name: str) -> np.ndarray:
        rgb = self.dataset.image(name)
        self.longest = max(self.longest, *rgb.shape[:2])
        return rgb

    def _truth(self, name: str) -> str:
        def make() -> bytes | str:
            mask = self._true_mask(name)
            return "!no ground truth" if mask is None else self._label(mask)

        return self._picture(("truth", name), make)

    def _map(self, shards: tuple[Path, ...], name: str) -> str:
        def make() -> bytes | str:
            image = self.find_maps(shards, name)
            if image is None:
                return f"!{NOT_PART}"
            return self._photo(heat_overlay(self._rgb(name), image.maps))

        return self._picture(("map", shards, name), make)

    def _mask(self, files: StageFiles, name: str) -> str:
        def make() -> bytes | str:
            label = self.labels(files, name)
            return "!no pseudo mask" if label is None else self._label(label)

        source = files.masks or (files.maps, files.power)
        return self._picture(("mask", source, name), make)

    def _dropped(self, files: StageFiles, name: str) -> str:
        def make() -> bytes | str:
            archive = self.find_archive(files.masks, name)
            if archive is None:
                return f"!{NOT_PART}"
            confidence = shrink(archive.confidence(name), self.side, nearest=True)
            return hatched_bytes(confidence < np.float32(files.mu))

        return self._picture(("dropped", files.masks, files.mu, name), make)

    def _prediction(self, archives: tuple[Path, ...], name: str, split: str = "val") -> str:
        def make() -> bytes | str:
            archive = self.find_archive(archives, name)
            if archive is None:
                return f"!predicted on {self.dataset.settings['splits'][split]} only"
            return self._label(archive.label(name))

        if not archives:
            return f"!{NOT_PART}"
        return self._picture(("prediction", archives, name), make)


def measure_labels(truth: np.ndarray | None, label: np.ndarray) -> dict:
    """The classes in a label mask of one image, with their IoU where the ground truth is known.

    Args:
        truth, label: (H, W) uint8, 0 the background; 255 is ignored in the first and a miss in
            the second.

    Returns:
        `classes` and `iou` as in `Panels.measures`.
    """
    seen = [int(value) for value in np.unique(label) if value != IGNORE]
    if truth is None:
        return {"classes": [[value, None] for value in seen], "iou": None}
    counted = truth != IGNORE
    pairs = pd.DataFrame({"truth": truth[counted], "prediction": label[counted]})
    counts = pairs.value_counts().rename("pixels").reset_index().assign(id="")
    regions = region_iou(counts)
    ious = dict(zip(regions["label"].tolist(), regions["iou"].tolist(), strict=True))
    values = sorted({*seen, *ious})
    return {
        "classes": [[v, round(ious[v], 4) if v in ious else None] for v in values],
        "iou": round(float(np.mean(list(ious.values()))), 4) if ious else None,
    }
