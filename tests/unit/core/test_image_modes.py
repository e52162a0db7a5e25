"""Images of every kind: converted rightly, or refused with one line."""

import io
import os
import re
import socket
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from clip_wsss.core import images
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import as_rgb, image_size, read_label, read_rgb, voc_palette
from clip_wsss.data.vocabulary import read_vocabulary

COLOURS = read_vocabulary("config/vocabularies/voc12.yaml").colours


def saved(path, pixels, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels, mode)
    image.save(path, **options)
    return path


def refused(path, message, read=read_rgb, **options):
    with pytest.raises(InputError, match=message) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))


def pixel(path):
    rgb = read_rgb(path)
    assert rgb.dtype == np.uint8
    assert rgb.shape[2] == 3
    assert image_size(path) == rgb.shape[:2]
    return tuple(rgb[0, 0].tolist())


def one(mode, colour):
    return Image.new(mode, (3, 2), colour)


def seen(mode, hidden, colour):
    """A picture in one colour, which is transparent, but for the last pixel."""
    image = one(mode, hidden)
    if mode in ("P", "PA"):
        image.putpalette([9, 8, 7, 1, 2, 3])
    image.putpixel((2, 1), colour)
    return image


def cmyk(path):  # as Pillow's formula says, without a profile: (1 - c)(1 - k)
    return saved(path, one("CMYK", (255, 0, 0, 51)))


