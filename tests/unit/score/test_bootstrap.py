import numpy as np
import pandas as pd
import pytest

from clip_wsss.score import bootstrap
from clip_wsss.score.bootstrap import (
    interval,
    nan_mean,
    none_hit,
    over_seeds,
    resampled_iou,
    tally,
    tally_iou,
    tally_rates,
)

COUNTS = pd.DataFrame(
    [("a", 0, 0, 6), ("a", 0, 1, 2), ("a", 1, 1, 4), ("b", 0, 0, 5), ("b", 2, 0, 3)],
    columns=["id", "truth", "prediction", "pixels"],
)


def random_sums(images=40, classes=4, seed=0):
    return np.random.default_rng(seed).integers(0, 50, (images, classes, 3)).astype(float)


def test_tally_by_hand():
    sums = tally(COUNTS, ["b", "a", "c"], 3)
    np.testing.assert_array_equal(sums[0], [[5, 3, 0], [0, 0, 0], [0, 0, 3]])
    np.testing.assert_array_equal(sums[1], [[6, 0, 2], [4, 2, 0], [0, 0, 0]])
    np.testing.assert_array_equal(sums[2], 0)
    np.testing.assert_allclose(tally_iou(sums.sum(axis=0)), [11 / 16, 4 / 6, 0])


def test_a_class_without_ground_truth_has_no_iou():
    # FAULTS 16: whether it is predicted or not, and the mean is without it.
    sums = np.array([[3, 1, 0], [0, 0, 0], [0, 5, 0], [0, 0, 2]], float)
    values = tally_iou(sums)
    np.testing.assert_array_equal(values, [0.75, np.nan, np.nan, 0])
    assert nan_mean(values) == 0.375
    assert (tally_iou(np.eye(3)[[0, 2]]) == [1, 0]).all(), "one pixel is enough"
    assert nan_mean(np.array([np.nan, 0.25])) == 0.25
    with np.errstate(all="raise"):
        assert np.isnan(nan_mean(np.full(2, np.nan)))


@pytest.mark.parametrize(
    ("iou", "answer"),
    [
        ({"background": 0.9, "cat": 0.0, "dog": 0.0099}, True),
        ({"background": 0.9, "cat": 0.0, "dog": 0.01}, False),
        ({"background": 0.9, "cat": 0.5, "dog": 0.0}, False),
        ({"background": 0.0, "cat": np.nan, "dog": 0.0}, True),
        ({"background": 0.0, "cat": None, "dog": np.nan}, False),
    ],
)
def test_no_class_is_hit_if_all_that_have_truth_are_missed(iou, answer):
    assert none_hit(iou) is answer


def test_rates_by_hand():
    sums = tally(COUNTS, ["a", "b"], 3).sum(axis=0)
    nan = np.nan
    right = [[11 / 14, 11 / 13, 3 / 11], [4 / 6, 1, 2 / 4], [nan, 0, nan]]
    np.testing.assert_allclose(tally_rates(sums), right)
    # Predicted without ground truth, and predicted but never right.
    wrong = np.array([[0, 5, 0], [0, 2, 1]], float)
    np.testing.assert_array_equal(tally_rates(wrong), [[nan, nan, nan], [0, 0, nan]])


def test_an_unlabelled_pixel_is_a_miss_only():
    counts = pd.DataFrame([("a", 1, 255, 3), ("a", 1, 1, 5)], columns=COUNTS.columns)
    np.testing.assert_array_equal(tally(counts, ["a"], 2)[0], [[0, 0, 0], [5, 0, 3]])


def test_rows_of_other_images_are_passed_over():
    np.testing.assert_array_equal(tally(COUNTS, ["a"], 3)[0], tally(COUNTS, ["a", "b"], 3)[0])


def test_a_resample_equals_drawing_images_one_by_one():
    sums = random_sums()
    fast = resampled_iou(sums, 70, seed=3)
    generator = np.random.Generator(np.random.PCG64(3))
    for value in fast:
        total = sum(sums[image] for image in generator.integers(40, size=40))
        np.testing.assert_allclose(value, tally_iou(total), rtol=0, atol=0)


