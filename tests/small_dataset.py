"""Three small images of two classes with ground truth, as a fixture."""

import numpy as np
import pytest
from PIL import Image

from clip_wsss.core.images import write_label
from clip_wsss.data.datasets import open_dataset

NAMES = ["b", "a", "c"]
SIZE = (20, 30)


@pytest.fixture
def dataset(tmp_path):
    """Three images of two classes with ground truth."""
    root = tmp_path / "data"
    (root / "JPEGImages").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        truth = rng.choice([0, 1, 2, 255], SIZE).astype(np.uint8)
        write_label(root / f"SegmentationClass/{name}.png", truth)
    words = tmp_path / "vocabulary.yaml"
    words.write_text("{classes: [cat, dog], names: {plain: {}}, backgrounds: {none: [wall]}}")
    return open_dataset(
        {
            "name": "toy",
            "source": "folder",
            "root": str(root),
            "vocabulary": str(words),
            "labels": "labels.csv",
            "size": "image",
            "masks": "SegmentationClass",
        }
    )
