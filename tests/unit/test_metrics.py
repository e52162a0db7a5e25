import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clip_wsss.cam import ImageCams, write_cams
from clip_wsss.confusion import miou
from clip_wsss.datasets import open_dataset
from clip_wsss.errors import InputError
from clip_wsss.imageio import write_confidence, write_label
from clip_wsss.masks import labels_and_confidence
from clip_wsss.measurements import read_counts
from clip_wsss.metrics import evaluate_cams, evaluate_labels

POWERS = [1, 2, 4]
META = {"split": "train", "precision": "float32"}
NAMES = ["a", "b", "c"]


@pytest.fixture
def settings(tmp_path):
    """The settings of a data set of three images with two classes."""
    root = tmp_path / "data"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(NAMES))
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        truth = rng.integers(0, 3, (4, 6)).astype(np.uint8).repeat(5, axis=0).repeat(5, axis=1)
        truth[0] = 255
        write_label(root / f"SegmentationClass/{name}.png", truth)
    words = tmp_path / "vocabulary.yaml"
    words.write_text("{classes: [cat, dog], names: {plain: {}}, backgrounds: {none: [wall]}}")
    return {
        "name": "toy",
        "source": "folder",
        "root": str(root),
        "vocabulary": str(words),
        "labels": "labels.csv",
        "size": "image",
        "masks": "SegmentationClass",
        "on_bad_image": "fail",
    }


@pytest.fixture
def shards(tmp_path):
    """Two shards, and one image that is in no split."""
    rng = np.random.default_rng(1)
    cams = []
    for name, keys in (("c", [1, 0]), ("a", [0]), ("b", [0, 1]), ("other", [1])):
        maps = rng.random((len(keys), 4, 6)).astype(np.float32)
        cams.append(ImageCams(name, (20, 30), np.array(keys), maps, maps**2))
    paths = [tmp_path / "1.npz", tmp_path / "2.npz"]
    write_cams(paths[0], cams[:2])
    write_cams(paths[1], cams[2:])
    return paths, {image.id: image for image in cams}


def score(settings, paths, tmp_path, stage="initial", power=1):
    return evaluate_cams(
        open_dataset(settings), NAMES, paths, stage, POWERS, power,
        tmp_path / "out/m.json", tmp_path / "out/m.parquet", META,
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["initial", "refined"])
def test_maps_score_as_the_masks_made_of_them(settings, shards, tmp_path, stage):
    paths, cams = shards
    found = score(settings, paths, tmp_path, stage)
    dataset = open_dataset(settings)
    for power in POWERS:
        entry = {"refinement": "none", "background_power": power}
        for name in NAMES:
            image = cams[name]
            label, _ = labels_and_confidence(
                getattr(image, stage), image.keys, dataset.image(name), entry
            )
            write_label(tmp_path / f"labels{power}/{name}.png", label)
        masks = evaluate_labels(
            dataset, "train", tmp_path / f"labels{power}", "mask",
            tmp_path / "mask.json", tmp_path / "mask.parquet", META,
        )  # fmt: skip
        assert found["powers"][str(power)] == masks["miou"]
        pd.testing.assert_frame_equal(
            read_counts(tmp_path / "out/m.parquet", power), read_counts(tmp_path / "mask.parquet")
        )
    best = max(found["powers"].values())
    assert found["oracle"] == {"power": found["oracle"]["power"], "miou": best}


def test_the_json_follows_from_the_counts(settings, shards, tmp_path):
    found = score(settings, shards[0], tmp_path, power=2.5)
    assert json.loads((tmp_path / "out/m.json").read_text()) == found
    assert list(found["iou"]) == ["background", "cat", "dog"]
    assert (found["images"], found["split"], found["dataset"]) == (3, "train", "toy")
    assert (found["power"], found["seed"], found["headline"]) == (2.5, None, "fixed")
    counts = pd.read_parquet(tmp_path / "out/m.parquet")
    assert counts.drop(columns="id").dtypes.astype(str).to_dict() == {
        "truth": "uint8",
        "prediction": "uint8",
        "power": "float64",
        "pixels": "int32",
    }
    for power, value in found["powers"].items():
        assert miou(counts[counts["power"] == float(power)], 3) == value
    assert found["miou"] == found["powers"]["2.5"]
    assert found["oracle"]["power"] in POWERS  # the fixed one is no choice of the oracle
    pixels = counts[counts["power"] == 1].groupby("id", sort=False)["pixels"].sum()
    assert pixels.to_dict() == dict.fromkeys(NAMES, 19 * 30)


def test_two_runs_write_the_same_bytes(settings, shards, tmp_path):
    score(settings, shards[0], tmp_path)
    first = [(tmp_path / f"out/m.{kind}").read_bytes() for kind in ("json", "parquet")]
    score(settings, shards[0], tmp_path)
    assert [(tmp_path / f"out/m.{kind}").read_bytes() for kind in ("json", "parquet")] == first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.json", "m.parquet"]


def test_a_class_that_is_only_predicted_has_no_iou(settings, tmp_path):
    for name in NAMES:
        write_label(tmp_path / f"data/SegmentationClass/{name}.png", np.zeros((20, 30)))
        write_label(tmp_path / f"labels/{name}.png", np.full((20, 30), 2))
    found = evaluate_labels(
        open_dataset(settings), "train", tmp_path / "labels", "segmentation",
        tmp_path / "m.json", tmp_path / "m.parquet", {"precision": "amp", "seed": 3},
    )  # fmt: skip
    assert found["iou"] == {"background": 0.0, "cat": None, "dog": None}
    assert (found["miou"], found["seed"], found["precision"]) == (0.0, 3, "amp")


