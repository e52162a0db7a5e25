"""A tiny data set with pseudo masks, and a segmentor that trains on it in a moment."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from clip_wsss.core.archives import EncodedImage, encode_image, write_archive
from clip_wsss.core.confidence import encode

SEGMENTORS = Path(__file__).parents[1] / "config" / "segmentors"
CLASSES = ["background", "cat", "dog"]


class Case:
    """Images of one coloured square each, their masks with random confidences, and settings.

    Attributes:
        dataset: a `dataset` block.
        masks: the archive of the masks.
        labels: (H, W) uint8 by id; codes: of the confidences, the same.
        entry: a `segmentation` entry of 6 updates with a small DeepLabV2.
        inference: an `inference` entry.
    """

    def __init__(self, root: Path, images: int = 5, size: tuple[int, int] = (40, 48)):
        self.root, self.masks = root, root / "masks.zip"
        rng = np.random.default_rng(0)
        (root / "data/JPEGImages").mkdir(parents=True)
        (root / "data/ImageSets/Segmentation").mkdir(parents=True)
        vocabulary = {"classes": CLASSES[1:], "names": {}, "backgrounds": {}}
        (root / "vocabulary.yaml").write_text(yaml.safe_dump(vocabulary))
        self.ids = [f"image{i}" for i in range(images)]
        (root / "data/ImageSets/Segmentation/val.txt").write_text("\n".join(self.ids) + "\n")
        self.labels, self.codes = {}, {}
        for number, name in enumerate(self.ids):
            rgb = rng.integers(0, 90, (*size, 3)).astype(np.uint8)
            label = np.zeros(size, dtype=np.uint8)
            y, x = rng.integers(2, 12, 2)
            label[y : y + 20, x : x + 20] = 1 + number % 2
            rgb[label > 0, number % 2] = 220
            Image.fromarray(rgb).save(root / f"data/JPEGImages/{name}.png")
            self.labels[name], self.codes[name] = label, encode(rng.uniform(0.8, 1, size))
        self.write_masks()
        self.dataset = {
            "name": "tiny",
            "source": "folder",
            "root": str(root / "data"),
            "vocabulary": str(root / "vocabulary.yaml"),
            "labels": "xml",
            "size": "image",
            "masks": None,
            "on_bad_image": "fail",
        }
        self.entry = {
            "segmentor": str(self.segmentor()),
            "loss": "confidence-guided",
            "mu": 0.9,
            "iterations": 6,
            "precision": "float32",
            "init": None,
        }
        self.inference = {"scales": [1.0], "flip": False, "refinement": "none"}

    def write_masks(self, kind: str = "masks", **skipped: str) -> None:
        """Write the archive; `skipped` gives reasons by id."""
        write_archive(
            self.masks,
            kind,
            [
                EncodedImage(name, skipped=skipped[name])
                if name in skipped
                else encode_image(name, self.labels[name], self.codes[name])
                for name in self.ids
            ],
        )

    def segmentor(self, **changes) -> Path:
        """A ResNet-18 of 8 channels with dropout, 32 px crops, a checkpoint every 2 updates."""
        content = yaml.safe_load((SEGMENTORS / "deeplabv2-r18.yaml").read_text())
        content["model"]["data_preprocessor"]["size"] = [32, 32]
        content["model"]["backbone"] |= {"base_channels": 8, "stem_channels": 8}
        content["model"]["decode_head"] = {
            "type": "FCNHead",
            "in_channels": 64,
            "in_index": 0,
            "channels": 8,
            "num_convs": 1,
            "dropout_ratio": 0.5,
        }
        content["train_pipeline"][1]["crop_size"] = 32
        content["train_dataloader"] = {"batch_size": 2}
        content["optim_wrapper"] |= {"accumulative_counts": 2, "paramwise_cfg": {}}
        content["checkpoint_interval"] = 2
        path = self.root / "segmentor.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path
