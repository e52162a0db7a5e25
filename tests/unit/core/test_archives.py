"""Archives: what goes in comes out, the same bytes each time, and nothing else is read."""

import copy
import io
import json
import multiprocessing
import os
import pickle
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_wsss.core.archives import (
    Archive,
    Archives,
    EncodedImage,
    encode_image,
    write_archive,
)
from clip_wsss.core.confidence import decode, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import encode_grey, encode_label, voc_palette

SIZES = {"cat": (6, 9), "a b": (12, 5), "ü": (1, 1)}


def images(kind="masks", seed=0, sizes=SIZES):
    """Labels and codes of random images by id."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, size in sizes.items():
        label = rng.choice([0, 3, 20, 255], size).astype(np.uint8)
        codes = rng.integers(0, 70, size).astype(np.uint8) if kind == "masks" else None
        made[name] = label, codes
    return made


def write(path, kind="masks", content=None, skipped=None):
    content = images(kind) if content is None else content
    encoded = [encode_image(name, *pair) for name, pair in content.items()]
    left_out = [EncodedImage(name, skipped=why) for name, why in (skipped or {}).items()]
    write_archive(path, kind, [*encoded[:1], *left_out, *encoded[1:]])
    return content


def check(archive, content):
    for name, (label, codes) in content.items():
        np.testing.assert_array_equal(archive.label(name), label)
        if codes is not None:
            np.testing.assert_array_equal(archive.codes(name), codes)


@pytest.mark.parametrize("kind", ["masks", "predictions"])
def test_round_trip(tmp_path, kind):
    path = tmp_path / "deep" / "a.zip"
    content = write(path, kind, skipped={"dog": "dog.jpg: truncated"})
    archive = Archive(path)
    assert (archive.kind, archive.ids) == (kind, list(SIZES))
    assert archive.skipped == {"dog": "dog.jpg: truncated"}
    check(archive, content)
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]
    assert archive.label_png("cat") == encode_label(content["cat"][0])
    if kind == "masks":
        confidence = archive.confidence("cat")
        assert confidence.dtype == np.float32
        np.testing.assert_array_equal(confidence, decode(content["cat"][1]))
    else:
        with pytest.raises(InputError, match="holds predictions, which have no confidences"):
            archive.codes("cat")
    with pytest.raises(InputError, match=r"a\.zip: has no dog; dog\.jpg: truncated"):
        archive.label("dog")
    with pytest.raises(InputError, match=r"a\.zip: has no cow"):
        archive.label("cow")


@settings(max_examples=20)
@given(st.dictionaries(st.text("abcé_.-0", min_size=1, max_size=8), st.integers(1, 40), max_size=5))
def test_round_trip_of_any_images(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("archive") / "a.zip"
    content = write(path, content=images(sizes={name: (n, 41 - n) for name, n in sizes.items()}))
    archive = Archive(path)
    assert archive.ids == list(content)
    check(archive, content)


def test_an_archive_is_a_plain_zip_of_pictures(tmp_path):
    write(tmp_path / "a.zip", skipped={"dog": "why"})
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            *(f"{folder}/{name}.png" for name in SIZES for folder in ("labels", "confidence")),
            "manifest.json",
        ]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert json.loads(archive.read("manifest.json")) == {
            "format": 1,
            "kind": "masks",
            "ids": list(SIZES),
            "skipped": {"dog": "why"},
        }
        label, grey = (
            Image.open(io.BytesIO(archive.read(f"{folder}/cat.png")))
            for folder in ("labels", "confidence")
        )
        assert (label.mode, grey.mode) == ("P", "L")
        np.testing.assert_array_equal(label.convert("RGB"), voc_palette()[images()["cat"][0]])


def test_the_same_images_give_the_same_bytes(tmp_path, monkeypatch):
    write(tmp_path / "a.zip")
    monkeypatch.setattr("time.time", lambda: 2e9)
    write(tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    write(tmp_path / "c.zip", content=images(seed=1))
    assert (tmp_path / "a.zip").read_bytes() != (tmp_path / "c.zip").read_bytes()


def test_a_write_that_fails_leaves_the_archive_of_before(tmp_path):
    content = write(tmp_path / "a.zip")

    def broken():
        yield encode_image("x", *content["cat"])
        raise InputError("y.jpg: truncated")

    with pytest.raises(InputError, match="truncated"):
        write_archive(tmp_path / "a.zip", "masks", broken())
    check(Archive(tmp_path / "a.zip"), content)


def read_all(archive):
    return [archive.codes(name).tobytes() + archive.label(name).tobytes() for name in archive.ids]


def test_threads_processes_and_copies_share_an_archive(tmp_path):
    sizes = {f"image{number}": (30, 40) for number in range(20)}
    write(tmp_path / "a.zip", content=images(sizes=sizes))
    archive = Archive(tmp_path / "a.zip")
    want = read_all(archive)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == want for found in pool.map(read_all, [archive] * 8))
    assert read_all(pickle.loads(pickle.dumps(archive))) == want
    assert read_all(copy.deepcopy(archive)) == want
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as processes:
            assert processes.map(read_all, [archive] * 4) == [want] * 4
    assert read_all(archive) == want


def test_an_archive_is_small(tmp_path):
    """At most 40 % of label PNGs and 16-bit confidence PNGs, at the fastest compression."""
    rng = np.random.default_rng(0)
    noise = cv2.GaussianBlur(rng.random((150, 200), np.float32), (0, 0), 8)
    confidence = (noise - noise.min()) / np.ptp(noise)
    confidence = np.clip(0.5 + confidence + 0.02 * rng.random(noise.shape, np.float32), 0, 1)
    label = (noise > 0.5).astype(np.uint8)
    steps = np.rint(confidence.astype(np.float64) * 65535).astype(np.uint16)
    before = len(encode_label(label)) + len(cv2.imencode(".png", steps)[1])
    write(tmp_path / "a.zip", content={"2007_000032": (label, encode(confidence))})
    assert (tmp_path / "a.zip").stat().st_size <= 0.4 * before


def test_an_open_archive_outlives_its_replacement(tmp_path):
    content = write(tmp_path / "a.zip")
    archive = Archive(tmp_path / "a.zip")
    write(tmp_path / "a.zip", content=images(seed=1))
    check(archive, content)


def raw(path, members, manifest, **options):
    """Write a zip of anything."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        if manifest is not None:
            text = manifest if isinstance(manifest, str) else json.dumps(manifest)
            archive.writestr("manifest.json", text)