def test_confidence_is_counted_beside_the_labels(settings, tmp_path):
    dataset = open_dataset(settings)
    for name in NAMES:
        truth = dataset.mask(name)
        label = np.where(truth == 255, 0, truth)
        label[5] = 2 - label[5]  # one row wrong where it is not class 1
        write_label(tmp_path / f"labels/{name}.png", label)
        confidence = np.full(truth.shape, 0.97)
        confidence[5] = 0.6
        write_confidence(tmp_path / f"confidence/{name}.png", confidence)
    evaluate_labels(
        dataset, "train", tmp_path / "labels", "mask", tmp_path / "m.json", tmp_path / "m.parquet",
        META, tmp_path / "confidence", tmp_path / "confidence.parquet",
    )  # fmt: skip
    table = pd.read_parquet(tmp_path / "confidence.parquet")
    assert table["pixels"].sum() == 3 * 19 * 30
    sure = table[table["lower"] >= 0.95]
    assert sure["pixels"].sum() == sure["correct"].sum() == 3 * 18 * 30
    assert table[table["lower"] == 0.6]["pixels"].sum() == 3 * 30


def break_mask(settings, tmp_path):
    (tmp_path / "data/SegmentationClass/b.png").unlink()


def break_size(settings, tmp_path):
    write_label(tmp_path / "data/SegmentationClass/b.png", np.zeros((4, 4)))


def break_shard(settings, tmp_path):
    write_cams(tmp_path / "2.npz", [], {"b": "b.jpg: not a whole image"})


def break_map(settings, tmp_path):
    bad = np.full((1, 4, 6), np.nan, np.float32)
    write_cams(tmp_path / "2.npz", [ImageCams("b", (20, 30), np.array([0]), bad, None)])


BREAKS = [
    (break_mask, "b.png: no such mask"),
    (break_size, "b.png: is 4 x 4"),
    (break_shard, "b.jpg: not a whole image"),
    (break_map, "b has a map with values below 0 or NaN"),
]


@pytest.mark.parametrize(("damage", "message"), BREAKS)
def test_a_bad_image_stops_the_job_or_is_listed(settings, shards, tmp_path, damage, message):
    damage(settings, tmp_path)
    with pytest.raises(InputError, match=message):
        score(settings, shards[0], tmp_path)
    assert not (tmp_path / "out/m.json").exists()
    found = score({**settings, "on_bad_image": "skip"}, shards[0], tmp_path)
    assert (found["skipped"], found["images"]) == (["b"], 2)


def test_an_image_without_cam_is_named(settings, shards, tmp_path):
    with pytest.raises(InputError, match=r"b: is to be scored, but no CAM was made"):
        score(settings, shards[0][:1], tmp_path)


def test_nothing_left_is_an_error_even_where_skipping_is_allowed(settings, tmp_path):
    settings["on_bad_image"] = "skip"
    with pytest.raises(InputError, match=r"mask: no image is left to score; the first: .*a\.png"):
        evaluate_labels(
            open_dataset(settings), "train", tmp_path / "no", "mask",
            tmp_path / "m.json", tmp_path / "m.parquet", META,
        )  # fmt: skip


def test_labels_beyond_the_classes_are_refused(settings, tmp_path):
    write_label(tmp_path / "labels/a.png", np.full((20, 30), 3))
    with pytest.raises(InputError, match=r"a\.png: holds the value 3, but there are 2 classes"):
        evaluate_labels(
            open_dataset(settings), "train", tmp_path / "labels", "mask",
            tmp_path / "m.json", tmp_path / "m.parquet", META,
        )  # fmt: skip


def test_refined_maps_must_be_there(settings, tmp_path):
    maps = np.zeros((1, 4, 6), np.float32)
    cams = [ImageCams(name, (20, 30), np.array([0]), maps, None) for name in NAMES]
    write_cams(tmp_path / "1.npz", cams)
    with pytest.raises(InputError, match="a has no refined map"):
        score(settings, [tmp_path / "1.npz"], tmp_path, "refined")


REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("CLIP_WSSS_SHARED", REPOSITORY.parent / "shared"))


@pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="no shared/parity beside the project")
def test_maps_and_labels_of_the_public_code_score_as_it_says(settings, tmp_path):
    golden = SHARED / "parity/golden"
    expected = json.loads((golden / "summary.json").read_text())
    settings |= {
        "root": str(SHARED / "parity/VOCdevkit/VOC2012"),
        "vocabulary": str(REPOSITORY / "config/vocabularies/voc12.yaml"),
        "labels": "xml",
        "masks": "SegmentationClassAug",
    }
    dataset, cams = open_dataset(settings), []
    for name in expected["ids"]:
        with np.load(golden / f"{name}.npz") as image:
            size = tuple(map(int, image["size"]))
            cams.append(ImageCams(name, size, image["keys"], image["cam_grid"], image["caa_grid"]))
            write_label(tmp_path / f"crf/{name}.png", image["crf_label"])
    write_cams(tmp_path / "golden.npz", cams)
    out = tmp_path / "m.json", tmp_path / "m.parquet", META
    powers = range(1, 11)
    for stage, title in (("initial", "initial"), ("refined", "caa")):
        found = evaluate_cams(
            dataset, expected["ids"], [tmp_path / "golden.npz"], stage, powers, 1, *out
        )
        for power in powers:
            assert found["powers"][str(power)] == expected["mIoU"][f"{title}_pow{power}"]
    found = evaluate_labels(dataset, "parity", tmp_path / "crf", "mask", *out)
    assert found["miou"] == expected["mIoU"]["crf"]
