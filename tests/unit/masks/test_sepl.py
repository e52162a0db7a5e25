"""SEPL's vote of regions: known answers, and the files that it reads."""

import os
import zlib

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from clip_wsss.core.errors import InputError
from clip_wsss.core.regions import read_regions
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
    assert voted(label, regions((0, 4, 0, 6)), SeplSettings(folder="regions", cover=1)).all()
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


def save_tiff(array):
    def save(path):
        Image.fromarray(array).save(path, format="TIFF")

    return save


def save_turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (6, 4)).save(path, exif=exif)


def bomb(path):
    """A PNG of 30000 x 30000 by its header alone."""
    Image.new("L", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = (30000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (None, "no such map of regions"),
        (os.mkfifo, "is a named pipe"),
        (lambda path: path.write_bytes(b"no picture"), "not a whole PNG"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "not a whole PNG"),
        (Image.new("L", (6, 4)).convert("RGB").save, "got RGB"),
        (Image.new("1", (6, 4)).save, "got 1"),
        (lambda path: Image.new("L", (6, 4)).save(path, format="JPEG"), "a JPEG; it must be a PNG"),
        (save_tiff(np.full((4, 6), np.nan, np.float32)), "a TIFF; it must be a PNG"),
        (save_turned, "EXIF orientation 6"),
        (bomb, "not a whole PNG .its header says more than 179 million pixels"),
        (Image.new("L", (5, 4)).save, r"must be \(4, 6\) as the image; got \(4, 5\)"),
    ],
)
def test_a_bad_map_of_regions_is_one_line(case, save, message):
    label, folder, own = case
    context = MaskContext(scores(label), np.zeros((4, 6, 3), np.uint8), [0, 1], "x")
    if save is not None:
        save(folder / "x.png")
    with pytest.raises(InputError, match=rf"x\.png: .*{message}") as error:
        sepl(context, own)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "not a whole npz"),
        ({"others": np.zeros((1, 4, 6))}, "must hold an array `regions`"),
        ({"regions": np.zeros((4, 6), bool)}, r"must be \(n, H, W\); got \(4, 6\)"),
        ({"regions": np.zeros((1, 4, 5), bool)}, r"as the image; got \(4, 5\)"),
        ({"regions": np.full((1, 4, 6), np.nan)}, "got float64;"),
        ({"regions": np.full((1, 4, 6), -3.0)}, "got float64;"),
        ({"regions": np.full((1, 4, 6), 2)}, "got int64 with others"),
        ({"regions": np.array([None])}, "not an npz"),
    ],
)
def test_a_bad_file_of_masks_is_one_line(case, arrays, message):
    _, folder, own = case
    (folder / "x.npz").write_bytes(b"no archive")
    if arrays is not None:
        np.savez(folder / "x.npz", **arrays)
    with pytest.raises(InputError, match=rf"x\.npz: .*{message}") as error:
        read_regions(own.folder, "x", (4, 6))
    assert "\n" not in str(error.value)


def test_numbers_vote_as_their_masks_do():
    rng = np.random.default_rng(1)
    for _ in range(30):
        label, numbers = rng.integers(0, 3, (2, 5, 7))
        masks = numbers == np.arange(1, 3)[:, None, None]
        own = SeplSettings(folder="regions", share=rng.random() / 2, cover=0.1 + rng.random() / 2)
        assert voted(label, numbers, own).tolist() == voted(label, masks, own).tolist()


def test_many_regions_take_no_mask_each(case):
    _, folder, own = case
    numbers = np.arange(1, 65_536, dtype=np.uint16).reshape(-1, 257)
    Image.fromarray(numbers).save(folder / "x.png")
    found = read_regions(own.folder, "x", numbers.shape)
    assert (found.dtype, found.shape) == (np.uint16, numbers.shape)
    label = (numbers % 3).astype(int)
    assert (voted(label, found, own) == label).all()


def test_an_image_without_regions_keeps_its_labels(case):
    label, folder, own = case
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "x.png")
    context = MaskContext(scores(label), np.zeros((4, 6, 3), np.uint8), [0, 1], "x")
    np.testing.assert_array_equal(sepl(context, own), context.scores)


def test_superpixels_vote_and_no_file_is_read():
    pytest.importorskip("skimage")
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 250, 0, 0
    label = np.zeros((32, 32), int)
    label[2:30, 18:30] = 1  # most of the right half, and a stain on the left
    label[14:18, 2:5] = 1
    own = SeplSettings(segments=16)
    refined = sepl(MaskContext(scores(label, 2), image, [0], "x"), own)
    assert refined.argmax(axis=0).tolist() == [[0] * 16 + [1] * 16] * 32
    np.testing.assert_array_equal(refined.max(axis=0), scores(label, 2).max(axis=0))
    for size in ((1, 1), (1, 9), (3, 2)):  # no smaller than a region
        label = np.ones(size, int)
        found = sepl(MaskContext(scores(label), np.zeros((*size, 3), np.uint8), [0, 1], "x"), own)
        np.testing.assert_array_equal(found, scores(label))


def test_an_empty_name_is_no_folder():
    with pytest.raises(ValidationError, match="at least 1 character"):
        SeplSettings(folder="")
