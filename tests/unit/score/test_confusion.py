import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from clip_wsss.core.maps import background_scores
from clip_wsss.score.confusion import (
    confusion_matrix,
    count_label,
    count_sweep,
    exchanged,
    exchanged_words,
    iou,
    miou,
)

POWERS = (1, 2, 3.5, 10)


def frame(sparse, name="a"):
    truth, prediction, pixels = sparse
    return pd.DataFrame({"id": name, "truth": truth, "prediction": prediction, "pixels": pixels})


def naive_sweep(truth, maps, keys, powers, classes):
    """Fact 14, word for word: argmax of [(1 - max)^p, maps] at every p."""
    names = np.array([0, *(key + 1 for key in keys)], np.uint8)
    counts = []
    for power in powers:
        scores = np.concatenate([background_scores(maps, power)[None], maps])
        counts.append(count_label(truth, names[scores.argmax(axis=0)], classes))
    return counts


# Few distinct values, so that ties are common: 0.5 ties with the background at p = 1.
VALUES = st.sampled_from([0, 0.25, 0.382, 0.5, 0.5005, 0.75, 1]) | st.floats(0, 1, width=16)


@given(st.data(), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
def test_the_sweep_equals_the_argmax_of_every_power(data, slots, height, width):
    maps = data.draw(arrays.arrays(np.float16, (slots, height, width), elements=VALUES)) + 0
    truth = data.draw(
        arrays.arrays(np.uint8, (height, width), elements=st.sampled_from([0, 1, 2, 5, 255]))
    )
    keys = data.draw(st.permutations(range(5)))[:slots]
    fast = count_sweep(truth, maps, keys, POWERS, 6)
    for one, other in zip(fast, naive_sweep(truth, maps, keys, POWERS, 6), strict=True):
        for part, twin in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, twin)


def test_every_float16_maximum_is_decided_as_by_the_argmax():
    maps = np.arange(0x3C01, dtype=np.uint16).view(np.float16).reshape(1, 1, -1)  # 0 to 1
    truth = np.ones(maps.shape[1:], np.uint8)
    powers = tuple(range(1, 11))
    fast = count_sweep(truth, maps, [0], powers, 2)
    for one, other in zip(fast, naive_sweep(truth, maps, [0], powers, 2), strict=True):
        np.testing.assert_array_equal(one[2], other[2])


def test_ties_go_to_the_background_and_then_to_the_first_map():
    maps = np.array([[[0.5, 0.6]], [[0.5, 0.6]]], np.float16)
    truth = np.zeros((1, 2), np.uint8)
    ((_, prediction, pixels),) = count_sweep(truth, maps, [7, 3], [1], 21)
    assert list(zip(prediction, pixels, strict=True)) == [(0, 1), (8, 1)]


def test_an_image_without_classes_is_background():
    truth = np.array([[0, 4, 255]], np.uint8)
    ((true, prediction, pixels),) = count_sweep(truth, np.zeros((0, 1, 3), np.float16), [], [1], 6)
    assert (true.tolist(), prediction.tolist(), pixels.tolist()) == ([0, 4], [0, 0], [1, 1])


def test_known_iou():
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 2, 2]], np.uint8)
    counts = frame(count_label(truth, prediction, 4))
    values = iou(confusion_matrix(counts, 4))
    np.testing.assert_allclose(values[:2], [1 / 2, 1 / 3])
    # Class 2 is predicted but in no ground truth, class 3 is nowhere: neither is averaged.
    assert np.isnan(values[2:]).all()
    assert miou(counts, 4) == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_unlabelled_pixels_stand_in_the_last_column():
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 255, 255, 1, 255]], np.uint8)
    counts = frame(count_label(truth, prediction, 2))
    assert counts["prediction"].tolist() == [0, 255, 1, 255]
    matrix = confusion_matrix(counts, 2)
    np.testing.assert_array_equal(matrix, [[1, 0, 1], [0, 1, 1]])
    np.testing.assert_allclose(iou(matrix), [1 / 2, 1 / 2])


def test_miou_of_nothing_is_nan():
    assert np.isnan(
        miou(frame(count_label(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8), 3)), 3)
    )


@given(
    arrays.arrays(np.uint8, (3, 8), elements=st.sampled_from([0, 1, 2, 3, 255])),
    arrays.arrays(np.uint8, (3, 8), elements=st.sampled_from([0, 1, 2, 3, 255])),
)
def test_iou_by_sets_of_pixels(truth, prediction):
    values = iou(confusion_matrix(frame(count_label(truth, prediction, 4)), 4))
    counted = truth != 255
    for label in range(4):
        there, said = (truth == label) & counted, (prediction == label) & counted
        if there.any():
            assert values[label] == pytest.approx((there & said).sum() / (there | said).sum())
        else:
            assert np.isnan(values[label])


def test_counts_add_up_over_images():
    one = frame(count_label(np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8), 2))
    both = pd.concat([one, one.assign(id="b")])
    np.testing.assert_array_equal(confusion_matrix(both, 2), [[2, 0, 0], [2, 0, 0]])


def test_labels_of_one_class_where_another_is():
    # Truth background 20, a 10, b 10; the last column is unlabelled.
    pixels = np.array([[10, 10, 0, 0], [6, 1, 1, 2], [0, 3, 7, 0]])
    # background labelled a: 10 of 20 + 14 - 10; a labelled background is a miss, and no exchange.
    assert exchanged(pixels) == []
    pixels[0, :2] = 8, 12
    assert exchanged(pixels) == [(0, 1, 12 / (20 + 16 - 12))]
    swapped = np.array([[0, 0, 0, 0], [0, 0, 2, 2], [10, 9, 0, 0]])
    assert exchanged(swapped) == [(1, 2, 0.5)]
    assert exchanged(np.zeros((3, 4), np.int64)) == []
    names = [("cat", "dog", 0.754), ("dog", "cat", 0.5)]
    assert exchanged_words(names).startswith("dog where cat is (IoU 75%), cat where dog is (IoU 50")