# mode -> (suffix, how the file is made, the first pixel as RGB)
MODES = {
    "1": (".png", lambda p: saved(p, one("1", 1)), (255, 255, 255)),
    "L": (".png", lambda p: saved(p, one("L", 7)), (7, 7, 7)),
    "LA": (".png", lambda p: saved(p, one("LA", (100, 51))), (224, 224, 224)),
    "LA, opaque": (".png", lambda p: saved(p, one("LA", (100, 255))), (100, 100, 100)),
    "P": (".png", lambda p: saved(p, one("RGB", (9, 8, 7)).quantize(4)), (9, 8, 7)),
    "P, transparent": (
        ".png",
        lambda p: saved(p, seen("P", 0, 1), transparency=0),
        (255, 255, 255),
    ),
    "PA": (".tif", lambda p: saved(p, seen("PA", (0, 0), (1, 255))), (255,) * 3),
    "RGB": (".bmp", lambda p: saved(p, one("RGB", (9, 8, 7))), (9, 8, 7)),
    "RGB, a transparent colour": (
        ".png",
        lambda p: saved(p, seen("RGB", (9, 8, 7), (1, 2, 3)), transparency=(9, 8, 7)),
        (255, 255, 255),
    ),
    "RGBA": (
        ".png",
        lambda p: saved(p, seen("RGBA", (200, 0, 0, 0), (1, 2, 3, 9))),
        (255, 255, 255),
    ),
    "RGBA, half": (
        ".webp",
        lambda p: saved(p, one("RGBA", (0, 0, 0, 51)), lossless=True),
        (204,) * 3,
    ),
    "RGBA, opaque": (".png", lambda p: saved(p, one("RGBA", (9, 8, 7, 255))), (9, 8, 7)),
    "RGBX": (".tif", lambda p: saved(p, one("RGBX", (9, 8, 7, 0))), (9, 8, 7)),
    "CMYK": (".tif", cmyk, (0, 204, 204)),
    "YCbCr": (".jpg", lambda p: saved(p, one("YCbCr", (90, 128, 128))), (90, 90, 90)),
    "I;16": (
        ".png",
        lambda p: saved(p, np.full((2, 3), 32896, np.uint16)),
        (128, 128, 128),
    ),
    "I;16, nearly white": (
        ".tif",
        lambda p: saved(p, np.full((2, 3), 65407, np.uint16)),
        (255,) * 3,
    ),
    "I;16B": (
        ".tiff",
        lambda p: saved(p, Image.frombytes("I;16B", (3, 2), b"\x80\x80" * 6)),
        (128, 128, 128),
    ),
    "a GIF of one picture": (".gif", lambda p: saved(p, one("RGB", (9, 8, 7))), (9, 8, 7)),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_that_are_converted(tmp_path, mode):
    suffix, make, colour = MODES[mode]
    assert pixel(make(tmp_path / f"a{suffix}")) == colour


# Every mode of Pillow -> how a pixel of it is stored, and what it becomes; None: refused.
PIXELS = {
    "1": (1, (255, 255, 255)),
    "L": (7, (7, 7, 7)),
    "LA": ((100, 51), (224, 224, 224)),
    "La": ((20, 51), None),
    "P": (3, (9, 8, 7)),
    "PA": ((3, 255), (9, 8, 7)),
    "RGB": ((9, 8, 7), (9, 8, 7)),
    "RGBA": ((200, 0, 0, 0), (255, 255, 255)),
    "RGBa": ((51, 0, 0, 51), (255, 204, 204)),
    "RGBX": ((9, 8, 7, 0), (9, 8, 7)),
    "CMYK": ((255, 0, 0, 51), (0, 204, 204)),
    "YCbCr": ((90, 128, 128), (90, 90, 90)),
    "HSV": ((0, 0, 9), (9, 9, 9)),
    "LAB": ((90, 128, 128), None),
    "I": (9, None),
    "F": (0.5, None),
    "I;16": (32896, (128, 128, 128)),
    "I;16L": (32896, (128, 128, 128)),
    "I;16B": (32896, (128, 128, 128)),
    "I;16N": (32896, (128, 128, 128)),
}


@pytest.mark.parametrize("mode", PIXELS)
def test_every_mode_of_pillow_is_converted_or_refused(mode):
    # FAULTS 7
    stored, colour = PIXELS[mode]
    image = Image.new(mode, (3, 2), stored)
    if mode in ("P", "PA"):
        image.putpalette([0] * 9 + [9, 8, 7])
    reason = images._unusable(image)
    assert (reason is not None) == (colour is None)
    if colour is not None:
        rgb = images._rgb(image)
        assert (rgb.dtype, rgb.shape, tuple(rgb[1, 2].tolist())) == (np.uint8, (2, 3, 3), colour)


def test_the_documented_table_has_every_mode():
    # FAULTS 7
    assert {*Image.MODES, *images.MODES} <= PIXELS.keys()
    text = Path("docs/datasets.md").read_text(encoding="utf-8")
    table = text[text.index("| stored as (Pillow's mode)") : text.index("**EXIF.**")]
    rows = {
        line.split("|")[1]: line.split("|")[2].strip() for line in table.splitlines()[2:] if line
    }
    for mode, (_, colour) in PIXELS.items():
        found = {said for row, said in rows.items() if mode in re.findall(r"\w+(?:;\w+)?", row)}
        assert ("refused" in found) == (colour is None) or mode == "I;16", mode
        assert found, mode


def test_16_bits_are_rounded(tmp_path):
    values = np.arange(0, 65536, 97, dtype=np.uint16)[None]
    path = saved(tmp_path / "a.png", values)
    want = np.rint(values / 257)  # no value lies halfway
    np.testing.assert_array_equal(read_rgb(path)[..., 0], want)


def test_premultiplied_colours_lie_on_white(tmp_path):
    # 51 of 255 of the light of (255, 0, 0), and the rest of the white.
    path = saved(tmp_path / "a.tif", one("RGBA", (51, 0, 0, 51)))
    entry = struct.pack("<HHI", 338, 3, 1)  # of the alpha: 1 says that it is in the colours
    assert path.read_bytes().count(entry + b"\2") == 1
    path.write_bytes(path.read_bytes().replace(entry + b"\2", entry + b"\1"))
    assert pixel(path) == (255, 204, 204)


def lab(path):
    profile = ImageCms.createProfile("sRGB")
    change = ImageCms.buildTransform(profile, ImageCms.createProfile("LAB"), "RGB", "LAB")
    return saved(path, ImageCms.applyTransform(one("RGB", (9, 8, 7)), change))


def twelve_bits(path):
    """A grey TIFF of 12 bits: two pixels in three bytes."""
    data = b"\xff\xff\xff"
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 0), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, len(data))]
    at = 8 + 2 + 12 * len(entries) + 4
    entries = [(t, k, n, at if t == 273 else v) for t, k, n, v in entries]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + b"\0" * 4 + data)
    return path


