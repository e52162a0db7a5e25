import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_wsss.core.confidence import encode
from clip_wsss.score.breakdown import by_classes, by_size, coarse, extremes, image_iou, region_iou
from clip_wsss.score.calibration import Calibration


def counts_of(images: dict[str, tuple[np.ndarray, np.ndarray]]) -> pd.DataFrame:
    rows = []
    for name, (truth, prediction) in images.items():
        for t in np.unique(truth):
            for p in np.unique(prediction):
                pixels = int(((truth == t) & (prediction == p)).sum())
                if pixels and t != 255:
                    rows.append((name, t, p, pixels))
    return pd.DataFrame(rows, columns=["id", "truth", "prediction", "pixels"])


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_region_iou_equals_that_of_the_masks(seed):
    rng = np.random.default_rng(seed)
    images = {}
    for name in ("a", "b"):
        truth = rng.integers(0, 4, (6, 7))
        truth[rng.random((6, 7)) < 0.1] = 255
        images[name] = truth, rng.integers(0, 4, (6, 7))
    table = region_iou(counts_of(images)).set_index(["id", "label"])
    for name, (truth, prediction) in images.items():
        counted = truth != 255
        for label in range(4):
            region = truth == label
            if not region.any():
                assert (name, label) not in table.index
                continue
            given = (prediction == label) & counted
            row = table.loc[(name, label)]
            assert row["iou"] == pytest.approx((region & given).sum() / (region | given).sum())
            assert row["share"] == pytest.approx(region.sum() / counted.sum())


def test_a_class_that_is_missed_or_only_predicted():
    truth, prediction = np.array([[0, 1, 2, 2]]), np.array([[0, 3, 2, 3]])
    table = region_iou(counts_of({"a": (truth, prediction)}))
    assert table[["label", "iou"]].to_numpy().tolist() == [[0, 1], [1, 0], [2, 0.5]]
    assert image_iou(table).to_numpy().tolist() == [["a", 0.5, 2]]


REGIONS = pd.DataFrame(
    {
        "id": ["a", "a", "b", "b", "b", "c"],
        "label": [0, 3, 0, 1, 2, 0],
        "iou": [1.0, 0.5, 0.8, 0.6, 0.1, 0.9],
        "share": [0.96, 0.04, 0.5, 0.25, 0.25, 1.0],
    }
)


def test_image_iou_is_the_mean_of_the_classes_in_the_image():
    table = image_iou(REGIONS)
    assert table["iou"].tolist() == pytest.approx([0.75, 0.5, 0.9])
    assert table["classes"].tolist() == [1, 2, 0]


def test_extremes_share_no_image():
    images = image_iou(REGIONS)
    assert extremes(images, 1) == (["c"], ["b"])
    assert extremes(images, 5) == (["c"], ["b"])
    assert extremes(images.head(1), 3) == ([], [])


def test_sizes_leave_the_background_out():
    table = by_size(REGIONS)
    assert table["label"].tolist() == ["0–5", "20–30"]
    assert table["mean"].tolist() == pytest.approx([0.5, 0.35])
    assert table["n"].tolist() == [1, 2]
    assert table["error"].iloc[0] == 0  # one region has no spread
    assert table["error"].iloc[1] == pytest.approx(1.96 * np.std([0.6, 0.1], ddof=1) / np.sqrt(2))


def test_a_size_holds_its_upper_bound():
    shares = [0.05, 0.0501, 0.1, 0.2, 0.3, 0.5, 0.51, 1.0]
    table = by_size(pd.DataFrame({"label": 1, "iou": 0.5, "share": shares}))
    bounds = ["0–5", "5–10", "10–20", "20–30", "30–50", "50–100"]
    assert dict(zip(table["label"], table["n"], strict=True)) == dict(
        zip(bounds, [1, 2, 1, 1, 1, 2], strict=True)
    )


def test_of_equally_good_images_the_first_id_is_the_better_one():
    images = pd.DataFrame({"id": ["b", "d", "c", "a"], "iou": [0.5, 0.5, 0.5, 0.5]})
    assert extremes(images, 1) == (["a"], ["d"])
    assert extremes(images, 9) == (["a", "b"], ["d", "c"])


def test_many_classes_stand_together():
    images = pd.DataFrame({"iou": [0.1, 0.3, 0.5], "classes": [1, 4, 9]})
    table = by_classes(images)
    assert table["label"].tolist() == ["1", "4+"]
    assert table["mean"].tolist() == pytest.approx([0.1, 0.4])


def test_coarse_bins_keep_every_pixel():
    rng = np.random.default_rng(0)
    calibration = Calibration()
    confidence = rng.random((50, 50)).astype(np.float32)
    confidence[0] = 1
    right = rng.random((50, 50)) < confidence
    calibration.add(encode(confidence), right, np.ones((50, 50), bool))
    edges = np.linspace(0, 1, 11)
    bins = coarse(calibration.table(), edges)
    assert bins["pixels"].sum() == 2500
    assert bins["correct"].sum() == right.sum()
    inside = (confidence >= 0.3) & (confidence < 0.4)
    row = bins[np.isclose(bins["low"], 0.3)].iloc[0]
    assert row["pixels"] == inside.sum()
    assert row["confidence"] == pytest.approx(confidence[inside].mean(), abs=2e-3)
    assert bins["high"].iloc[-1] == 1  # and holds the ones


def test_empty_bins_are_left_out():
    calibration, codes = Calibration(), encode(np.float32([[0.3, 0.3, 1]]))
    calibration.add(codes, np.array([[True, False, True]]), np.ones((1, 3), bool))
    bins = coarse(calibration.table(), np.linspace(0, 1, 11))
    assert list(bins) == ["low", "high", "confidence", "pixels", "correct"]
    assert bins["low"].tolist() == pytest.approx([0.3, 0.9])
    assert bins["confidence"].tolist() == pytest.approx([0.325, 1])
    assert bins[["pixels", "correct"]].to_numpy().tolist() == [[2, 1], [1, 1]]
