"""Images and image-level labels, as an MMSegmentation data set for labels made online."""

from pathlib import Path

import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import write_npz
from clip_wsss.data.bad_images import left_out
from clip_wsss.data.datasets import open_dataset
from clip_wsss.models.clip import load_for
from clip_wsss.prompts.texts import text_features
from clip_wsss.segmentation.data import PseudoMaskDataset, transformed


@DATASETS.register_module()
class ImageLabelDataset(PseudoMaskDataset):
    """The images of a split with their classes; sample k of a run as in `PseudoMaskDataset`.

    A sample enters the pipeline with `img` (H, W, 3) uint8 BGR and a label map `gt_seg_map` (H, W)
    uint8 of zeros, which transforms that pad fill with 255. Its data sample has the 0-based
    classes of the image as `class_keys` in the metainfo, and its place in the list as `number`.

    Args:
        settings: the `dataset` block of the config.
        split: a name or list of images; those without a class are left out, where
            `on_bad_image: skip` or `negatives: background` allow them.
        seed: of the order and of the transforms.
        pipeline: transforms; the last is PackSegInputs.

    Raises:
        InputError: an image without a class, or none left.
    """

    def __init__(self, settings: dict, split: str, seed: int, pipeline: list):
        self.images, self.split, self.seed = open_dataset(settings), split, seed
        self._epoch: tuple[int, np.ndarray] | None = None
        classes = ("background", *self.images.vocabulary.classes)
        BaseSegDataset.__init__(
            self, metainfo={"classes": classes}, pipeline=pipeline, serialize_data=False
        )

    def load_data_list(self) -> list[dict]:
        """One entry an image."""
        found = []
        for name in self.images.ids(self.split):
            try:
                if keys := self.images.labels(name):
                    found.append({"id": name, "keys": keys})
            except InputError as error:
                left_out(self.images, error)
        if not found:
            raise InputError(f"split {self.split}: no image has a class; add image-level labels")
        return found

    def prepare_data(self, idx: int) -> dict:
        """Image number `idx` of the list, through the pipeline."""
        info = self.get_data_info(idx)
        image = self.images.image(info["id"])
        label = np.zeros(image.shape[:2], np.uint8)
        classes = len(self.metainfo["classes"])
        sample = transformed(self.pipeline, info["id"], image, label, classes)
        sample["data_samples"].set_metainfo({"class_keys": info["keys"], "number": idx})
        return sample


def write_fixed_texts(row: dict, device: str, out: Path) -> None:
    """Write the features of texts with a fixed template: foreground and background, as ranked ones.

    Args:
        row: clip (of `load_clip`, with precision and position_embedding) and texts (of
            `text_features`).
        device: of the encoding.
        out: npz.
    """
    clip = load_for(row["clip"], row["clip"], device)
    foreground, background = text_features(clip, **row["texts"])
    write_npz(out, {"foreground": foreground.numpy(), "background": background.numpy()})
