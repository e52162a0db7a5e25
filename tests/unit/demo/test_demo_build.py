"""The demo as a VOC folder."""

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_wsss.data.datasets import open_dataset
from clip_wsss.demo.build import build
from clip_wsss.demo.scenes import CLASSES

VOCABULARY = Path(__file__).parents[3] / "config/vocabularies/voc12.yaml"
SETTINGS = {"seed": 1, "train": 40, "val": 20}


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    build(folder, SETTINGS)
    return folder


def test_two_builds_are_the_same_bytes(root, tmp_path):
    build(tmp_path, {"seed": 1, "train": 45, "val": 20})
    build(tmp_path, SETTINGS)  # over a larger one, of which nothing may stay
    assert digests(tmp_path) == digests(root)


def test_another_seed_gives_other_scenes(root, tmp_path):
    build(tmp_path, {**SETTINGS, "seed": 2})
    name = "JPEGImages/demo_val_0001.jpg"
    assert digests(tmp_path)[name] != digests(root)[name]


def test_the_data_set_reader_finds_nothing_wrong(root):
    dataset = open_dataset(
        {
            "name": "demo",
            "source": "demo",
            "root": str(root),
            "vocabulary": str(VOCABULARY),
            "labels": "xml",
            "size": "xml",
            "masks": "SegmentationClass",
        }
    )
    for split in ("train", "val"):
        assert len(dataset.ids(split)) == SETTINGS[split]
        assert dataset.check(split, need_masks=True) == []


def test_labels_boxes_and_masks_agree(root):
    present = set()
    for path in sorted((root / "Annotations").glob("*.xml")):
        annotation = ET.parse(path).getroot()
        mask = np.asarray(Image.open(root / "SegmentationClass" / f"{path.stem}.png"))
        size = [int(annotation.findtext(f"size/{key}")) for key in ("width", "height")]
        assert [*mask.shape[::-1]] == size
        names = [element.findtext("name") for element in annotation.iter("object")]
        shown = set(np.unique(mask).tolist()) - {0, 255}
        assert {CLASSES.index(name) + 1 for name in names} == shown
        assert (mask == 255).any()
        outside = mask.copy()
        for element in annotation.iter("object"):
            x0, y0, x1, y1 = (
                int(element.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
            )
            label = CLASSES.index(element.findtext("name")) + 1
            window = outside[y0 - 1 : y1, x0 - 1 : x1]
            window[window == label] = 0
        assert set(np.unique(outside).tolist()) <= {0, 255}
        present |= set(names)
    assert present == set(CLASSES)


def test_the_border_is_thin_and_touches_an_object(root):
    for path in sorted((root / "SegmentationClass").glob("*.png"))[:20]:
        mask = np.asarray(Image.open(path)).astype(int)
        inside = np.pad((mask > 0) & (mask < 255), 1)
        near = inside[:-2, 1:-1] | inside[2:, 1:-1] | inside[1:-1, :-2] | inside[1:-1, 2:]
        border = mask == 255
        assert (border & ~near).sum() <= 0.002 * mask.size  # a border on a border, at most
        assert border.mean() < 0.15


def test_the_artwork_is_credited(root):
    notice = (root / "LICENSE.txt").read_text()
    assert "Twemoji" in notice
    assert "CC-BY 4.0" in notice
