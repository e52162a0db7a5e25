import csv
import json
import shutil

import numpy as np
import pytest
import stand_ins
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle
from stand_ins import HEIGHT, WIDTH, coco_object, square, write_archive

from clip_wsss.acquire import coco
from clip_wsss.acquire.download import acquire
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import read_label
from clip_wsss.data.coco import AnnotatedImage, Instance, decode_region, rasterise, read_pictures
from clip_wsss.data.datasets import open_dataset
from clip_wsss.data.vocabulary import read_vocabulary

VOCABULARY = "config/vocabularies/coco14.yaml"
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning:pycocotools")


def picture(*instances):
    return AnnotatedImage("a.jpg", HEIGHT, WIDTH, tuple(instances))


def filled(*boxes):
    """A mask of (value, x, y, side) squares, the later ones over the earlier ones."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for value, x, y, side in boxes:
        mask[y : y + side, x : x + side] = value
    return mask


def test_polygon_covers_its_pixels():
    region = decode_region([square(3, 5, 10)], HEIGHT, WIDTH)
    assert np.array_equal(region, filled((1, 3, 5, 10)).astype(bool))
    both = decode_region([square(3, 5, 4), square(20, 10, 5)], HEIGHT, WIDTH)
    assert np.array_equal(both, filled((1, 3, 5, 4), (1, 20, 10, 5)).astype(bool))


def test_polygon_of_two_points_covers_nothing():
    assert not decode_region([[1.0, 1.0, 9.0, 9.0]], HEIGHT, WIDTH).any()
    assert not decode_region([], HEIGHT, WIDTH).any()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e9, -1e9, 2**62])
def test_a_number_that_pycocotools_would_crash_on_is_refused(number):
    with pytest.raises(ValueError, match="finite numbers near the image of 24 x 32"):
        decode_region([np.array([number, 1, 20, 1, 20, 18])], HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ([[1, 1], [9, 1], [9, 9]], "one list for each point"),
        ([[[1, 1], [9, 1], [9, 9]]], "must be lists of numbers"),
        ([["1", "1", "9", "1", "9", "9"]], "must be lists of numbers"),
        ("1 1 9 1 9 9", "must be lists of numbers"),
        ([[1, 1, 9, 1, 9, 9, 5]], "must be lists of numbers"),
        ([[40, 1, 50, 1, 50, 9]], "outside of the image"),
        ({"counts": [5, 7], "size": [HEIGHT, WIDTH]}, "must add up to the 768 pixels"),
        ({"counts": [-1, 769], "size": [HEIGHT, WIDTH]}, "must add up"),
        ({"counts": [768.0], "size": [HEIGHT, WIDTH]}, "must add up"),
        ({"counts": "04L", "size": [HEIGHT, WIDTH]}, "must add up"),
        ({"counts": "P", "size": [HEIGHT, WIDTH]}, "in the middle of a number"),
    ],
)
def test_regions_that_draw_nothing_or_too_much_are_refused(region, message):
    with pytest.raises(ValueError, match=message):
        decode_region(region, HEIGHT, WIDTH)


def test_a_polygon_may_leave_the_image():
    box = [[-3.0, -2.5, WIDTH + 4.0, -2.5, WIDTH + 4.0, HEIGHT + 3.5, -3.0, HEIGHT + 3.5]]
    assert decode_region(box, HEIGHT, WIDTH).all()


def slow_counts(mask):
    """Uncompressed RLE, pixel by pixel, down the columns."""
    counts, last = [0], 0
    for value in mask.T.ravel():
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40)
def test_both_kinds_of_rle(seed, height, width):
    mask = np.random.default_rng(seed).integers(0, 2, (height, width), dtype=np.uint8)
    plain = {"counts": [int(n) for n in slow_counts(mask)], "size": [height, width]}
    packed = rle.encode(np.asfortranarray(mask))
    text = {"counts": packed["counts"].decode(), "size": packed["size"]}
    for region in (plain, packed, text):
        assert np.array_equal(decode_region(region, height, width), mask.astype(bool))


def test_smaller_lies_over_larger_whatever_the_order():
    large = Instance(0, False, [square(2, 2, 16)], 1)
    small = Instance(4, False, [square(6, 6, 5)], 2)
    expected = filled((1, 2, 2, 16), (5, 6, 6, 5))
    for instances in ((large, small), (small, large)):
        assert np.array_equal(rasterise(picture(*instances)), expected)


def test_crowd_is_ignored_below_every_instance():
    crowd = Instance(0, True, [square(0, 0, 4)], 1)
    large = Instance(2, False, [square(2, 2, 16)], 2)
    expected = filled((255, 0, 0, 4), (3, 2, 2, 16))
    for instances in ((crowd, large), (large, crowd)):
        assert np.array_equal(rasterise(picture(*instances)), expected)


def test_equal_sizes_go_by_their_id():
    first = Instance(0, False, [square(2, 2, 6)], 1)
    second = Instance(1, False, [square(4, 4, 6)], 2)
    expected = filled((2, 4, 4, 6), (1, 2, 2, 6))
    for instances in ((first, second), (second, first)):
        assert np.array_equal(rasterise(picture(*instances)), expected)


def read(annotations, images=None, categories=stand_ins.COCO_CATEGORIES):
    images = images or [{"id": 1, "file_name": "b.jpg", "height": HEIGHT, "width": WIDTH}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    return read_pictures(json.dumps(data).encode(), read_vocabulary(VOCABULARY).classes, "x.json")


def test_categories_become_the_vocabularys_classes():
    found = read([coco_object(7, 1, 18, [square(1, 1, 4)]), coco_object(8, 1, 3, [], crowd=1)])
    assert [(item.label, item.crowd, item.id) for item in found[0].instances] == [
        (16, False, 7),
        (2, True, 8),
    ]
    assert found[0].id == "b"


def test_strange_json():
    with pytest.raises(InputError, match=r"x\.json: not a COCO instances file"):
        read_pictures(b"[1", (), "x.json")
    with pytest.raises(InputError, match=r"x\.json: not a COCO instances file"):
        read_pictures(b'{"images": []}', (), "x.json")


class Coco:
    def __init__(self, folder, kind):
        self.folder, self.kind, self.root = folder, kind, folder / "data" / "coco14"
        self.settings = {"registry": "config/sources.yaml", "verify_splits": False, "replace": {}}
        self.files = stand_ins.coco_files()
        self.labels = self.root / "labels.csv"

    def build(self, workers=1):
        receipts = {}
        for name, files in self.files.items():
            path = self.folder / f"{name}{self.kind}"
            write_archive(path, files)
            self.settings["replace"][name] = {"path": str(path), "md5": None}
            receipts[name] = self.root / "archives" / f"{name}.json"
            acquire(name, self.settings, receipts[name])
        coco.build(self.root, receipts, self.settings, VOCABULARY, self.labels, workers)


@pytest.mark.parametrize("kind", [".zip", ""])
def test_coco_in_voc_layout(tmp_path, kind):
    made = Coco(tmp_path, kind)
    made.build(workers=2)
    lists = made.root / "ImageSets" / "Segmentation"
    train = [f"COCO_train2014_{number:012d}" for number in (9, 25, 30)]  # 64 has no object
    assert (lists / "train.txt").read_text().split() == train
    assert (lists / "val.txt").read_text().split() == ["COCO_val2014_000000000042"]
    expected = filled((17, 2, 2, 16), (1, 3, 3, 12))  # a person over a dog
    assert np.array_equal(read_label(made.root / "SegmentationClass" / f"{train[0]}.png"), expected)
    assert len(list((made.root / "JPEGImages").iterdir())) == 4
    with made.labels.open() as file:
        rows = list(csv.reader(file))
    assert rows[:2] == [["image", "labels"], [train[0], "person;dog"]]
    dataset = open_dataset(
        {
            "name": "coco14",
            "source": "coco14",
            "root": str(made.root),
            "vocabulary": VOCABULARY,
            "labels": str(made.labels),
            "size": "image",
            "masks": "SegmentationClass",
        }
    )
    assert dataset.check("train", need_masks=True) == dataset.check("val", need_masks=True) == []
    assert dataset.labels(train[0]) == [0, 16]


def test_coco_2017_has_another_layout(tmp_path):
    def renamed(text):
        text = text.replace("COCO_train2014_", "").replace("COCO_val2014_", "")
        return text.replace("train2014", "train2017").replace("val2014", "val2017")

    made = Coco(tmp_path, "")
    for source, files in made.files.items():
        made.files[source] = {
            renamed(name): renamed(data.decode()).encode() if name.endswith("json") else data
            for name, data in files.items()
        }
    made.build()
    lists = made.root / "ImageSets" / "Segmentation"
    assert (lists / "train.txt").read_text().split() == [
        "000000000009",
        "000000000025",
        "000000000030",
    ]
    assert (lists / "val.txt").read_text().split() == ["000000000042"]
    assert len(list((made.root / "JPEGImages").iterdir())) == 4
    made.files["coco2014-annotations"] = {"readme.txt": b""}
    shutil.rmtree(tmp_path / "coco2014-annotations")
    with pytest.raises(InputError, match=r"holds 0 files called instances_train2017\.json"):
        made.build()


def test_interrupted_build_keeps_what_is_done(tmp_path, monkeypatch):
    made = Coco(tmp_path, ".zip")
    write_chunk = coco._write_chunk
    monkeypatch.setattr(coco, "CHUNK", 1)
    calls = []

    def dies(chunk):
        calls.append(chunk)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write_chunk(chunk)

    monkeypatch.setattr(coco, "_write_chunk", dies)
    with pytest.raises(KeyboardInterrupt):
        made.build()
    kept = {path: path.stat().st_mtime_ns for path in made.root.rglob("*.png")}
    assert len(kept) == 2
    assert not made.labels.exists()
    monkeypatch.setattr(coco, "_write_chunk", write_chunk)
    made.build()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(made.root.rglob("*.png"))) == 4


def test_missing_image_and_unofficial_list(tmp_path):
    made = Coco(tmp_path, ".zip")
    del made.files["coco2014-val"]["val2014/COCO_val2014_000000000042.jpg"]
    with pytest.raises(InputError, match=r"has no COCO_val2014_000000000042\.jpg \(1 of 1"):
        made.build()
    made.settings["verify_splits"] = True
    with pytest.raises(InputError, match="coco14, split train: the 3 ids found are not"):
        made.build()


def test_vocabulary_is_cocos():
    vocabulary = read_vocabulary(VOCABULARY)
    assert len(vocabulary.classes) == 80
    assert vocabulary.classes[:3] == ("person", "bicycle", "car")
    assert vocabulary.classes[79] == "toothbrush"
    voc = read_vocabulary("config/vocabularies/voc12.yaml")
    background = set(voc.backgrounds["clip-es"]) - {"keyboard", "sign"}
    assert set(vocabulary.backgrounds["clip-es"]) == background
    renamed = vocabulary.names["clip-es"]
    assert {renamed["tv"], renamed["couch"], renamed["tie"], renamed["snowboard"]} == {
        "tvmonitor screen",
        "sofa",
        "necktie",
        "sknowboard",
    }
