"""Pictures of every stage of a run for some images, small enough for a page that is mailed.

Runs that share a stage share its pictures: an album holds each different picture once.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image

from clip_wsss.cam import ImageCams, read_cams
from clip_wsss.datasets import IGNORE, Dataset
from clip_wsss.errors import InputError
from clip_wsss.figures import draw_grid
from clip_wsss.imageio import read_confidence, read_label, voc_palette
from clip_wsss.masks import labels_and_confidence, upsample_maps
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
HEAT = "inferno"  # of CAMs
CONFIDENCE = "cividis"  # of confidences
_HEAT_WEIGHT = 0.62  # of the heat over the grey image: dark where a map is low, both still readable
_CONFIDENCE_STEPS = 64  # fewer colours than the 16-bit file has, for a small picture


@cache
def colour_table(name: str) -> np.ndarray:
    """A colormap of matplotlib as (256, 3) uint8."""
    return (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


@cache
def mask_palette() -> np.ndarray:
    """The VOC palette, (256, 3) uint8, with white for ignored pixels."""
    palette = voc_palette().copy()
    palette[IGNORE] = 255
    return palette


def heat_overlay(rgb: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The maximum over the classes of `maps` as heat over the image.

    Args:
        rgb: (H, W, 3) uint8.
        maps: (K, gh, gw) float32 in [0, 1], on the grid.

    Returns:
        (H, W, 3) uint8.
    """
    heat = upsample_maps(maps, rgb.shape[:2]).max(axis=0).astype(np.float32)
    colours = colour_table(HEAT)[np.rint(heat * 255).astype(np.uint8)]
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None].astype(np.float32)
    mixed = (1 - _HEAT_WEIGHT) * grey + _HEAT_WEIGHT * colours
    return np.rint(mixed).astype(np.uint8)


def shrink(picture: np.ndarray, side: int, nearest: bool = False) -> np.ndarray:
    """Picture with its longer side at most `side`; never enlarged."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return cv2.resize(picture, size, interpolation=how)


def photo_bytes(rgb: np.ndarray, quality: int = 80) -> bytes:
    """Encode (H, W, 3) uint8 as WebP."""
    return _encode(Image.fromarray(rgb), format="WEBP", quality=quality, method=6)


def label_bytes(label: np.ndarray) -> bytes:
    """Encode a label mask, (H, W) uint8, as PNG in VOC's colours, ignored pixels white."""
    return _indexed(label, mask_palette())


def confidence_bytes(confidence: np.ndarray) -> bytes:
    """Encode confidences, (H, W) float in [0, 1], as PNG."""
    last = _CONFIDENCE_STEPS - 1
    table = colour_table(CONFIDENCE)[np.linspace(0, 255, _CONFIDENCE_STEPS).round().astype(int)]
    return _indexed(np.rint(confidence.clip(0, 1) * last).astype(np.uint8), table)


def _indexed(values: np.ndarray, palette: np.ndarray) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(values))
    image.putpalette(palette.tobytes())
    return _encode(image, format="PNG", optimize=True)


def _encode(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def choose(dataset: Dataset, split: str, count: int) -> list[str]:
    """Images for the panels: some with one class and some with more, of as many classes as can be.

    Goes through the split and takes, one after the other, the image whose classes were shown
    least so far; the wish for one, two and three classes alternates. The same for every run and
    known before any job has run.
    """
    labels = {name: dataset.labels(name) for name in dataset.ids(split)}
    shown: Counter[int] = Counter()
    chosen: list[str] = []
    while len(chosen) < min(count, len(labels)):
        wanted = 1 + len(chosen) % 3
        name = min(
            (name for name in labels if name not in chosen),
            key=lambda name: (
                abs(len(labels[name]) - wanted),
                max(shown[label] for label in labels[name]),
                sum(shown[label] for label in labels[name]),
            ),
        )
        chosen.append(name)
        shown.update(labels[name])
    return chosen


@dataclass
class Album:
    """Encoded pictures by the hash of their content."""

    pictures: dict[str, str] = field(default_factory=dict)  # key -> data URI

    def add(self, data: bytes) -> str:
        """Keep a picture and return its key; one that is there already is not kept twice."""
        kind = "png" if data.startswith(b"\x89PNG") else "webp"
        key = hashlib.sha256(data).hexdigest()[:10]
        self.pictures[key] = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        return key

    def rgb(self, key: str) -> np.ndarray:
        """A kept picture, (H, W, 3) uint8."""
        data = base64.b64decode(self.pictures[key].split(",", 1)[1])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    @property
    def size(self) -> int:
        """Bytes that the pictures take in the page."""
        return sum(map(len, self.pictures.values()))


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
            "mask": self._mask(run, masks, name),
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

    def _picture(self, key: tuple, make) -> str:
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
            return (
                f"!{NOT_PART}" if maps is None else self._photo(heat_overlay(self._rgb(name), maps))
            )

        return self._picture((stage, run.texts, run.cam, name), make)

    def _mask(self, run: Run, masks: dict, name: str) -> str:
        def make() -> bytes | str:
            label = self.labels(run, name)
            return "!no pseudo mask" if label is None else self._label(label)

        # The settings and not the cell: `scoring`, say, is no other mask.
        kind = (masks["map"], masks["background_power"], run.masks)
        return self._picture(("mask", run.texts, run.cam, kind, name), make)

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
