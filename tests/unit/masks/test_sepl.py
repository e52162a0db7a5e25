"""SEPL's vote of regions: known answers, and the files that it reads."""

import numpy as np
import pytest
from PIL import Image

from clip_wsss.core.errors import InputError
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.refinements.sepl import SeplSettings, sepl, voted

OWN = SeplSettings(folder="regions")


def regions(*boxes, size=(4, 6)):
    found = np.zeros((len(boxes), *size), bool)
    for one, (y0, y1, x0, x1) in zip(found, boxes, strict=True):
        one[y0:y1, x0:x1] = True
    return found


def test_a_region_goes_to_the_class_that_fills_it():
    label = np.zeros((4, 6), int)
    label[:, :2], label[:3, 3:] = 1, 2
    found = voted(label, regions((0, 4, 0, 3), (0, 4, 3, 6)), OWN)
    assert found.tolist() == [[1, 1, 1, 2, 2, 2]] * 4


def test_what_no_class_wins_is_background_and_what_no_region_has_stays():
    label = np.zeros((4, 6), int)
    label[:2, :3] = 1  # half of the region, which is not beyond a half
    label[:, 5] = 1
    label[3, 3] = label[3, 5] = 2  # the other region is not won either
    found = voted(label, regions((0, 4, 0, 3), (2, 4, 3, 5)), OWN)
    assert not found[:, :5].any()
    assert found[:, 5].all()


def test_a_region_that_covers_a_class_is_its_own():
    label = np.zeros((4, 6), int)
    label[1, 1:3] = 1  # 2 of 24 pixels, all of the class
    assert voted(label, regions((0, 4, 0, 6)), OWN).all()
    assert voted(label, regions((0, 4, 0, 6)), SeplSettings(folder="", cover=1)).all()
    label[3, 5] = 1
    kept = voted(label, regions((0, 3, 0, 5)), OWN)  # 2 of 3: less than 0.85
    assert kept.sum() == kept[3, 5] == 1


def test_the_smallest_of_several_regions_has_the_last_word():
    label = np.ones((4, 6), int)
    label[:2, :2] = 2
    both = regions((0, 4, 0, 6), (0, 2, 0, 2))
    for order in (both, both[::-1]):
        assert (voted(label, order, OWN) == label).all()


def scores(label, count=3):
    """Scores whose argmax is a label, all different."""
    found = np.random.default_rng(0).random((count, *label.shape)) / 2
    np.put_along_axis(found, label[None], 0.75, axis=0)
    return found.astype(np.float16)


@pytest.fixture
def case(tmp_path):
    label = np.zeros((4, 6), int)
    label[:, :2] = 1
    return label, tmp_path, SeplSettings(folder=str(tmp_path))


def test_labels_change_and_confidences_do_not(case):
    label, folder, own = case
    numbers = np.zeros((4, 6), np.uint8)
    numbers[:, :3], numbers[:2, 4:] = 7, 9
    Image.fromarray(numbers).save(folder / "x.png")
    context = MaskContext(scores(label), np.zeros((4, 6, 3), np.uint8), [0, 1], "x")
    refined = sepl(context, own)
    assert refined.dtype == np.float32
    assert refined.argmax(axis=0).tolist() == [[1, 1, 1, 0, 0, 0]] * 4
    np.testing.assert_array_equal(refined.max(axis=0), context.scores.max(axis=0))
    np.testing.assert_array_equal(np.sort(refined, axis=0), np.sort(context.scores, axis=0))
    (folder / "x.png").unlink()
    masks = np.stack([numbers == 7, numbers == 9])
    np.savez(folder / "x.npz", regions=masks)
    np.testing.assert_array_equal(sepl(context, own), refined)


def test_a_bad_file_of_regions_is_one_line(case):
    label, folder, own = case
    context = MaskContext(scores(label), np.zeros((4, 6, 3), np.uint8), [0, 1], "x")
    with pytest.raises(InputError, match=r"x\.png: must be a readable map of regions \(.*No such"):
        sepl(context, own)
    (folder / "x.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"x\.png: must be a readable map of regions"):
        sepl(context, own)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(folder / "x.png")
    with pytest.raises(InputError, match=r"x\.png: regions must be \(4, 6\) as the image"):
        sepl(context, own)
    np.savez(folder / "x.npz", others=np.zeros((1, 4, 6)))
    with pytest.raises(InputError, match=r"x\.npz: must be a readable map of regions"):
        sepl(context, own)
    (folder / "x.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"x\.npz"):
        sepl(context, own)


def test_an_image_without_regions_keeps_its_labels(case):
    label, folder, own = case
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "x.png")
    context = MaskContext(scores(label), np.zeros((4, 6, 3), np.uint8), [0, 1], "x")
    np.testing.assert_array_equal(sepl(context, own), context.scores)
