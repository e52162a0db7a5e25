"""Images with their pseudo masks, as an MMSegmentation data set.

Sample number k of a run is the same whatever the number of workers and wherever the run was
interrupted: its image and its random crop follow from the seed and k alone.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import RandomCrop
from mmseg.registry import DATASETS, TRANSFORMS
from torch.utils.data import Sampler

from clip_wsss.core.archives import Archives
from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.memory import out_of_memory
from clip_wsss.data.datasets import open_dataset
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.segmentation.losses import pack


def read_masks(archives: Sequence[str]) -> Archives:
    """Open the archives of the pseudo masks to train on.

    Raises:
        InputError: an archive cannot be used or holds predictions, an image that two of them
            hold, or no mask at all.
    """
    masks = Archives(archives)
    for archive in dict.fromkeys(masks.values()):
        if archive.kind != "masks":
            raise InputError(f"{archive.path}: holds {archive.kind}; train on masks")
    if not masks:
        raise InputError(f"{', '.join(map(str, archives))}: no pseudo mask to train on")
    return masks


@DATASETS.register_module()
class PseudoMaskDataset(BaseSegDataset):
    """The images of a data set with the labels and confidences of archives of masks.

    A sample enters the pipeline with `img` (H, W, 3) uint8 BGR, as MMSegmentation's transforms
    expect, and `gt_seg_map` (H, W) int32, labels and confidences packed.

    Args:
        settings: the `dataset` block of the config.
        archives: paths of the masks.
        seed: of the order and of the transforms.
        pipeline: transforms.
        ignored: values of the masks that are read as 255; images without another label are
            dropped.

    Attributes:
        dropped: how many these are.

    Raises:
        InputError: as `read_masks`, or no image has a label left; later, where a mask is damaged
            or does not fit its image or the classes.
    """

    def __init__(
        self,
        settings: dict,
        archives: list[str],
        seed: int,
        pipeline: list,
        ignored: Sequence[int] = (),
    ):
        self.images, self.masks, self.seed = open_dataset(settings), read_masks(archives), seed
        self.ignored, self.dropped = list(ignored), 0
        self._epoch: tuple[int, np.ndarray] | None = None
        classes = ("background", *self.images.vocabulary.classes)
        super().__init__(metainfo={"classes": classes}, pipeline=pipeline, serialize_data=False)

    def load_data_list(self) -> list[dict]:
        """One entry an image, in the order of the archives; those without a class if asked."""
        settings, names = self.images.settings, list(self.masks)
        if settings.get("negatives") == "background" and not settings["train_negatives"]:
            names = [name for name in names if self.images.labels(name)]
        if not names:
            raise InputError("dataset.train_negatives: false, and no image has a class; set it")
        if self.ignored:
            there = len(names)
            names = [name for name in names if (self._label(name) != IGNORE).any()]
            self.dropped = there - len(names)
            if not names:
                raise InputError(
                    "segmentation: no image has a pixel of a class that is seen; name fewer "
                    "classes in dataset.unseen"
                )
        return [{"id": name} for name in names]

    def _label(self, name: str) -> np.ndarray:
        """The mask of an image, with 255 for what is ignored."""
        mask = self.masks[name].label(name)
        return np.where(np.isin(mask, self.ignored), np.uint8(IGNORE), mask)

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._epoch = epoch, rng.permutation(len(self))
        return self._epoch[1]

    def __getitem__(self, number: int) -> dict:
        """Sample `number` of the run, which may go over the images any number of times."""
        epoch, place = divmod(number, len(self))
        seed_transforms(self.seed, number)
        return self.prepare_data(int(self._order(epoch)[place]))

    def prepare_data(self, idx: int) -> dict:
        """Image number `idx` of the list, through the pipeline."""
        name = self.get_data_info(idx)["id"]
        image, archive = self.images.image(name), self.masks[name]
        mask = self._label(name)
        if mask.shape != image.shape[:2]:
            raise InputError(
                f"{archive.path}: {name} is {mask.shape[1]} x {mask.shape[0]}, but its image is "
                f"{image.shape[1]} x {image.shape[0]} (width x height); make the masks again"
            )
        classes = len(self.metainfo["classes"])
        if (values := mask[(mask >= classes) & (mask != IGNORE)]).size:
            raise InputError(
                f"{archive.path}: {name} holds the value {values[0]}, but there are {classes} "
                "classes; make the masks again"
            )
        return transformed(self.pipeline, name, image, pack(mask, archive.codes(name)), classes)


def transformed(
    pipeline: Callable, name: str, image: np.ndarray, label: np.ndarray, classes: int
) -> dict:
    """Put an image and its labels through the transforms of a training.

    Args:
        pipeline: of MMEngine; what its last transform, PackSegInputs, packs is checked.
        name: of the image, for messages.
        image: (H, W, 3) uint8 RGB.
        label: (H, W) integer from `pack`, or labels alone.
        classes: foreground classes and background.

    Raises:
        InputError: a transform fails, makes labels that are no classes, or leaves them in another
            size than the image's.
    """
    try:
        sample = pipeline(
            {
                "img": np.ascontiguousarray(image[..., ::-1]),
                "img_path": name,
                "img_shape": image.shape[:2],
                "ori_shape": image.shape[:2],
                "gt_seg_map": label,
                "seg_fields": ["gt_seg_map"],
            }
        )
        packed = sample.get("data_samples")
        labels = None if packed is None else packed.gt_sem_seg.data
    except Exception as error:  # transforms assert, and raise what cv2 and numpy raise
        if out_of_memory(error):
            raise
        raise InputError(
            f"{name}: does not go through the segmentor's train_pipeline ({one_line(error)}); "
            "correct its transforms"
        ) from None
    if labels is None:
        return sample
    sizes = [tuple(one.shape[:-3:-1]) for one in (sample["inputs"], labels)]
    if sizes[0] != sizes[1]:
        image_, label_ = (f"{width} x {height}" for width, height in sizes)
        raise InputError(
            f"{name}: the segmentor's train_pipeline makes an image of {image_} with labels of "
            f"{label_}; let its transforms change both"
        )
    values = labels & 0xFF
    if (wrong := values[(values >= classes) & (values != IGNORE)]).numel():
        raise InputError(
            f"{name}: the segmentor's train_pipeline makes the label {wrong[0]} of the {classes} "
            "classes'; let its transforms fill with 255"
        )
    return sample


@DATA_SAMPLERS.register_module()
class CountingSampler(Sampler):
    """Sample numbers without end; `PseudoMaskDataset` makes samples of them.

    Args:
        dataset: what is sampled.
        whole: size of the batches that each rank has for itself, every so many; 0: ranks share
            each batch, rank, rank + ranks, ....
        seed: not used: the data set holds it.
    """

    def __init__(self, dataset, whole: int = 0, seed: int | None = None):
        self.size, self.whole = len(dataset), whole
        self.start = 0  # samples of this rank that were used before

    def __iter__(self) -> Iterator[int]:
        rank, ranks = get_dist_info()
        for own in itertools.count(self.start):
            if self.whole:
                batch, place = divmod(own, self.whole)
                yield (batch * ranks + rank) * self.whole + place
            else:
                yield own * ranks + rank

    def __len__(self) -> int:
        return self.size


@TRANSFORMS.register_module(name="RandomCrop", force=True)
class LabelCrop(RandomCrop):
    """MMSegmentation's RandomCrop, whose `cat_max_ratio` looks at the labels of a packed map."""

    def crop_bbox(self, results: dict) -> tuple[int, int, int, int]:
        """The place of the crop: top, bottom, left, right."""
        return super().crop_bbox({**results, "gt_seg_map": results["gt_seg_map"] & 0xFF})


