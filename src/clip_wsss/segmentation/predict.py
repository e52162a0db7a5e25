"""Prediction of a trained segmentor: one label PNG an image."""

import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from clip_wsss.datasets import Dataset, open_dataset
from clip_wsss.errors import InputError
from clip_wsss.imageio import sha256, write_label
from clip_wsss.masks import parallel_map
from clip_wsss.refine import MASK_REFINEMENTS
from clip_wsss.segmentation.segmentor import build_model, read_segmentor, use_device
from clip_wsss.segmentation.weights import read_state

# Of the dense CRF on a prediction (docs/parity.md, fact 15), which sees the image as it is.
CRF = {
    "image": "rgb",
    "iterations": 10,
    "gaussian_sxy": 1,
    "gaussian_compat": 3,
    "bilateral_sxy": 67,
    "bilateral_srgb": 3,
    "bilateral_compat": 4,
}


class Predictor:
    """A trained segmentor with the test settings of a run.

    Args:
        entry: of the config's group `segmentation`.
        checkpoint: from `train`.
        classes: names, background first.
        device: auto, cpu or cuda.

    Raises:
        InputError: the checkpoint is missing, damaged, of other classes or another segmentor.
    """

    def __init__(self, entry: dict, checkpoint: str | Path, classes: list[str], device: str):
        self.device = use_device(device)
        self.test = entry["test"]
        model = build_model(
            read_segmentor(entry["segmentor"]), entry, len(classes), entry["segmentor"]
        )
        load_checkpoint(model, checkpoint, classes, entry["segmentor"])
        self.model = model.eval().to(self.device)

    @torch.no_grad()
    def probabilities(self, rgb: np.ndarray) -> np.ndarray:
        """Class probabilities, averaged over the scales and flips of the test.

        Args:
            rgb: (H, W, 3) uint8.

        Returns:
            (classes, H, W) float32.
        """
        height, width = rgb.shape[:2]
        bgr = np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1))
        image = torch.from_numpy(bgr).to(self.device)
        image = self.model.data_preprocessor({"inputs": [image]})["inputs"]  # (1, 3, H, W)
        views = [(scale, flip) for scale in self.test["scales"] for flip in self._flips()]
        total = torch.zeros((), device=self.device)
        for scale, flip in views:
            size = max(1, round(height * scale)), max(1, round(width * scale))
            view = F.interpolate(image, size, mode="bilinear", align_corners=False)
            logits = self.model(view.flip(3) if flip else view, mode="tensor")
            logits = logits.flip(3) if flip else logits
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            total = total + logits.float().softmax(dim=1)
        return (total / len(views))[0].cpu().numpy()

    def _flips(self) -> tuple[bool, ...]:
        return (False, True) if self.test["flip"] else (False,)


def load_checkpoint(
    model: torch.nn.Module, checkpoint: str | Path, classes: list[str], segmentor: str
) -> None:
    """Load a checkpoint of `train` into a model; it must fit in every tensor.

    Raises:
        InputError: it is missing, damaged, of other classes, or does not fit.
    """
    state = read_state(Path(checkpoint))
    meta = torch.load(checkpoint, map_location="cpu", weights_only=True).get("meta")
    trained = json.loads(meta)["classes"] if isinstance(meta, str) else classes
    if trained != classes:
        raise InputError(
            f"{checkpoint}: was trained on {len(trained)} classes ({', '.join(trained[:3])}, ...), "
            f"the data set has {len(classes)} ({', '.join(classes[:3])}, ...); train again"
        )
    own = model.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state or own[name].shape != state[name].shape:
            what = (
                "lacks" if name not in state else "has another" if name in own else "has an extra"
            )
            raise InputError(
                f"{checkpoint}: does not fit {segmentor}: it {what} {name}; train again, or name "
                "the segmentor that it was trained with"
            )
    model.load_state_dict(state)


def predict(
    entry: dict,
    checkpoint: str | Path,
    dataset_settings: dict,
    split: str,
    folder: str | Path,
    manifest: str | Path,
    threads: int = 1,
    device: str = "auto",
    also: Sequence[str] = (),
    workers: int = 1,
) -> None:
    """Label the images of a split.

    Args:
        entry: of the config's group `segmentation`; `test` holds scales, flip and crf.
        checkpoint: from `train`.
        dataset_settings: the config's `dataset`.
        split: name of a list of images.
        folder: gets <id>.png, (H, W) uint8 with the VOC palette, 0 background.
        manifest: CSV with id, sha256 and skipped (why an image was left out, else empty), written
            last.
        threads: of torch.
        device: auto, cpu or cuda.
        also: images outside of the split to label too, for pictures; nothing scores them.
        workers: processes of the CRF; they change nothing but the time.

    Raises:
        InputError: the checkpoint does not fit; an image cannot be read and `on_bad_image` is
            fail.
    """
    torch.set_num_threads(threads)
    dataset = open_dataset(dataset_settings)
    classes = ["background", *dataset.vocabulary.classes]
    predictor = Predictor(entry, checkpoint, classes, device)
    crf = entry["test"]["crf"]
    names = list(dict.fromkeys([*dataset.ids(split), *also]))
    rows: list[tuple[str, str, str]] = []
    progress = tqdm(total=len(names), desc="predicting", unit="image", disable=None)
    with parallel_map(workers if crf else 1) as mapped, progress:
        part = 4 * workers  # images in memory
        for start in range(0, len(names), part):
            images, skipped = _read(dataset, names[start : start + part])
            maps = map(predictor.probabilities, images.values())
            if crf:
                halves = [x.astype(np.float16) for x in maps]
                maps = mapped(
                    partial(MASK_REFINEMENTS["crf"], settings=CRF), halves, images.values()
                )
            labels = dict(zip(images, (x.argmax(axis=0) for x in maps), strict=True))
            for name in names[start : start + part]:
                path = Path(folder) / f"{name}.png"
                if name in labels:
                    write_label(path, labels[name].astype(np.uint8))
                rows.append((name, sha256(path) if name in labels else "", skipped.get(name, "")))
                progress.update()
    Path(manifest).parent.mkdir(parents=True, exist_ok=True)
    with open(manifest, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "sha256", "skipped"), *rows])


def _read(dataset: Dataset, names: list[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Images that can be read, and why others cannot."""
    images, skipped = {}, {}
    for name in names:
        try:
            images[name] = dataset.image(name)
        except InputError as error:
            if dataset.settings["on_bad_image"] == "fail":
                raise
            skipped[name] = str(error)
    return images, skipped