def white_is_zero(path):
    return saved(path, np.full((2, 3), 5, np.uint16), tiffinfo={262: 0})


def pictures(path, **options):
    frames = [one("RGB", (n, 0, 0)) for n in (0, 200)]
    return saved(path, frames[0], save_all=True, append_images=frames[1:], **options)


def dark(path):
    """Twelve bits in sixteen, as cameras and scanners have them."""
    return saved(path, np.full((2, 3), 4095, np.uint16))


def dark_colours(path):
    cv2.imwrite(str(path), np.full((2, 3, 3), 4095, np.uint16))


REFUSED = {
    "F.bmp": (lambda p: saved(p, np.zeros((2, 3), np.float32), format="TIFF"), "floating point"),
    "I.tif": (lambda p: saved(p, np.zeros((2, 3), np.int32)), "32-bit or signed grey"),
    "LAB.tif": (lab, "mode LAB has no conversion"),
    "12.tif": (twelve_bits, "grey whose white is not 65535"),
    "zero.tif": (white_is_zero, "grey whose white is not 65535"),
    "grey.png": (
        lambda p: saved(p, np.full((2, 3), 5, np.uint16), transparency=5),
        "16-bit grey with a transparent value",
    ),
    "3000.png": (dark, "16 bits a value, but none above 1/8 of white"),
    "3000.tif": (dark, "16 bits a value, but none above 1/8 of white"),
    "rgb48.png": (dark_colours, "16 bits a value, but none above 1/8 of white"),
    "rgb48.tif": (dark_colours, "16 bits a value, but none above 1/8 of white"),
    "float.tif": (
        lambda p: cv2.imwrite(str(p), np.ones((2, 3, 3), np.float32)),
        "a TIFF of a kind that has no conversion to RGB here",
    ),
    "gif.jpg": (lambda p: pictures(p, format="GIF"), r"holds 2 pictures \(GIF\)"),
    "pages.tif": (pictures, r"holds 2 pictures \(TIFF\)"),
    "apng.png": (pictures, r"holds 2 pictures \(PNG\)"),
    "moves.webp": (pictures, r"holds 2 pictures \(WEBP\)"),
    "eps.jpg": (lambda p: saved(p, one("RGB", 0), format="EPS"), "not an image of a known format"),
    "empty.jpg": (lambda p: p.write_bytes(b""), "not an image of a known format"),
}


@pytest.mark.parametrize("read", [read_rgb, lambda p: as_rgb(Image.open(p), str(p))])
def test_what_is_transparent_all_over_hides_its_colours(tmp_path, read):
    path = saved(tmp_path / "a.png", one("RGBA", (200, 0, 0, 0)))
    refused(path, "is transparent all over, which hides its colours; remove the alpha", read)


@pytest.mark.parametrize("key", ["Raw profile type exif", "XML:com.adobe.xmp"])
def test_an_orientation_in_a_text_of_a_png_is_seen(tmp_path, key):
    exif = Image.Exif()
    exif[274] = 6
    coded = exif.tobytes().hex()
    texts = {
        "Raw profile type exif": f"\nexif\n{len(coded) // 2:8}\n{coded}\n",
        "XML:com.adobe.xmp": '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>',
    }
    info = PngInfo()
    info.add_itxt(key, texts[key]) if "XML" in key else info.add_text(key, texts[key])
    path = saved(tmp_path / "a.png", one("L", 1), pnginfo=info)
    refused(path, "EXIF orientation 6")
    refused(path, "EXIF orientation 6", image_size)
    refused(path, "EXIF orientation 6", read_label)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_right_conversion_is_refused(tmp_path, name):
    make, message = REFUSED[name]
    make(tmp_path / name)
    refused(tmp_path / name, message)
    refused(tmp_path / name, message, image_size)


def test_a_cameras_preview_is_no_second_picture(tmp_path):
    path = pictures(tmp_path / "a.jpg", format="MPO")
    with Image.open(path) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert pixel(path)[0] < 5