@TRANSFORMS.register_module()
class RandomScale(BaseTransform):
    """Resizes image (bilinear) and labels (nearest) by one of a list of factors.

    Args:
        factors: to choose from, above 0.
    """

    def __init__(self, factors: list[float]):
        if not factors or not min(factors) > 0:
            raise ValueError(f"factors must be numbers above 0; got {factors}")
        self.factors = factors

    def transform(self, results: dict) -> dict:
        """See the class."""
        factor = np.random.choice(self.factors)  # noqa: NPY002 - seeded by the data set
        height, width = results["img"].shape[:2]
        size = max(1, int(width * factor)), max(1, int(height * factor))
        results["img"] = cv2.resize(results["img"], size, interpolation=cv2.INTER_LINEAR)
        results["gt_seg_map"] = cv2.resize(
            results["gt_seg_map"], size, interpolation=cv2.INTER_NEAREST_EXACT
        )
        results["img_shape"] = results["img"].shape[:2]
        return results


def seed_transforms(seed: int, number: int) -> None:
    """Seed what MMCV's transforms draw from, the global generators, for one sample."""
    state = np.random.SeedSequence((seed, number)).generate_state(2)
    np.random.seed(state[0])  # noqa: NPY002
    random.seed(int(state[1]))


def seed_batch(seed: int, number: int) -> None:
    """Seed torch for one batch of a training (dropout and the like)."""
    state = np.random.SeedSequence((seed, number, 0)).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))
