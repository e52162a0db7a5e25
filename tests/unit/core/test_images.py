"""Image files: bytes in, the same bytes out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import sha256
from clip_wsss.core.images import (
    decode_label,
    encode_grey,
    encode_label,
    read_fraction,
    read_label,
    read_rgb,
    voc_palette,
    write_bytes,
    write_label,
)


def test_palette_is_that_of_voc():
    palette = voc_palette()
    assert palette.shape == (256, 3)
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    for label, colour in known.items():
        assert tuple(palette[label]) == colour


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
def test_labels_round_trip(tmp_path_factory, seed, height, width):
    path = tmp_path_factory.mktemp("label") / "deep" / "a.png"
    label = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    write_label(path, label)
    np.testing.assert_array_equal(read_label(path), label)
    first = sha256(path)
    write_label(path, label)
    assert sha256(path) == first
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    with Image.open(path) as image:
        assert image.mode == "P"
        colours = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colours, voc_palette()[label])


def test_bytes_are_those_of_the_file(tmp_path):
    label = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    write_label(tmp_path / "a.png", label)
    assert encode_label(label) == (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(decode_label(encode_label(label), "a"), label)
    np.testing.assert_array_equal(decode_label(encode_grey(label), "a"), label)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    write_bytes(tmp_path / "grey.png", encode_grey(label))
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == "L"


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_is_a_share_of_white(tmp_path, dtype, white):
    values = np.random.default_rng(0).integers(0, white + 1, (9, 7)).astype(dtype)
    values[0, :2] = 0, white
    Image.fromarray(values).save(tmp_path / "a.png")
    found = read_fraction(tmp_path / "a.png")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (values / white).astype(np.float32))
    assert found[0, :2].tolist() == [0, 1]


TURNED = Image.Exif()
TURNED[274] = 6


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("JPEG", {}, "a JPEG; a confidence map must be a PNG"),
        ("TIFF", {"tiffinfo": {262: 0}}, "a TIFF; a confidence map must be a PNG"),
        ("PNG", {"save_all": True, "append_images": [Image.new("L", (7, 9), 3)]}, "2 pictures"),
        ("PNG", {"exif": TURNED}, "EXIF orientation 6"),
    ],
)
def test_confidences_are_read_by_the_rules_of_masks(tmp_path, kind, more, message):
    Image.new("L", (7, 9), 200).save(tmp_path / "a.png", kind, **more)
    with pytest.raises(InputError, match=message):
        read_fraction(tmp_path / "a.png")


def test_photographs_are_rgb(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))


def test_bad_files_are_named(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    for name in ("cut.jpg", "text.jpg", "none.jpg"):
        with pytest.raises(InputError, match=name) as error:
            read_rgb(tmp_path / name)
        assert "\n" not in str(error.value)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "colours.png")
    whole = encode_grey(np.arange(4096, dtype=np.uint8).reshape(64, 64) % 251)
    (tmp_path / "cut.png").write_bytes(whole[:-200])
    (tmp_path / "folder.png").mkdir()
    for read in (read_label, read_fraction):
        for name in ("colours.png", "none.png", "cut.png", "text.jpg", "folder.png"):
            with pytest.raises(InputError, match=name) as error:
                read(tmp_path / name)
            assert "\n" not in str(error.value)
            assert "BytesIO" not in str(error.value)
