"""CAMs of a shard of images: the targets, and the job that makes all maps of a pass.

Torch is imported only by the job, so that whoever reads the targets' names does without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import ImageMaps, load_npz, write_maps

if TYPE_CHECKING:
    from torch import Tensor

    from clip_wsss.data.datasets import Dataset
    from clip_wsss.models.frozen_clip import FrozenClip

READERS = 2  # threads that decode the images of the next batches


def softmax(logits: Tensor, position: int, classes: int) -> Tensor:
    """The probability of the class among present classes and background words."""
    return logits.softmax(dim=-1)[:, position]


def logit(logits: Tensor, position: int, classes: int) -> Tensor:
    """The class's logit itself: plain GradCAM."""
    return logits[:, position]


# fn(logits (B, K + M) float32: the K classes present in an image, then the M background words,
#    position of the class in 0..K-1, K) -> (B,) what GradCAM differentiates.
TARGETS: dict[str, Callable[[Tensor, int, int], Tensor]] = {"softmax": softmax, "logit": logit}


@dataclass(frozen=True)
class CamVariant:
    """What makes some initial maps, and the affinities that refine them.

    Attributes:
        texts: name of the texts that are scored.
        target: name of one of `TARGETS`.
        affinities: output name -> `method`, the name of one of `AFFINITIES`,
            and that method's settings.
    """

    texts: str
    target: str
    affinities: Mapping[str, dict] = field(default_factory=dict)


def write_pass(
    dataset: Dataset,
    ids: Sequence[str],
    clip: FrozenClip,
    texts: Mapping[str, tuple[Tensor, Tensor]],
    cams: Mapping[str, CamVariant],
    outputs: Mapping[str, Path],
    batch: int = 16,
    on_bad_image: str = "fail",
) -> None:
    """Write the maps of a shard of images, those of all variants from one pass over the images.

    Args:
        dataset: gives images, sizes and labels.
        ids: the images of the shard; the files keep their order.
        clip: loaded with the precision, rounding and position embedding of the cams.
        texts: name of texts -> features of the classes (C, E) and the background words (M, E).
        cams: output name -> variant.
        outputs: output name -> npz of `clip_wsss.core.maps`; a map that has none is not written. A
            file's bytes do not depend on the others that are written with it.
        batch: most images in one pass; fewer where their attention would not fit.
        on_bad_image: `fail`, or `skip`, which leaves a bad image out and lists it with its reason.

    Raises:
        InputError: a bad image (with `fail`), or an unknown target or affinity.
    """
    found, skipped = {}, {}
    results = compute_pass(dataset, ids, clip, texts, cams, batch, on_bad_image)
    for id_, result in tqdm(results, total=len(ids), desc="maps", unit="image", disable=None):
        (skipped if isinstance(result, str) else found)[id_] = result
    reasons = {id_: skipped[id_] for id_ in ids if id_ in skipped}
    for name, path in outputs.items():
        write_maps(path, [found[id_][name] for id_ in ids if id_ in found], reasons)


def read_text_features(path: Path, clip: FrozenClip) -> tuple[Tensor, Tensor]:
    """Features of the classes (C, E) and of the background words (M, E), float32.

    Raises:
        InputError: the file cannot be read, or its features have another width than the model's.
    """
    import torch

    texts, width = load_npz(path), clip.visual.proj.shape[1]
    if texts["foreground"].shape[1] != width:
        raise InputError(
            f"{path}: features of width {texts['foreground'].shape[1]}, the model's is {width}; "
            "make the texts with the same model"
        )
    return torch.from_numpy(texts["foreground"]), torch.from_numpy(texts["background"])


def compute_pass(
    dataset: Dataset,
    ids: Sequence[str],
    clip: FrozenClip,
    texts: Mapping[str, tuple[Tensor, Tensor]],
    cams: Mapping[str, CamVariant],
    batch: int = 16,
    on_bad_image: str = "fail",
) -> Iterator[tuple[str, dict[str, ImageMaps] | str]]:
    """Yield (id, its maps by output name or why it was skipped), grid by grid.

    See `write_pass`.
    """
    import torch

    from clip_wsss.affinities.caa import AFFINITIES
    from clip_wsss.cams.gradcam import WantedCam, class_maps, fitting_batch
    from clip_wsss.core.registry import lookup

    wanted = {
        name: WantedCam(
            cam.texts,
            lookup(TARGETS, cam.target, "target"),
            {
                output: (lookup(AFFINITIES, settings["method"], "affinity"), settings)
                for output, settings in cam.affinities.items()
            },
        )
        for name, cam in cams.items()
    }
    background = {name: words for name, (_, words) in texts.items()}
    groups: dict[tuple[int, int], list[tuple[str, list[int]]]] = {}
    for id_ in ids:
        try:
            grid, keys = clip.grid(dataset.size(id_)), dataset.labels(id_)
            if not keys:  # allowed by `dataset.negatives`: no map, and the mask is background
                empty = ImageMaps(
                    id_, dataset.size(id_), np.zeros(0, np.int64), np.zeros((0, *grid), np.float32)
                )
                outputs = (name for cam in cams.values() for name in cam.affinities)
                yield id_, dict.fromkeys((*cams, *outputs), empty)
                continue
            groups.setdefault(grid, []).append((id_, keys))
        except InputError as error:
            yield _skip(id_, error, on_bad_image)

    def read(item: tuple[str, list[int]]):
        id_, keys = item
        try:
            rgb = dataset.image(id_)
        except InputError as error:
            return id_, keys, None, error
        return id_, keys, rgb.shape[:2], clip.preprocess(rgb)

    parts = []
    for grid, members in sorted(groups.items()):
        step = fitting_batch(clip, grid, batch)
        parts += [members[i : i + step] for i in range(0, len(members), step)]
    with ThreadPoolExecutor(READERS) as pool:
        pending = [pool.map(read, part) for part in parts[:1]]
        for index in range(len(parts)):
            if index + 1 < len(parts):  # decoded while this batch is computed
                pending.append(pool.map(read, parts[index + 1]))
            good = []
            for id_, keys, size, image in pending.pop(0):
                if size is None:
                    yield _skip(id_, image, on_bad_image)
                else:
                    good.append((id_, keys, size, image))
            if not good:
                continue
            results = class_maps(
                clip,
                torch.stack([image for *_, image in good]),
                {
                    name: [classes[keys] for _, keys, *_ in good]
                    for name, (classes, _) in texts.items()
                },
                background,
                wanted,
            )
            for (id_, labels, size, _), maps in zip(good, results, strict=True):
                keys = np.array(labels, dtype=np.int64)
                yield (
                    id_,
                    {
                        name: ImageMaps(id_, tuple(size), keys, own.cpu().numpy())
                        for name, own in maps.items()
                    },
                )


def _skip(id_: str, error: InputError, on_bad_image: str) -> tuple[str, str]:
    if on_bad_image != "skip":
        raise error
    return id_, str(error)
