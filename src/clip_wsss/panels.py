"""Pictures of every stage of a run for some images, small enough for a page that is mailed.

Runs that share a stage share its pictures: an album holds each different picture once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from clip_wsss.cam import ImageCams, read_cams
from clip_wsss.choice import choose
from clip_wsss.datasets import Dataset
from clip_wsss.errors import InputError
from clip_wsss.figures import draw_grid
from clip_wsss.imageio import read_confidence, read_label
from clip_wsss.masks import labels_and_confidence
from clip_wsss.pictures import (
    Album,
    confidence_bytes,
    heat_overlay,
    label_bytes,
    photo_bytes,
    shrink,
)
from clip_wsss.runs import Run, exports_masks, resolve
from clip_wsss.shards import shard_ids, shard_names

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


class Panels:
    """Makes the pictures of runs from the files of their stages.

    Args:
        dataset: where the images and the ground truth are.
        root: results folder of the data set.
        config: the whole config.
        side: pictures whose longer side is above it are made smaller.
    """

    def __init__(self, dataset: Dataset, root: Path, config: dict, side: int = 320):
        self.dataset, self.root, self.config, self.side = dataset, Path(root), config, side
        self.album = Album()
        self.longest = 1  # side of the images that were asked for, as they are on disk
        self._cached: dict[tuple, str] = {}
        self._cams: dict[tuple[str, str, str], ImageCams | None] = {}

    def panel(self, run: Run, name: str) -> dict[str, str]:
        """Picture keys of one image by stage; `!` and a reason where there is no picture."""
        masks = resolve(self.config, "masks", run.masks)
        stages = {
            "image": self._picture(("image", name), lambda: self._photo(self._rgb(name))),
            "truth": self._truth(name),
            "initial": self._map(run, name, "initial"),
            "refined": (
                self._map(run, name, "refined") if masks["map"] == "refined" else f"!{NOT_PART}"
            ),
            "mask": self._mask(run, name),
            "confidence": self._confidence(run, name),
            "prediction": self._prediction(run, name),
        }
        assert tuple(stages) == STAGES
        return stages

    def cams(self, run: Run, name: str) -> ImageCams | None:
        """CAMs of one image, or None where no shard holds it."""
        key = run.texts, run.cam, name
        if key not in self._cams:
            self._cams[key] = self._find_cams(self.root / "cams" / run.texts / run.cam, name)
        return self._cams[key]

    def labels(self, run: Run, name: str) -> np.ndarray | None:
        """Pseudo mask of one image, (H, W) uint8; computed here for a run that exports none."""
        path = self._mask_folder(run) / "labels" / f"{name}.png"
        if path.is_file():
            return read_label(path)
        masks, cams = resolve(self.config, "masks", run.masks), self.cams(run, name)
        maps = None if cams is None else getattr(cams, masks["map"])
        if exports_masks(self.config, run) or maps is None:
            return None
        return labels_and_confidence(maps, cams.keys, self.dataset.image(name), masks)[0]

    def prediction_path(self, run: Run, name: str) -> Path | None:
        """Prediction of the run's first seed for an image, if there is one."""
        if run.segmentation is None:
            return None
        cells = run.texts, run.cam, run.masks, run.segmentation, f"seed{run.seeds[0]}"
        path = self.root.joinpath("segmentation", *cells, "predictions", f"{name}.png")
        return path if path.is_file() else None

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

    def _map(self, run: Run, name: str, stage: str) -> str:
        def make() -> bytes | str:
            cams = self.cams(run, name)
            maps = None if cams is None else getattr(cams, stage)
            if maps is None:
                return f"!{NOT_PART}"
            return self._photo(heat_overlay(self._rgb(name), maps))

        return self._picture((stage, run.texts, run.cam, name), make)

    def _mask(self, run: Run, name: str) -> str:
        def make() -> bytes | str:
            label = self.labels(run, name)
            return "!no pseudo mask" if label is None else self._label(label)

        return self._picture(("mask", run.texts, run.cam, run.masks, name), make)

    def _confidence(self, run: Run, name: str) -> str:
        def make() -> bytes | str:
            path = self._mask_folder(run) / "confidence" / f"{name}.png"
            if not path.is_file():
                return f"!{NOT_PART}"
            return confidence_bytes(shrink(read_confidence(path), self.side))

        return self._picture(("confidence", run.texts, run.cam, run.masks, name), make)

    def _prediction(self, run: Run, name: str) -> str:
        if run.segmentation is None:
            return f"!{NOT_PART}"
        path = self.prediction_path(run, name)
        if path is None:
            return f"!predicted on {self.config['dataset']['splits']['val']} only"
        return self._picture(("prediction", path), lambda: self._label(read_label(path)))

    def _mask_folder(self, run: Run) -> Path:
        return self.root / "masks" / run.texts / run.cam / run.masks

    @cached_property
    def _shard_of(self) -> dict[str, str]:
        split = self.config["dataset"]["splits"]["pseudo"]
        names = [] if split is None else self.dataset.ids(split)
        shards = shard_names(self.config["compute"]["shards"])
        return {name: shard for shard in shards for name in shard_ids(names, shard)}

    def _find_cams(self, folder: Path, name: str) -> ImageCams | None:
        path = folder / f"{self._shard_of.get(name)}.npz"
        if not path.is_file():
            return None
        return next((cams for cams in _shard(path) if cams.id == name), None)


@lru_cache(maxsize=64)
def _shard(path: Path) -> list[ImageCams]:
    return read_cams(path)


def write_qualitative(
    run: Run,
    dataset: Dataset,
    root: Path,
    config: dict,
    out: Path,
    names: list[str] | None = None,
    limit: int = 400_000,
) -> None:
    """Draw some images with every stage of a run as one PNG, such as the one in the README.

    Args:
        run: whose stages are drawn; a column that no image has is left out.
        dataset: the images and their ground truth.
        root: results/<dataset>.
        config: the whole config.
        out: PNG to write.
        names: the images; None for the first four of the report's panels.
        limit: its size in bytes, at most.
    """
    panels = Panels(dataset, root, config)
    splits = config["dataset"]["splits"]
    names = names or choose(dataset, splits["score"] or splits["pseudo"], 4)
    found = {name: panels.panel(run, name) for name in names}
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
