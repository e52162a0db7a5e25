"""Pictures of every stage of a run for some images, small enough for a page that is mailed.

Runs that share a stage share its pictures: an album holds each different picture once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from clip_wsss.archives import Archive
from clip_wsss.choice import choose
from clip_wsss.datasets import Dataset
from clip_wsss.errors import InputError
from clip_wsss.figures import draw_grid
from clip_wsss.maps import ImageMaps, read_maps
from clip_wsss.masks import labels_and_confidence
from clip_wsss.pictures import (
    Album,
    confidence_bytes,
    heat_overlay,
    label_bytes,
    photo_bytes,
    shrink,
)

TITLES = {
    "image": "Image",
    "truth": "Ground truth",
    "initial": "Initial CAM",
    "refined": "CAA",
    "mask": "Pseudo mask",
    "confidence": "Confidence",
    "prediction": "Prediction",
}
STAGES = tuple(TITLES)
NOT_PART = "not part of this run"


@dataclass(frozen=True)
class StageFiles:
    """The files of a run's stages; none of a stage that it lacks.

    Attributes:
        initial: shards of maps; refined: the same after the affinity.
        masks: archives of pseudo masks; of a run without any, `entry` of the group `masks` says
            how its masks follow from its last maps (None: it has no masks).
        predictions: archives of predictions, of one seed.
    """

    initial: tuple[Path, ...] = ()
    refined: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    predictions: tuple[Path, ...] = ()
    entry: dict | None = None


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

    def panel(self, files: StageFiles, name: str) -> dict[str, str]:
        """Picture keys of one image by stage; `!` and a reason where there is no picture."""
        stages = {
            "image": self._picture(("image", name), lambda: self._photo(self._rgb(name))),
            "truth": self._truth(name),
            "initial": self._map(files.initial, name),
            "refined": self._map(files.refined, name),
            "mask": self._mask(files, name),
            "confidence": self._confidence(files.masks, name),
            "prediction": self._prediction(files.predictions, name),
        }
        assert tuple(stages) == STAGES
        return stages

    def labels(self, files: StageFiles, name: str) -> np.ndarray | None:
        """Pseudo mask of one image, (H, W) uint8; computed here for a run without archives."""
        archive = find_archive(files.masks, name)
        if archive is not None:
            return archive.label(name)
        image = find_maps(files.refined or files.initial, name)
        if files.masks or files.entry is None or image is None:
            return None
        rgb = self.dataset.image(name)
        return labels_and_confidence(image.maps, image.keys, rgb, files.entry)[0]

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
            try:
                mask = self.dataset.mask(name)
            except InputError:
                mask = None  # images outside the scored split need no ground truth
            return "!no ground truth" if mask is None else self._label(mask)

        return self._picture(("truth", name), make)

    def _map(self, shards: tuple[Path, ...], name: str) -> str:
        def make() -> bytes | str:
            image = find_maps(shards, name)
            if image is None:
                return f"!{NOT_PART}"
            return self._photo(heat_overlay(self._rgb(name), image.maps))

        return self._picture(("map", shards, name), make)

    def _mask(self, files: StageFiles, name: str) -> str:
        def make() -> bytes | str:
            label = self.labels(files, name)
            return "!no pseudo mask" if label is None else self._label(label)

        source = files.masks or (files.refined or files.initial, repr(files.entry))
        return self._picture(("mask", source, name), make)

    def _confidence(self, archives: tuple[Path, ...], name: str) -> str:
        def make() -> bytes | str:
            archive = find_archive(archives, name)
            if archive is None:
                return f"!{NOT_PART}"
            return confidence_bytes(shrink(archive.confidence(name), self.side))

        return self._picture(("confidence", archives, name), make)

    def _prediction(self, archives: tuple[Path, ...], name: str) -> str:
        def make() -> bytes | str:
            archive = find_archive(archives, name)
            if archive is None:
                return f"!predicted on {self.dataset.settings['splits']['val']} only"
            return self._label(archive.label(name))

        if not archives:
            return f"!{NOT_PART}"
        return self._picture(("prediction", archives, name), make)


def find_maps(shards: Iterable[Path], name: str) -> ImageMaps | None:
    """Maps of an image; None where no shard holds it."""
    return next((_maps(path)[name] for path in shards if name in _maps(path)), None)


def find_archive(archives: Iterable[Path], name: str) -> Archive | None:
    """The archive of an image's labels; None where none holds it."""
    return next((_archive(path) for path in archives if name in _archive(path).ids), None)


@lru_cache(maxsize=64)
def _maps(path: Path) -> dict[str, ImageMaps]:
    return {image.id: image for image in read_maps(path)}


@lru_cache(maxsize=64)
def _archive(path: Path) -> Archive:
    return Archive(path)


def write_qualitative(
    files: StageFiles,
    dataset: Dataset,
    out: Path,
    names: list[str] | None = None,
    limit: int = 400_000,
) -> None:
    """Draw some images with every stage of a run as one PNG, such as the one in the README.

    Args:
        files: of the run whose stages are drawn; a column that no image has is left out.
        dataset: the images and their ground truth.
        out: PNG to write.
        names: the images; None for the first four of the report's panels.
        limit: its size in bytes, at most.
    """
    panels, splits = Panels(dataset), dataset.settings["splits"]
    names = names or choose(dataset, splits["score"] or splits["pseudo"], 4)
    found = {name: panels.panel(files, name) for name in names}
    stages = [
        stage
        for stage in STAGES
        if any(not cells[stage].startswith("!") for cells in found.values())
    ]
    rows = []
    for name, cells in found.items():
        words = ", ".join(dataset.vocabulary.classes[label] for label in dataset.labels(name))
        pictures = [
            None if cells[stage].startswith("!") else panels.album.rgb(cells[stage])
            for stage in stages
        ]
        rows.append((words, pictures))
    draw_grid(rows, [TITLES[stage] for stage in stages], Path(out), limit)