def turned(path, orientation, **options):
    exif = Image.Exif()
    exif[274] = orientation
    return saved(path, one("RGB", (9, 8, 7)), exif=exif, **options)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_an_exif_orientation_is_refused(tmp_path, suffix, orientation):
    path = turned(tmp_path / f"a{suffix}", orientation)
    message = f"EXIF orientation {orientation}, .*mogrify -auto-orient.*dataset.orientation"
    refused(path, message)
    refused(path, message, image_size)
    if suffix == ".tif":  # which Pillow turns, so it is never as stored
        refused(path, message, stored=True)
    else:
        assert image_size(path, stored=True) == read_rgb(path, stored=True).shape[:2] == (2, 3)


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_orientation_that_turns_nothing(tmp_path, orientation):
    assert image_size(turned(tmp_path / "a.jpg", orientation)) == (2, 3)


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path / "a.png", one("RGB", (9, 8, 7)))
    data = path.read_bytes()
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + content
    chunk = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(data[:-12] + chunk + data[-12:])
    refused(path, "EXIF orientation 6")


def test_a_damaged_exif_block_says_nothing(tmp_path):
    path = turned(tmp_path / "a.jpg", 6)
    path.write_bytes(path.read_bytes().replace(b"Exif\0\0MM", b"Exif\0\0XX"))
    assert read_rgb(path).shape == (2, 3, 3)