MANIFEST = {"format": 1, "kind": "predictions", "ids": ["a"], "skipped": {}}
LABEL = {"labels/a.png": encode_label(np.zeros((2, 2), np.uint8))}

FOREIGN = [
    (LABEL, None, "without a manifest"),
    (LABEL, "{", "manifest that cannot be read"),
    (LABEL, "[" * 100_000, "manifest that cannot be read"),
    (LABEL, "[]", "manifest that cannot be read"),
    (LABEL, {"kind": "masks"}, "manifest that cannot be read"),
    (LABEL, MANIFEST | {"format": 2}, "has format 2, and this clip-wsss reads up to 1; install"),
    (LABEL, MANIFEST | {"format": "1"}, "manifest of something else"),
    (LABEL, MANIFEST | {"kind": "cams"}, "manifest of something else"),
    (LABEL, MANIFEST | {"ids": "a"}, "manifest of something else"),
    (LABEL, MANIFEST | {"ids": ["../a"]}, "manifest of something else"),
    (LABEL, MANIFEST | {"ids": [1]}, "manifest of something else"),
    (LABEL, MANIFEST | {"skipped": ["b"]}, "manifest that cannot be read"),
    (LABEL, MANIFEST | {"skipped": {"b": 1}}, "manifest of something else"),
    (LABEL, MANIFEST | {"ids": ["a", "b"]}, "holds other files than its manifest says"),
    (LABEL, MANIFEST | {"ids": ["a", "a"]}, "holds other files than its manifest says"),
    (LABEL, MANIFEST | {"kind": "masks"}, "holds other files than its manifest says"),
    (LABEL | {"b.txt": b""}, MANIFEST, "holds other files than its manifest says"),
]


def read_whole(path):
    """Open an archive and read all that it holds."""
    archive = Archive(path)
    for name in archive.ids:
        archive.label(name)
        if archive.kind == "masks":
            archive.codes(name)
    return archive


def refused(path, message=None):
    with pytest.raises(InputError, match=message) as caught:
        read_whole(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("members", "manifest", "message"), FOREIGN)
def test_other_zips_are_refused(tmp_path, members, manifest, message):
    raw(tmp_path / "a.zip", members, manifest)
    refused(tmp_path / "a.zip", message)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, 77])
