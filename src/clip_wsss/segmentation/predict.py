"""Prediction of a trained segmentor, and its own labels: archives of labels."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from clip_wsss.core.archives import PREDICTIONS, EncodedImage, encode_image, write_archive
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import SMALLER
from clip_wsss.core.memory import TooLargeError, fitting
from clip_wsss.core.methods import method
from clip_wsss.core.processes import parallel_map
from clip_wsss.core.progress import over_images
from clip_wsss.data.bad_images import left_out
from clip_wsss.data.datasets import Dataset, open_dataset
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.write import check_scores, refined_by
from clip_wsss.segmentation.segmentor import (
    build_model,
    online_module,
    read_segmentor,
    text_head_module,
    use_device,
)
from clip_wsss.segmentation.views import fit_long_side, mean_logits
from clip_wsss.segmentation.weights import read_state


class Predictor:
    """A trained segmentor with the inference settings of a run.

    Args:
        entry: of the config's group `segmentation`.
        inference: of the config's group `inference`: scales, flip, long_side and average.
        checkpoint: from `train`.
        classes: names, background first.
        device: auto, cpu or cuda.
        texts: npz of text features, which `final_scores` needs. Of a text head those of these
            classes, which may be others than it was trained on; None: those of the checkpoint.

    Raises:
        InputError: the checkpoint is missing, damaged, of other classes or another segmentor.
    """

    def __init__(
        self,
        entry: dict,
        inference: dict,
        checkpoint: str | Path,
        classes: list[str],
        device: str,
        texts: str | Path | None = None,
    ):
        self.device = use_device(device)
        self.scales, self.flip = inference["scales"], inference["flip"]
        self.long_side = inference.get("long_side")
        self.logits = inference.get("average") == "logits"
        segmentor, path = read_segmentor(entry["segmentor"], entry), entry["segmentor"]
        if entry.get("text_head") is None:
            model = build_model(segmentor, entry, len(classes), path, texts)
            load_checkpoint(model, checkpoint, classes, path)
        else:
            heads = text_head_module()
            own = heads.texts_of_checkpoint(checkpoint)
            model = build_model(segmentor, entry, 1 + len(own[0]), path, own)
            load_checkpoint(model, checkpoint, classes if texts is None else None, path)
            if texts is not None:
                model.decode_head.classify_by(*heads.read_texts(texts), len(classes))
        model.out_channels = len(classes)  # a text head may have got others; windows ask for it
        self.model = model.eval().to(self.device)
        prepare = self.model.data_preprocessor
        # MMSegmentation's own would want samples; a view is padded where it enters the network.
        self.padding, prepare.test_cfg = getattr(prepare, "test_cfg", None), None

    @torch.no_grad()
    def probabilities(self, rgb: np.ndarray) -> np.ndarray:
        """Class probabilities; they or the logits are averaged over scales and flips.

        Args:
            rgb: (H, W, 3) uint8.

        Returns:
            (classes, H, W) float32.
        """
        height, width = rgb.shape[:2]
        bgr = np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1))
        image = torch.from_numpy(bgr).to(self.device)
        image = self.model.data_preprocessor({"inputs": [image]})["inputs"]  # (1, 3, H, W)
        if self.long_side is not None:
            image = fit_long_side(image, self.long_side)
        if self.logits:
            logits = mean_logits(self._padded_logits, image, self.scales, self.flip)
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            return logits.softmax(dim=1)[0].cpu().numpy()
        flips = (False, True) if self.flip else (False,)
        views = [(scale, flip) for scale in self.scales for flip in flips]
        total = torch.zeros((), device=self.device)
        for scale, flip in views:
            size = [max(1, round(side * scale)) for side in image.shape[2:]]
            view = F.interpolate(image, size, mode="bilinear", align_corners=False)
            logits = self._padded_logits(view.flip(3) if flip else view)
            logits = logits.flip(3) if flip else logits
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            total = total + logits.float().softmax(dim=1)
        return (total / len(views))[0].cpu().numpy()

    def final_scores(self, rgb: np.ndarray, keys: Sequence[int]) -> np.ndarray:
        """What the labels of an image follow from: the maker's scores after the training.

        The image is seen once, at its own size; scales, flips and sizes of `inference` are those of
        predictions.

        Args:
            rgb: (H, W, 3) uint8.
            keys: its classes, 0-based; without any it is background all over.

        Returns:
            (1 + K, H, W) float32 in [0, 1], background first.

        Raises:
            InputError: a maker's scores of another shape.
        """
        size = rgb.shape[:2]
        if not keys:
            return np.ones((1, *size), np.float32)
        scores = self.model.final_scores(rgb, keys).float().cpu().numpy()
        if scores.shape != (1 + len(keys), *size):
            wanted = (1 + len(keys), *size)
            raise InputError(
                f"online.method: final must return {wanted} scores; got {scores.shape}"
            )
        return scores

    def _padded_logits(self, view: torch.Tensor) -> torch.Tensor:
        """Logits of a view that is padded as `data_preprocessor.test_cfg` says, without its edge.

        Where there is none they are on the network's grid, else on the view's.
        """
        if not self.padding:
            return self._logits(view)
        sides = view.shape[2:]
        if (step := self.padding.get("size_divisor")) is not None:
            down, right = (-side % step for side in sides)
        else:
            wanted = self.padding["size"]
            down, right = (max(0, n - side) for n, side in zip(wanted, sides, strict=True))
        value = self.model.data_preprocessor.pad_val
        large = F.pad(view, (0, right, 0, down), value=value)
        logits = self._logits(large)
        logits = F.interpolate(logits, large.shape[2:], mode="bilinear", align_corners=False)
        return logits[..., : sides[0], : sides[1]]

    def _logits(self, view: torch.Tensor) -> torch.Tensor:
        test: Mapping = getattr(self.model, "test_cfg", None) or {}  # of MMSegmentation's models
        if test.get("mode") == "slide":
            return self.model.slide_inference(view, [{}])
        if isinstance(self.model.decode_head, torch.nn.ModuleList):  # each head sees the last one's
            return self.model.encode_decode(view, [{"img_shape": view.shape[2:]}])
        return self.model(view, mode="tensor")


def load_checkpoint(
    model: torch.nn.Module, checkpoint: str | Path, classes: list[str] | None, segmentor: str
) -> None:
    """Load a checkpoint of `train` into a model; it must fit in every tensor that is needed.

    Args:
        model: to load it into.
        checkpoint: of `train`.
        classes: that it must have been trained on, background first; None: any.
        segmentor: its file, for messages.

    Raises:
        InputError: it is missing, damaged, of other classes, or does not fit.
    """
    unneeded = getattr(model, "unneeded", ())
    state = {k: v for k, v in read_state(Path(checkpoint)).items() if not k.startswith(unneeded)}
    meta = torch.load(checkpoint, map_location="cpu", weights_only=True).get("meta")
    trained = json.loads(meta)["classes"] if isinstance(meta, str) else classes
    if classes is not None and trained is not None and trained != classes:
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
    inference: dict,
    checkpoint: str | Path,
    dataset_settings: dict,
    ids: Sequence[str],
    out: str | Path,
    threads: int = 1,
    device: str = "auto",
    workers: int = 1,
    texts: str | Path | None = None,
) -> None:
    """Label images.

    Args:
        entry: of the config's group `segmentation`.
        inference: of the config's group `inference`: as of `Predictor`, and refinement (as of
            masks, on the probabilities in float32) with settings under its name.
        checkpoint: from `train`.
        dataset_settings: the config's `dataset`.
        ids: the images.
        out: the archive, of kind predictions: 0 background, 1..C classes.
        threads: of torch.
        device: auto, cpu or cuda.
        workers: processes of the refinement; they change nothing but the time.
        texts: of a text head, as of `Predictor`.

    Raises:
        InputError: the checkpoint does not fit; the refinement is unknown; an image cannot be
            read and `on_bad_image` is fail.
    """
    torch.set_num_threads(threads)
    dataset = open_dataset(dataset_settings)
    classes = ["background", *dataset.vocabulary.classes]
    predictor = Predictor(entry, inference, checkpoint, classes, device, texts)

    def scored(rgb: np.ndarray, keys: Sequence[int]) -> np.ndarray:
        return predictor.probabilities(rgb)

    every = range(len(classes) - 1)
    _write(dataset, ids, lambda name: every, scored, inference, out, workers, "predicting")


def label(
    entry: dict,
    inference: dict,
    checkpoint: str | Path,
    dataset_settings: dict,
    ids: Sequence[str],
    out: str | Path,
    texts: str | Path | None = None,
    threads: int = 1,
    device: str = "auto",
    workers: int = 1,
) -> None:
    """Label images of known classes as a finished training that makes its labels itself would.

    Args:
        entry: as of `predict`, with `labels: online` and a maker that has `final`.
        inference: likewise; what counts is the refinement, here of the maker's scores.
        checkpoint: from `train`.
        dataset_settings: the config's `dataset`.
        ids: the images.
        out: the archive, of kind predictions: 0 background, 1..C classes of the image.
        texts: npz of ranked texts; None: those of the entry are encoded.
        threads: of torch.
        device: auto, cpu or cuda.
        workers: processes of the refinement; they change nothing but the time.

    Raises:
        InputError: as `predict`, and an image without labels.
    """
    torch.set_num_threads(threads)
    dataset = open_dataset(dataset_settings)
    classes = ["background", *dataset.vocabulary.classes]
    with TemporaryDirectory() as folder:
        if texts is None:
            texts = Path(folder) / "texts.npz"
            online_module("data").write_fixed_texts(entry["online"], use_device(device), texts)
        predictor = Predictor(entry, inference, checkpoint, classes, device, texts)
    scored = predictor.final_scores
    _write(dataset, ids, dataset.labels, scored, inference, out, workers, "labelling")


def _write(
    dataset: Dataset,
    ids: Sequence[str],
    keys_of: Callable[[str], Sequence[int]],
    scored: Callable[[np.ndarray, Sequence[int]], np.ndarray],
    inference: dict,
    out: str | Path,
    workers: int,
    title: str,
) -> None:
    """Write the archive of the labels that scores of some classes give after a refinement.

    Args:
        dataset: gives the images.
        ids: of the images.
        keys_of: an image's classes, 0-based, which are scored.
        scored: image (H, W, 3), keys -> (1 + K, H, W) float32 in [0, 1].
        inference: refinement, and settings under its name.
        out: the archive.
        workers: processes of the refinement.
        title: of the progress.
    """
    method("refinement", inference["refinement"])  # said before the first image
    refined = inference["refinement"] != "none"
    refine = partial(_refined, inference)

    def images(mapped: Callable) -> Iterator[EncodedImage]:
        part = 4 * workers  # images in memory
        for start in range(0, len(ids), part):
            read, skipped = _read(dataset, ids[start : start + part], keys_of)
            found: Iterable[tuple[str, Any]] = (
                (name, _fitting(scored, name, *one)) for name, one in read.items()
            )
            if refined:
                scores = dict(found)
                both = zip(*read.values(), strict=True)
                found = zip(scores, mapped(refine, scores, scores.values(), *both), strict=True)
            for name, one in found:
                if isinstance(one, TooLargeError):
                    skipped[name] = left_out(dataset, one)
                else:
                    yield encode_image(name, label_of(one, read[name][1]))
            yield from (EncodedImage(name, skipped=why) for name, why in skipped.items())

    with parallel_map(workers if refined else 1) as mapped:
        write_archive(out, PREDICTIONS, over_images(images(mapped), len(ids), title))


def label_of(scores: np.ndarray, keys: Sequence[int]) -> np.ndarray:
    """The label map (H, W) uint8 of scores (1 + K, H, W) of K classes; the first of equals wins."""
    return np.array([0, *(key + 1 for key in keys)], np.uint8)[scores.argmax(axis=0)]


def _fitting(
    scored: Callable[[np.ndarray, Sequence[int]], np.ndarray],
    name: str,
    rgb: np.ndarray,
    keys: Sequence[int],
) -> np.ndarray | TooLargeError:
    """The scores of an image, or that they do not fit into memory."""
    try:
        with fitting(f"{name}: its prediction", SMALLER):
            return scored(rgb, keys)
    except TooLargeError as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return error


def _refined(
    inference: dict,
    id_: str,
    scores: np.ndarray | TooLargeError,
    rgb: np.ndarray,
    keys: Sequence[int],
) -> np.ndarray | TooLargeError:
    """The scores of an image after the mask refinement of an entry of `inference`."""
    if isinstance(scores, TooLargeError):
        return scores
    try:
        with fitting(f"{id_}: the refinement of its prediction", SMALLER):
            refined = refined_by(inference, MaskContext(scores, rgb, keys, id_))
    except TooLargeError as error:
        return error
    check_scores(refined, scores, inference["refinement"])
    return refined


def _read(
    dataset: Dataset, names: Sequence[str], keys_of: Callable[[str], Sequence[int]]
) -> tuple[dict[str, tuple[np.ndarray, Sequence[int]]], dict[str, str]]:
    """Images that can be read with their classes, and why others cannot."""
    images, skipped = {}, {}
    for name in names:
        try:
            images[name] = dataset.image(name), keys_of(name)
        except InputError as error:
            skipped[name] = left_out(dataset, error)
    return images, skipped
