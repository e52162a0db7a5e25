"""Plain folders: what other programs read is what the archives and shards hold."""

import numpy as np
import pytest
from PIL import Image
from small_dataset import NAMES, SIZE

from clip_wsss.core.archives import Archive, encode_image, write_archive
from clip_wsss.core.confidence import EDGES, encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import read_fraction, read_label
from clip_wsss.core.maps import ImageMaps, write_maps
from clip_wsss.export import export_maps, export_masks
from clip_wsss.masks.write import write_import
from clip_wsss.report.pictures import heat_overlay


@pytest.fixture
def masks(tmp_path):
    """Two shards of masks: labels, with 255, and codes by id."""
    rng = np.random.default_rng(0)
    made = {
        name: (rng.choice([0, 1, 2, 255], SIZE).astype(np.uint8), rng.integers(0, 70, SIZE))
        for name in NAMES
    }
    paths = [tmp_path / "0.zip", tmp_path / "1.zip"]
    for path, part in zip(paths, (NAMES[:2], NAMES[2:]), strict=True):
        write_archive(path, "masks", [encode_image(name, *made[name]) for name in part])
    return paths, made


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_masks_are_exported_whole_and_thresholded(masks, tmp_path):
    paths, made = masks
    export_masks(paths, tmp_path / "out", mu=0.95)
    assert files(tmp_path / "out") == [
        f"{folder}/{name}.png"
        for folder in ("confidence", "labels-mu0.95", "labels")
        for name in sorted(NAMES)
    ]
    for name, (label, codes) in made.items():
        np.testing.assert_array_equal(read_label(tmp_path / f"out/labels/{name}.png"), label)
        with Image.open(tmp_path / f"out/labels-mu0.95/{name}.png") as image:
            assert image.mode == "P"
            kept = EDGES[codes] >= np.float32(0.95)
            np.testing.assert_array_equal(image, np.where(kept, label, 255))
        with Image.open(tmp_path / f"out/confidence/{name}.png") as image:
            assert image.mode == "L"
            grey = np.asarray(image).astype(float)
        assert ((grey - 255 * EDGES[codes] > -1e-3) & (grey - 255 * EDGES[codes] < 1)).all()
        assert (grey[codes == 69] == 255).all()


def test_without_mu_nothing_is_thresholded(masks, tmp_path):
    export_masks(masks[0], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"labels", "confidence"}
    with pytest.raises(InputError, match=r"mu: must be a step .* got 0\.955"):
        export_masks(masks[0], tmp_path / "out", mu=0.955)


def test_an_export_can_be_imported(masks, dataset, tmp_path):
    """Labels are the same, and codes too but for the finest, which share grey values."""
    paths, made = masks
    export_masks(paths, tmp_path / "out")
    out = tmp_path / "out"
    write_import(dataset, NAMES, out / "labels", out / "confidence", tmp_path / "again.zip")
    again = Archive(tmp_path / "again.zip")
    for name, (label, codes) in made.items():
        np.testing.assert_array_equal(again.label(name), label)
        plain = codes <= encode(np.float32(0.98))
        assert plain.any()
        np.testing.assert_array_equal(again.codes(name)[plain], codes[plain])
        assert (again.codes(name) >= codes).all()


def test_predictions_have_labels_only(masks, tmp_path):
    label = masks[1]["a"][0]
    write_archive(tmp_path / "p.zip", "predictions", [encode_image("a", label)])
    export_masks([tmp_path / "p.zip"], tmp_path / "out")
    assert files(tmp_path / "out") == ["labels/a.png"]
    with pytest.raises(InputError, match="holds predictions, which have no confidences"):
        export_masks([tmp_path / "p.zip"], tmp_path / "out", mu=0.5)


def test_maps_are_exported_as_arrays_and_overlays(dataset, tmp_path):
    rng = np.random.default_rng(0)
    images = [
        ImageMaps(name, SIZE, np.array(keys), rng.random((len(keys), 3, 4), np.float32))
        for name, keys in zip(NAMES, ([1], [0, 1], [0]), strict=True)
    ]
    shards = [tmp_path / "0.npz", tmp_path / "1.npz"]
    write_maps(shards[0], images[:1])
    write_maps(shards[1], images[1:])
    export_maps(dataset, shards, tmp_path / "out")
    assert len(files(tmp_path / "out")) == 9
    for image in images:
        maps, keys = (np.load(tmp_path / f"out/{part}/{image.id}.npy") for part in ("maps", "keys"))
        np.testing.assert_array_equal(maps, image.maps)
        np.testing.assert_array_equal(keys, image.keys)
        assert maps.dtype == np.float32
        with Image.open(tmp_path / f"out/overlays/{image.id}.jpg") as picture:
            want = heat_overlay(dataset.image(image.id), image.maps).astype(int)
            assert np.abs(np.asarray(picture).astype(int) - want).mean() < 12
    write_maps(shards[0], [ImageMaps("a", (20, 31), np.array([0]), images[0].maps)])
    with pytest.raises(InputError, match=r"a was .* make the maps again"):
        export_maps(dataset, shards[:1], tmp_path / "out")


def test_grey_of_a_certain_pixel_is_white(masks, tmp_path):
    label = np.zeros((1, 70), np.uint8)
    write_archive(tmp_path / "m.zip", "masks", [encode_image("a", label, np.arange(70)[None])])
    export_masks([tmp_path / "m.zip"], tmp_path / "out")
    found = read_fraction(tmp_path / "out/confidence/a.png")[0]
    assert (np.diff(found) >= 0).all()
    assert (found[0], found[-1]) == (0, 1)
    assert (encode(found)[:59] == np.arange(59)).all()
