"""Pseudo masks: float16 scores, ties, confidence, files, processes."""

import csv

import numpy as np
import pytest
import torch

from clip_wsss.cam import ImageCams, write_cams
from clip_wsss.errors import InputError
from clip_wsss.imageio import read_confidence, read_label, sha256
from clip_wsss.masks import (
    background_scores,
    labels_and_confidence,
    parallel_map,
    upsample_maps,
    write_shard,
)
from clip_wsss.refine import MASK_REFINEMENTS

CRF = {
    "image": "wrapped-bgr",
    "iterations": 3,
    "gaussian_sxy": 1,
    "gaussian_compat": 3,
    "bilateral_sxy": 67,
    "bilateral_srgb": 3,
    "bilateral_compat": 4,
}
PLAIN = {"map": "refined", "refinement": "none", "background_power": 1, "crf": CRF}


def test_upsampling_is_half_pixel_bilinear_in_float16():
    maps = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    full = upsample_maps(maps, (7, 9))
    assert full.dtype == np.float16
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=(7, 9), mode="bilinear", align_corners=False
    )[0]
    np.testing.assert_allclose(full, expected, atol=1e-3)


@pytest.mark.parametrize("power", [1, 2, 7, 0.5])
def test_background_stays_in_float16(power):
    maps = np.linspace(0, 1, 101).reshape(1, 1, -1).astype(np.float16)
    background = background_scores(maps, power)
    assert background.dtype == np.float16
    half = (np.float16(1) - maps[0]).astype(np.float32)
    np.testing.assert_array_equal(background, (half**power).astype(np.float16))


def test_ties_go_to_the_background_and_to_the_first_class():
    maps = np.array([[[0.5, 0.6, 0.4]], [[0.2, 0.6, 0.3]]], np.float32)
    rgb = np.zeros((1, 3, 3), np.uint8)
    label, confidence = labels_and_confidence(maps, np.array([7, 2]), rgb, PLAIN)
    assert label.tolist() == [[0, 8, 0]]
    assert label.dtype == np.uint8
    np.testing.assert_allclose(confidence, [[0.5, 0.6, 0.6]], atol=1e-3)


def test_zero_maps_are_background():
    rgb = np.zeros((6, 8, 3), np.uint8)
    for refinement in ("none", "crf"):
        label, confidence = labels_and_confidence(
            np.zeros((2, 1, 2), np.float32),
            np.array([0, 1]),
            rgb,
            PLAIN | {"refinement": refinement},
        )
        assert not label.any()
        assert np.isfinite(confidence).all()
        assert (confidence > 0.9).all()


class Images:
    """A data set of flat images."""

    def __init__(self, sizes):
        self.sizes = sizes

    def image(self, name):
        height, width = self.sizes[name]
        return np.full((height, width, 3), sum(map(ord, name)) % 256, np.uint8)


@pytest.fixture
def shard(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {
        name: (int(h), int(w)) for name, h, w in zip("cab", (30, 17, 24), (21, 40, 24), strict=True)
    }
    images = [
        ImageCams(
            name, size, np.array([3, 11]), *(rng.random((2, 4, 5), dtype=np.float32) for _ in "if")
        )
        for name, size in sizes.items()
    ]
    write_cams(tmp_path / "000.npz", images, {"bad": "bad.jpg: truncated"})
    return Images(sizes), images, tmp_path / "000.npz"


def rows_of(manifest):
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("refinement", ["none", "crf"])
@pytest.mark.parametrize("which", ["initial", "refined"])
def test_shard_of_masks(shard, tmp_path, refinement, which):
    dataset, images, cams = shard
    entry = PLAIN | {"refinement": refinement, "map": which}
    write_shard(dataset, cams, entry, tmp_path / "one", tmp_path / "one/000.csv", workers=1)
    write_shard(dataset, cams, entry, tmp_path / "two", tmp_path / "two/000.csv", workers=2)
    assert (tmp_path / "one/000.csv").read_bytes() == (tmp_path / "two/000.csv").read_bytes()
    *rows, last = rows_of(tmp_path / "one/000.csv")
    assert [row["id"] for row in rows] == ["c", "a", "b"]
    assert last == {
        "id": "bad",
        "label_sha256": "",
        "confidence_sha256": "",
        "skipped": "bad.jpg: truncated",
    }
    for row, image in zip(rows, images, strict=True):
        for folder in ("one", "two"):
            labels = tmp_path / folder / "labels" / f"{image.id}.png"
            confidences = tmp_path / folder / "confidence" / f"{image.id}.png"
            assert row["label_sha256"] == sha256(labels)
            assert row["confidence_sha256"] == sha256(confidences)
        label, confidence = labels_and_confidence(
            getattr(image, which), image.keys, dataset.image(image.id), entry
        )
        np.testing.assert_array_equal(read_label(labels), label)
        np.testing.assert_allclose(read_confidence(confidences), confidence, atol=1e-5)
        assert set(np.unique(label)) <= {0, 4, 12}


def test_refined_maps_that_are_not_there_are_refused(tmp_path):
    image = ImageCams("a", (4, 4), np.array([0]), np.zeros((1, 2, 2), np.float32), None)
    write_cams(tmp_path / "000.npz", [image])
    out = tmp_path / "masks"
    with pytest.raises(InputError, match="holds no refined maps"):
        write_shard(Images({"a": (4, 4)}), tmp_path / "000.npz", PLAIN, out, out / "000.csv")
    write_shard(
        Images({"a": (4, 4)}),
        tmp_path / "000.npz",
        PLAIN | {"map": "initial"},
        out,
        out / "000.csv",
    )
    assert len(rows_of(out / "000.csv")) == 1


def test_unknown_refinement_is_refused(shard, tmp_path):
    dataset, _, cams = shard
    with pytest.raises(InputError, match="refinement: snake is unknown; known are crf, none"):
        write_shard(dataset, cams, PLAIN | {"refinement": "snake"}, tmp_path, tmp_path / "m.csv")


def test_changed_image_is_refused(shard, tmp_path):
    dataset, _, cams = shard
    dataset.sizes["a"] = (17, 41)
    with pytest.raises(InputError, match="make the CAMs again"):
        write_shard(dataset, cams, PLAIN, tmp_path / "m", tmp_path / "m.csv", workers=2)


def test_a_new_refinement_is_one_function(shard, tmp_path, monkeypatch):
    def sharpen(scores, rgb, settings):
        return scores.astype(np.float32) ** settings["power"]

    monkeypatch.setitem(MASK_REFINEMENTS, "sharpen", sharpen)
    dataset, _, cams = shard
    entry = PLAIN | {"refinement": "sharpen", "sharpen": {"power": 2}}
    write_shard(dataset, cams, entry, tmp_path / "m", tmp_path / "m/000.csv")
    assert len(rows_of(tmp_path / "m/000.csv")) == 4


def test_parallel_map_keeps_the_order():
    for workers in (1, 3):
        with parallel_map(workers) as mapped:
            assert list(mapped(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