def test_chunks_change_nothing(monkeypatch):
    whole = resampled_iou(random_sums(), 50, seed=1)
    monkeypatch.setattr(bootstrap, "_CHUNK", 7)
    np.testing.assert_array_equal(resampled_iou(random_sums(), 50, seed=1), whole)


def test_the_seed_decides():
    first, again, other = (resampled_iou(random_sums(), 20, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_class_that_is_not_drawn_has_no_iou_and_leaves_the_mean():
    sums = tally(COUNTS, ["a", "b"], 3)
    values = resampled_iou(sums, 64, seed=0)
    only_b = np.isnan(values[:, 1])  # class 1 has ground truth in image a alone
    assert 0 < only_b.sum() < 64
    np.testing.assert_allclose(nan_mean(values)[only_b], (5 / 8 + 0) / 2)


def test_equal_measurements_differ_by_exactly_nothing():
    samples = nan_mean(resampled_iou(random_sums(), 100, 0))
    gap = interval(samples - nan_mean(resampled_iou(random_sums(), 100, 0)))
    assert (gap.low, gap.high, gap.excludes_zero) == (0, 0, False)


def test_pairing_sees_a_small_gain_that_the_single_intervals_hide():
    rng = np.random.default_rng(0)
    hits = rng.integers(10, 90, (200, 1))
    sums = np.stack([hits, np.zeros_like(hits), 100 - hits], axis=-1).astype(float)
    better = sums + np.array([1.0, 0, -1])
    one, two = (nan_mean(resampled_iou(each, 500, 0)) for each in (sums, better))
    assert interval(one).high > interval(two).low
    gap = interval(two - one)
    assert gap.excludes_zero
    assert gap.low == pytest.approx(0.01)


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        hits = rng.beta(2, 2, (60, 1)) * 1000
        sums = np.stack([hits, np.zeros_like(hits), 1000 - hits], axis=-1).round()
        around = interval(nan_mean(resampled_iou(sums, 300, trial)))
        covered += around.low <= 0.5 <= around.high
    assert 178 <= covered <= 199


def test_interval_known_answer():
    around = interval(np.arange(1001.0))
    assert (around.low, around.high) == pytest.approx((25, 975))
    assert np.isnan(interval(np.array([np.nan])).low)
    assert interval(np.array([np.nan, 2.0, 2.0])).high == 2


def test_one_seed_is_left_as_it_is():
    samples = np.random.default_rng(0).random((1, 30))
    np.testing.assert_array_equal(over_seeds(samples, 0), samples[0])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_spread_like_the_standard_error_of_their_mean(seeds):
    values = np.random.default_rng(1).normal(0.5, 0.02, seeds)
    samples = np.repeat(values[:, None], 40_000, axis=1)
    spread = over_seeds(samples, 0)
    assert spread.mean() == pytest.approx(values.mean(), abs=3e-4)
    assert spread.std() == pytest.approx(values.std(ddof=1) / np.sqrt(seeds), rel=0.03)


def test_the_mean_of_the_drawn_seeds_is_stretched_away_from_that_of_all():
    samples = np.repeat([[0.0], [0.0], [1.0]], 1000, axis=1)
    means = np.arange(4) / 3  # of 3 draws that are 0, 0, 1 with chances alike
    wanted = 1 / 3 + np.sqrt(3 / 2) * (means - 1 / 3)
    np.testing.assert_allclose(np.unique(over_seeds(samples, 0).round(12)), wanted, atol=1e-11)


def test_classes_and_their_mean_are_resampled_alike():
    samples = np.random.default_rng(1).random((3, 50, 4))
    np.testing.assert_allclose(
        over_seeds(samples, 2).mean(axis=-1), over_seeds(samples.mean(axis=-1), 2)
    )
