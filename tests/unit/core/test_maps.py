"""The file of maps of a shard, and maps at full size."""

import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import ImageMaps, load_npz, read_maps, read_skipped, write_maps


@given(seed=st.integers(0, 1000), count=st.integers(0, 4))
@settings(max_examples=20)
def test_file_of_maps_round_trips(seed, count):
    rng = np.random.default_rng(seed)
    images = []
    for index in range(count):
        shape = tuple(rng.integers(1, 5, 3))
        images.append(
            ImageMaps(
                f"2008_{index:06}é",
                tuple(rng.integers(1, 500, 2).tolist()),
                rng.permutation(20)[: shape[0]],
                rng.random(shape, dtype=np.float32),
                bool(index % 2),
            )
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "000.npz"
        write_maps(path, images, {"bad": "bad.jpg: truncated"})
        found, skipped = read_maps(path), read_skipped(path)
        first = path.read_bytes()
        write_maps(path, images, {"bad": "bad.jpg: truncated"})
        assert path.read_bytes() == first
        assert [file.name for file in path.parent.iterdir()] == ["000.npz"]
        with zipfile.ZipFile(path) as archive:
            assert {one.compress_type for one in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    assert skipped == {"bad": "bad.jpg: truncated"}
    assert len(found) == count
    for ours, theirs in zip(found, images, strict=True):
        assert (ours.id, ours.size) == (theirs.id, theirs.size)
        assert ours.scaled_down is theirs.scaled_down
        assert (ours.keys.dtype, ours.maps.dtype) == (np.int64, np.float32)
        np.testing.assert_array_equal(ours.keys, theirs.keys)
        np.testing.assert_array_equal(ours.maps, theirs.maps)


def test_damaged_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_maps(tmp_path / "none.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(InputError, match=r"pipe\.npz: is a named pipe"):
        read_maps(tmp_path / "pipe.npz")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(InputError, match=r"half\.npz: not an npz"):
        read_maps(tmp_path / "half.npz")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("maps", lambda a: a * np.nan, "maps must be finite numbers"),
        ("maps", lambda a: a[:-1], r"maps are \(11,\), not \(12,\)"),
        ("keys", lambda a: a[:-1], r"keys are \(1,\), not \(2,\)"),
        ("keys", lambda a: -a - 1, "keys must be whole numbers"),
        ("grids", lambda a: a[:0], r"grids are \(0, 2\), not \(1, 2\)"),
        ("grids", lambda a: -a, "grids must be whole numbers of at least 0"),
        ("sizes", lambda a: a[0], r"sizes are \(2,\), not \(1, 2\)"),
        ("classes", lambda a: a.astype(float), "classes must be whole numbers"),
    ],
)
def test_a_shard_whose_arrays_do_not_fit_is_refused(tmp_path, name, change, message):
    path = tmp_path / "a.npz"
    write_maps(path, [ImageMaps("a", (9, 8), np.arange(2), np.ones((2, 2, 3), np.float32))])
    assert len(read_maps(path)) == 1
    arrays = load_npz(path)
    np.savez(path, **(arrays | {name: change(arrays[name])}))
    with pytest.raises(InputError, match=rf"a\.npz: is not a shard of maps \({message}"):
        read_maps(path)


def test_a_shard_with_an_image_twice_or_without_a_reason_is_refused(tmp_path):
    path, maps = tmp_path / "a.npz", np.ones((2, 2, 3), np.float32)
    write_maps(path, [ImageMaps("a", (9, 8), np.arange(2), maps)] * 2, {"b": "truncated"})
    with pytest.raises(InputError, match=r"is not a shard of maps \(two images have the same id"):
        read_maps(path)
    np.savez(path, **(load_npz(path) | {"reasons": np.zeros(0, np.str_)}))
    with pytest.raises(InputError, match=r"\(skipped are \(1,\), reasons \(0,\)\)"):
        read_skipped(path)


def test_pickles_are_not_read(tmp_path):
    np.savez(tmp_path / "x.npz", ids=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"x\.npz: not an npz that can be read"):
        load_npz(tmp_path / "x.npz")


def test_an_npz_that_is_not_a_shard_gets_one_line(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(1))
    for read in (read_maps, read_skipped):
        with pytest.raises(InputError, match="is not a shard of maps"):
            read(tmp_path / "x.npz")