def test_compressed_zips_are_refused(tmp_path, method):
    raw(tmp_path / "a.zip", LABEL, MANIFEST, compression=0 if method == 77 else method)
    if method == 77:  # known to nobody
        data = bytearray((tmp_path / "a.zip").read_bytes())
        data[data.index(b"PK\1\2") + 10] = 77
        (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", "labels/a.png is compressed or encrypted")


def changed(path, place, value):
    """Change bytes of the directory entry of the first member."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\1\2") + place
    data[start : start + len(value)] = value
    path.write_bytes(data)


def test_encrypted_and_absurd_zips_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    for place, value, message in (
        (8, b"\1\0", "labels/a.png is compressed or encrypted"),
        (24, struct.pack("<I", 2**31), "labels/a.png reaches beyond the end"),
        (16, struct.pack("<I", 7), "labels/a.png is damaged"),
    ):
        raw(path, LABEL, MANIFEST)
        changed(path, place, value)
        refused(path, message)


def test_pictures_that_are_none_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    raw(path, {"labels/a.png": b"text"}, MANIFEST)
    refused(path, "labels of a: not a whole mask")
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)  # 3.6 billion pixels
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    raw(path, {"labels/a.png": bomb}, MANIFEST)
    refused(path, "labels of a: not a whole mask .its header says more than 179 million pixels")


def test_confidences_must_fit(tmp_path):
    path, manifest = tmp_path / "a.zip", MANIFEST | {"kind": "masks"}
    raw(path, LABEL | {"confidence/a.png": encode_grey(np.full((2, 2), 70))}, manifest)
    refused(path, "a has the code 70, but there are 70")
    raw(path, LABEL | {"confidence/a.png": encode_grey(np.full((2, 3), 0))}, manifest)
    refused(path, "a has labels and confidences of different sizes")


def test_missing_and_empty_files_and_folders_are_refused(tmp_path):
    refused(tmp_path / "none.zip", "cannot be opened")
    (tmp_path / "a.zip").write_bytes(b"")
    refused(tmp_path / "a.zip", "not a whole zip")
    (tmp_path / "text.zip").write_text("label\n" * 100)
    refused(tmp_path / "text.zip", "not a whole zip")
    refused(tmp_path, "not a whole zip")
    os.mkfifo(tmp_path / "pipe.zip")
    refused(tmp_path / "pipe.zip", "not a whole zip")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.zip"
    return write(path, skipped={"dog": "why"}), path.read_bytes()


def same_or_refused(path, data, content):
    path.write_bytes(data)
    try:
        archive = read_whole(path)
    except InputError:
        refused(path)
        return
    assert archive.ids == list(content)
    assert archive.skipped == {"dog": "why"}
    check(archive, content)


@settings(max_examples=300)
@given(st.data())
def test_a_changed_byte_changes_nothing_or_is_refused(whole, tmp_path_factory, data):
    content, clean = whole
    place = data.draw(
        st.integers(0, len(clean) - 1) | st.integers(len(clean) - 700, len(clean) - 1)
    )
    damaged = bytearray(clean)
    damaged[place] ^= data.draw(st.integers(1, 255))
    same_or_refused(tmp_path_factory.mktemp("damaged") / "a.zip", damaged, content)


@settings(max_examples=50)
@given(st.data())
def test_a_cut_archive_is_refused(whole, tmp_path_factory, data):
    _, clean = whole
    path = tmp_path_factory.mktemp("cut") / "a.zip"
    path.write_bytes(clean[: data.draw(st.integers(0, len(clean) - 1))])
    refused(path, "not a whole zip")


def test_shards_are_one_mapping(tmp_path):
    content = {}
    for number, part in enumerate((["a", "b"], ["c"], [])):
        sizes = dict.fromkeys(part, (4, 5))
        content |= write(
            tmp_path / f"{number}.zip",
            content=images(seed=number, sizes=sizes),
            skipped={f"bad{number}": f"why {number}"},
        )
    archives = Archives(tmp_path / f"{number}.zip" for number in range(3))
    assert list(archives) == ["a", "b", "c"]
    assert len(archives) == 3
    assert archives.skipped == {f"bad{number}": f"why {number}" for number in range(3)}
    assert "bad1" not in archives
    for name, (label, codes) in content.items():
        np.testing.assert_array_equal(archives[name].label(name), label)
        np.testing.assert_array_equal(archives[name].codes(name), codes)
    assert list(copy.deepcopy(archives)) == list(pickle.loads(pickle.dumps(archives))) == [*"abc"]


def test_shards_that_name_an_image_twice_are_refused(tmp_path):
    sizes = {"x": (4, 5)}
    write(tmp_path / "0.zip", content=images(sizes=sizes))
    write(tmp_path / "1.zip", content=images(sizes=sizes))
    write(tmp_path / "2.zip", content={}, skipped={"x": "why"})
    for other in "12":
        with pytest.raises(InputError, match=rf"{other}\.zip: names x, and so does .*0\.zip"):
            Archives([tmp_path / "0.zip", tmp_path / f"{other}.zip"])
    with pytest.raises(InputError, match=r"9\.zip: this archive cannot be opened"):
        Archives([tmp_path / "0.zip", tmp_path / "9.zip"])