def test_what_is_no_file_is_refused_without_waiting(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as one_socket:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        one_socket.bind("socket.jpg")
        for name, message in (
            ("pipe.jpg", "is a named pipe, not a file"),
            ("folder.jpg", "is a folder, not a file"),
            ("socket.jpg", "is a socket, not a file"),
            ("loop.jpg", "cannot be read"),
            ("gone.jpg", "no such"),
        ):
            for read in (read_rgb, image_size, read_label):
                refused(tmp_path / name, message, read)
    refused("/dev/null", "is a device, not a file")


def test_a_decompression_bomb_is_one_line(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", one("L", 0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    for read in (read_rgb, image_size, read_label):
        refused(path, r"its header says more than 0 million pixels\); replace", read)


def label_png(path, values, palette=None, mode="P", **options):
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    if mode == "P":
        image.putpalette((voc_palette() if palette is None else palette).tobytes())
    return saved(path, image, **options)


def test_palettes_must_be_the_vocabularys(tmp_path):
    values = [[0, 1, 2, 255]]
    path = label_png(tmp_path / "a.png", values)
    assert read_label(path, COLOURS).tolist() == values
    swapped = voc_palette().copy()
    swapped[[1, 2]] = swapped[[2, 1]]
    label_png(path, values, swapped)
    refused(
        path, r"gives 1 the colour \(0, 128, 0\), which is that of 2", read_label, colours=COLOURS
    )
    assert read_label(path).tolist() == values  # without a vocabulary nothing is compared
    label_png(path, [[0, 3]], swapped)
    assert read_label(path, COLOURS).tolist() == [[0, 3]]  # what is swapped does not occur
    label_png(path, values, np.roll(voc_palette(), 1, axis=0))
    refused(path, "its palette gives 0 the colour", read_label, colours=COLOURS)
    label_png(path, values, np.zeros((256, 3), np.uint8))
    refused(
        path, r"gives 1 the colour \(0, 0, 0\), which is that of 0", read_label, colours=COLOURS
    )


def test_palettes_of_other_colours_say_nothing(tmp_path):
    values = [[0, 1, 7, 128, 255]]
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    path = label_png(tmp_path / "a.png", values, grey)  # (128, 128, 128) is that of 7
    assert read_label(path, COLOURS).tolist() == values
    own = np.random.default_rng(0).integers(1, 60, (256, 3)).astype(np.uint8)
    assert read_label(label_png(path, values, own), COLOURS).tolist() == values
    assert read_label(label_png(path, [[0, 1]], own[:2]), COLOURS).tolist() == [[0, 1]]


def test_grey_masks_with_other_indices_are_refused(tmp_path):
    def greys(*values):
        return np.repeat(np.array(values, np.uint8)[:, None], 3, axis=1)

    path, values = tmp_path / "a.png", [[0, 1, 2]]
    for palette in ((0, 1, 255), (0, 5, 20), (0, 9, 1)):
        label_png(path, values, greys(*palette))
        refused(
            path,
            f"its palette holds the greys {', '.join(map(str, sorted(palette)))}, values of the "
            "vocabulary, at 0, 1, 2, as optimisers store a grey mask; save it as a grey PNG",
            read_label,
            colours=COLOURS,
        )
    for palette in ((0, 127, 254), (0, 1, 2, 255), (0, 255, 21)):  # 21 is no class
        assert read_label(label_png(path, values, greys(*palette)), COLOURS).tolist() == values
    assert read_label(label_png(path, [[0, 1]], greys(0, 255)), COLOURS).tolist() == [[0, 1]]
    many = {tuple(colour): value for value, colour in enumerate(voc_palette()[:200].tolist())}
    assert read_label(label_png(path, [[0, 7]]), many).tolist() == [[0, 7]]  # 7 is grey, 128


def test_colours_are_read_through_the_vocabulary(tmp_path):
    values = np.random.default_rng(0).integers(0, 21, (5, 4), dtype=np.uint8)
    values[0, 0] = 255
    path = saved(tmp_path / "a.png", voc_palette()[values])
    np.testing.assert_array_equal(read_label(path, COLOURS), values)
    alpha = np.full((*values.shape, 1), 255, np.uint8)
    saved(path, np.concatenate([voc_palette()[values], alpha], axis=2))
    np.testing.assert_array_equal(read_label(path, COLOURS), values)
    for seen in (0, 128):
        alpha[2, 2] = seen
        saved(path, np.concatenate([voc_palette()[values], alpha], axis=2))
        refused(path, "a mask with transparency", read_label, colours=COLOURS)
    colours = voc_palette()[values]
    colours[3, 1] = 1, 2, 3
    saved(path, colours)
    refused(path, r"holds the colour \(1, 2, 3\), which no class", read_label, colours=COLOURS)
    refused(path, "not RGB; store the class", read_label)


def low_bits(path, bits):
    """A grey PNG of 2 or 4 bits, as pngcrush makes them: Pillow would give 85 or 17 for 1."""

    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0\x11"))
        + chunk(b"IEND", b"")
    )
    return path


def test_masks_of_other_kinds(tmp_path):
    grey = np.full((8, 8), 12, np.uint8)
    path = tmp_path / "a.png"
    for kind in ("JPEG", "GIF", "BMP"):
        saved(path, grey, format=kind)
        refused(path, f"a {kind}; a mask must be a PNG", read_label)
    for bits in (2, 4):
        refused(low_bits(path, bits), f"a grey PNG of {bits} bits", read_label)
    saved(path, grey.astype(np.uint16))
    refused(path, "must be a palette or an 8-bit grey PNG, not I;16", read_label)
    saved(path, one("1", 1))
    refused(path, "not 1;", read_label)
    pictures(path)
    refused(path, "holds 2 pictures", read_label)
    turned(path, 6)
    refused(path, "EXIF orientation 6", read_label)
    for bits in (1, 2, 4):  # of indices: they stay what they are
        label_png(path, [[0, 1]], bits=bits)
        assert read_label(path, COLOURS).tolist() == [[0, 1]]


def test_every_cut_of_every_format_is_one_line(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, format=kind)
        whole = buffer.getvalue()
        for length in range(0, len(whole) - 8, max(1, len(whole) // 25)):
            path = tmp_path / "a.jpg"
            path.write_bytes(whole[:length])
            with suppress(InputError):  # a cut that leaves the picture whole is none
                read_rgb(path)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_numbers_from_0_to_1_that_were_saved_as_bytes_are_refused(tmp_path, mode):
    # FAULTS 7
    values = np.random.default_rng(0).integers(0, 2, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(values).convert("L" if mode == "L" else "RGB").convert(mode)
    if mode == "L":
        picture = Image.fromarray(values[..., 0])
    picture.save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: holds 0 and 1 only of 255, as numbers from 0"):
        read_rgb(tmp_path / "a.png")
    for fine in (values * 0, values * 2):
        Image.fromarray(fine).save(tmp_path / "a.png")
        assert read_rgb(tmp_path / "a.png").max() == fine.max()
    Image.fromarray(values[..., 0] * 255).convert("1").save(tmp_path / "a.png")
    assert read_rgb(tmp_path / "a.png").max() == 255
