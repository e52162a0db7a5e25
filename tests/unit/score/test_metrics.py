import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clip_wsss.core.archives import EncodedImage, encode_image, write_archive
from clip_wsss.core.confidence import encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import write_label
from clip_wsss.core.maps import ImageMaps, write_maps
from clip_wsss.data.datasets import open_dataset
from clip_wsss.masks.write import labels_and_confidence
from clip_wsss.score.confusion import miou
from clip_wsss.score.measurements import read_counts
from clip_wsss.score.metrics import Measurement, measure

POWERS = [1, 2, 4]
NAMES = ["a", "b", "c"]


@pytest.fixture
def settings(tmp_path):
    """The settings of a data set of three images with two classes."""
    root = tmp_path / "data"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(NAMES))
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / f"JPEGImages/{name}.jpg")
        truth = rng.integers(0, 3, (4, 6)).astype(np.uint8).repeat(5, axis=0).repeat(5, axis=1)
        truth[0] = 255
        write_label(root / f"SegmentationClass/{name}.png", truth)
    words = tmp_path / "vocabulary.yaml"
    words.write_text("{classes: [cat, dog], names: {plain: {}}, backgrounds: {none: [wall]}}")
    return {
        "name": "toy",
        "source": "folder",
        "root": str(root),
        "vocabulary": str(words),
        "labels": "labels.csv",
        "size": "image",
        "masks": "SegmentationClass",
        "on_bad_image": "fail",
    }


@pytest.fixture
def shards(tmp_path):
    """Two shards, and one image that is in no split."""
    rng = np.random.default_rng(1)
    made = []
    for name, keys in (("c", [1, 0]), ("a", [0]), ("b", [0, 1]), ("other", [1])):
        maps = rng.random((len(keys), 4, 6)).astype(np.float32)
        made.append(ImageMaps(name, (20, 30), np.array(keys), maps))
    paths = [tmp_path / "1.npz", tmp_path / "2.npz"]
    write_maps(paths[0], made[:2])
    write_maps(paths[1], made[2:])
    return paths, {image.id: image for image in made}


def measured(settings, stage, read, out, split="train", **more):
    """What one measurement finds, whose files are m.json and m.parquet in a folder."""
    one = Measurement(stage, read, out / "m.json", out / "m.parquet", "float32", **more)
    return measure(open_dataset(settings), split, [one])[0]


def score(settings, paths, tmp_path, powers=POWERS, **more):
    return measured(settings, "initial", paths, tmp_path / "out", powers=powers, **more)


def write(path, labels, codes=None, skipped=None):
    """An archive of labels, (20, 30) or one number for all pixels, by id."""
    kind = "predictions" if codes is None else "masks"
    images = [
        encode_image(name, np.broadcast_to(np.uint8(label), (20, 30)), codes and codes[name])
        for name, label in labels.items()
    ]
    images += [EncodedImage(name, skipped=why) for name, why in (skipped or {}).items()]
    write_archive(path, kind, images)
    return [path]


def score_labels(settings, archives, tmp_path, confidence=None):
    return measured(settings, "mask", archives, tmp_path, confidence=confidence)


def test_maps_score_as_the_masks_made_of_them(settings, shards, tmp_path):
    paths, maps = shards
    found = score(settings, paths, tmp_path)
    dataset = open_dataset(settings)
    counts = pd.read_parquet(tmp_path / "out/m.parquet")
    for power in POWERS:
        entry = {"refinement": "none", "background_power": power}
        labels = {
            name: labels_and_confidence(
                maps[name].maps, maps[name].keys, dataset.image(name), entry
            )[0]
            for name in NAMES
        }
        archives = write(tmp_path / f"{power}.zip", labels)
        masks = score_labels(settings, archives, tmp_path)
        assert found["powers"][str(power)] == masks["miou"]
        assert found["iou"][str(power)] == masks["iou"]
        pd.testing.assert_frame_equal(
            counts[counts["power"] == power].drop(columns="power").reset_index(drop=True),
            pd.read_parquet(tmp_path / "m.parquet"),
        )
    best = max(found["powers"].values())
    assert found["oracle"] == {"power": found["oracle"]["power"], "miou": best}
    assert found["powers"][f"{found['oracle']['power']:g}"] == best


def test_the_json_follows_from_the_counts(settings, shards, tmp_path):
    settings["name"] = "spaß"
    found = score(settings, shards[0], tmp_path, [*POWERS, 2.5])
    written = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    assert (tmp_path / "out/m.json").read_text(encoding="utf-8") == written
    assert list(found) == [
        "stage", "dataset", "split", "images", "seed", "precision", "skipped",
        "powers", "iou", "oracle", "maps", "zero_maps", "zero_classes", "scaled_down",
        "without_truth",
    ]  # fmt: skip
    assert list(found["powers"]) == list(found["iou"]) == ["1", "2", "2.5", "4"]
    assert (found["images"], found["split"], found["dataset"]) == (3, "train", "spaß")
    assert (found["stage"], found["seed"], found["zero_maps"]) == ("initial", None, 0)
    counts = pd.read_parquet(tmp_path / "out/m.parquet")
    assert counts.drop(columns="id").dtypes.astype(str).to_dict() == {
        "truth": "uint8",
        "prediction": "uint8",
        "power": "float64",
        "pixels": "int32",
    }
    for power, value in found["powers"].items():
        assert miou(counts[counts["power"] == float(power)], 3) == value
        assert list(found["iou"][power]) == ["background", "cat", "dog"]
        assert np.mean(list(found["iou"][power].values())) == pytest.approx(value, abs=1e-15)
    columns = ["id", "truth", "prediction", "power", "pixels"]
    assert pq.read_schema(tmp_path / "out/m.parquet").names == columns
    assert list(read_counts(tmp_path / "out/m.parquet", 2)) == [*columns[:3], "pixels"]
    pixels = counts[counts["power"] == 1].groupby("id", sort=False)["pixels"].sum()
    assert pixels.to_dict() == dict.fromkeys(NAMES, 19 * 30)


def test_the_oracle_chooses_among_the_powers(settings, shards, tmp_path):
    found = score(settings, shards[0], tmp_path)
    others = [power for power in POWERS if power != found["oracle"]["power"]]
    swept = score(settings, shards[0], tmp_path, sweep=others)
    assert swept["powers"] == found["powers"]
    # FAULTS 16: a power that is counted for a run is none of the oracle's, however good
    best = max(others, key=lambda power: swept["powers"][f"{power:g}"])
    assert swept["oracle"] == {"power": best, "miou": swept["powers"][f"{best:g}"]}
    assert swept["oracle"]["miou"] < found["oracle"]["miou"]
    assert score(settings, shards[0], tmp_path, others)["oracle"]["power"] in others
    with pytest.raises(InputError, match=r"evaluation\.powers: must list a background power"):
        score(settings, shards[0], tmp_path, [])


def test_maps_that_are_zero_all_over_are_counted(settings, shards, tmp_path):
    paths, maps = shards
    maps["b"].maps[1] = 0
    maps["c"].maps[:] = -0.0
    maps["other"].maps[:] = 0  # is not scored
    maps["a"].scaled_down, maps["a"].maps[0, 0] = True, 0
    write_maps(paths[0], [maps["c"], maps["a"]])
    write_maps(paths[1], [maps["b"], maps["other"]])
    found = score(settings, paths, tmp_path)  # maps of cat, dog: c both, a cat, b both
    assert (found["maps"], found["zero_maps"], found["zero_classes"]) == (5, 3, ["dog"])
    assert (found["scaled_down"], found["without_truth"]) == (1, [])
    for keys, zero in (([1], ["dog"]), ([0], [])):  # the only map of dogs is zero; there is none
        images = [ImageMaps(name, (20, 30), np.array([0]), maps["a"].maps) for name in "ab"]
        images.append(ImageMaps("c", (20, 30), np.array(keys), maps["a"].maps * (keys == [0])))
        write_maps(paths[0], images)
        write_maps(paths[1], [])
        assert score(settings, paths, tmp_path)["zero_classes"] == zero


def test_a_map_of_minus_zero_is_one_of_zero(settings, shards, tmp_path):
    paths, _ = shards
    found = []
    for zero in (0.0, -0.0):
        maps = np.full((2, 20, 30), zero, np.float32)  # of the image's size: they are not resized
        maps[0] = np.linspace(0, 1, 30)
        write_maps(paths[1], [ImageMaps("b", (20, 30), np.array([0, 1]), maps)])
        found.append(score(settings, paths, tmp_path))
    assert found[0] == found[1]


def test_two_runs_write_the_same_bytes(settings, shards, tmp_path):
    score(settings, shards[0], tmp_path)
    first = [(tmp_path / f"out/m.{kind}").read_bytes() for kind in ("json", "parquet")]
    score(settings, shards[0], tmp_path)
    assert [(tmp_path / f"out/m.{kind}").read_bytes() for kind in ("json", "parquet")] == first
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["m.json", "m.parquet"]


@pytest.fixture
def several(shards, tmp_path):
    """Measurements of the same two shards: two of maps and one of masks."""
    rng = np.random.default_rng(2)
    codes = {name: np.full((20, 30), 60, np.uint8) for name in [*NAMES, "other"]}
    labels = {name: rng.integers(0, 3, (20, 30)) for name in codes}
    archives = [
        *write(tmp_path / "1.zip", {name: labels[name] for name in "ca"}, codes),
        *write(tmp_path / "2.zip", {name: labels[name] for name in ("b", "other")}, codes),
    ]

    def make(folder):
        def one(name, stage, read, **more):
            return Measurement(
                stage, read, folder / f"{name}.json", folder / f"{name}.parquet", "float32", **more
            )

        return [
            one("all", "initial", shards[0], powers=POWERS),
            one("two", "refined", shards[0], powers=[1, 4]),
            one("masks", "mask", archives, confidence=folder / "confidence.parquet"),
        ]

    return make


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_several_measurements_are_what_each_is_alone(settings, several, tmp_path, workers, caplog):
    dataset = open_dataset(settings)
    caplog.set_level("INFO")
    together = measure(dataset, "train", several(tmp_path / "together"), workers)
    assert f"score train: {len(dataset.ids('train'))} images in " in caplog.text
    alone = [measure(dataset, "train", [one])[0] for one in several(tmp_path / "alone")]
    assert together == alone
    files = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert len(files) == 7
    for name in files:
        assert (tmp_path / "together" / name).read_bytes() == (
            tmp_path / "alone" / name
        ).read_bytes()


def test_the_ground_truth_is_read_once_for_all(settings, several, tmp_path, monkeypatch):
    dataset, read = open_dataset(settings), []
    mask = dataset.mask
    monkeypatch.setattr(dataset, "mask", lambda name: read.append(name) or mask(name))
    measure(dataset, "train", several(tmp_path / "out"))
    assert sorted(read) == NAMES


def test_an_image_in_two_shards_is_refused(settings, tmp_path):
    archives = [*write(tmp_path / "1.zip", {"a": 0, "b": 0}), *write(tmp_path / "2.zip", {"b": 0})]
    with pytest.raises(InputError, match=r"2\.zip: names b, and so does .*1\.zip; delete"):
        score_labels(settings, archives, tmp_path)


def test_a_class_that_is_only_predicted_has_no_iou(settings, tmp_path):
    for name in NAMES:
        write_label(tmp_path / f"data/SegmentationClass/{name}.png", np.zeros((20, 30)))
    archives = write(tmp_path / "p.zip", dict.fromkeys(NAMES, 2))
    found = measured(settings, "segmentation", archives, tmp_path, seed=3)
    assert json.loads((tmp_path / "m.json").read_text()) == found
    assert list(found) == [
        "stage", "dataset", "split", "images", "seed", "precision", "skipped",
        "miou", "iou", "unlabelled", "exchanged", "without_truth",
    ]  # fmt: skip
    assert found["iou"] == {"background": 0.0, "cat": None, "dog": None}
    assert found["without_truth"] == ["cat", "dog"]
    assert (found["miou"], found["seed"], found["precision"]) == (0.0, 3, "float32")
    assert (found["stage"], found["split"], found["unlabelled"]) == ("segmentation", "train", 0)


def test_an_unlabelled_pixel_is_a_miss_and_no_false_alarm(settings, tmp_path):
    truth = np.zeros((20, 30), np.uint8)
    truth[:, 10:20], truth[:5, 20:] = 1, 255
    label = truth.copy()
    label[:2] = 255  # 20 of background, 20 of cat, 20 ignored
    label[10:12, :5] = 1  # 10 false alarms of cat
    for name in NAMES:
        write_label(tmp_path / f"data/SegmentationClass/{name}.png", truth)
    codes = dict.fromkeys(NAMES, np.full((20, 30), 55, np.uint8))
    archives = write(tmp_path / "m.zip", dict.fromkeys(NAMES, label), codes)
    found = score_labels(settings, archives, tmp_path, tmp_path / "c.parquet")
    background, cat = 350, 200
    assert found["iou"] == {
        "background": (background - 30) / background,
        "cat": (cat - 20) / (cat + 10),
        "dog": None,
    }
    assert found["unlabelled"] == 40 / (background + cat)
    counts = pd.read_parquet(tmp_path / "m.parquet")
    assert counts[counts["prediction"] == 255].groupby("truth")["pixels"].sum().tolist() == [60, 60]
    assert pd.read_parquet(tmp_path / "c.parquet")["pixels"].sum() == 3 * (background + cat - 40)


def test_confidence_is_counted_beside_the_labels(settings, tmp_path):
    dataset, labels, codes = open_dataset(settings), {}, {}
    for name in NAMES:
        truth = dataset.mask(name)
        label = np.where(truth == 255, 0, truth)
        label[5] = 2 - label[5]  # one row wrong where it is not class 1
        confidence = np.full(truth.shape, 0.97, np.float32)
        confidence[5] = 0.6
        labels[name], codes[name] = label, encode(confidence)
    archives = write(tmp_path / "m.zip", labels, codes)
    score_labels(settings, archives, tmp_path, tmp_path / "confidence.parquet")
    table = pd.read_parquet(tmp_path / "confidence.parquet")
    assert table["pixels"].sum() == 3 * 19 * 30
    sure = table[table["lower"] >= 0.95]
    assert sure["pixels"].sum() == sure["correct"].sum() == 3 * 18 * 30
    assert table[table["lower"] == 0.6]["pixels"].sum() == 3 * 30


def test_masks_without_a_sure_pixel_are_counted(settings, tmp_path):
    # FAULTS 4
    dataset = open_dataset(settings)
    labels = {name: dataset.mask(name) * 0 for name in NAMES}
    codes = {name: np.full((20, 30), encode(np.float32(0.949)), np.uint8) for name in NAMES}
    first, second, third = NAMES
    codes[first][0, 0] = encode(np.float32(0.95))
    labels[second][:] = 255  # what is unlabelled is not sure, whatever its code
    codes[second][:] = encode(np.float32(1))
    archives = write(tmp_path / "m.zip", labels, codes)
    assert score_labels(settings, archives, tmp_path, tmp_path / "c.parquet")["unsure"] == 2
    codes[third][0, 0] = encode(np.float32(0.95))
    archives = write(tmp_path / "m.zip", labels, codes)
    assert score_labels(settings, archives, tmp_path, tmp_path / "c.parquet")["unsure"] == 1


def break_mask(settings, tmp_path):
    (tmp_path / "data/SegmentationClass/b.png").unlink()


def break_size(settings, tmp_path):
    write_label(tmp_path / "data/SegmentationClass/b.png", np.zeros((4, 4)))


def break_shard(settings, tmp_path):
    write_maps(tmp_path / "2.npz", [], {"b": "b.jpg: not a whole image"})


def break_map(settings, tmp_path):
    bad = np.full((1, 4, 6), -1, np.float32)
    write_maps(tmp_path / "2.npz", [ImageMaps("b", (20, 30), np.array([0]), bad)])


BREAKS = [
    (break_mask, "b.png: no such mask"),
    (break_size, "b.png: is 4 x 4"),
    (break_shard, "b.jpg: not a whole image"),
    (break_map, "b has a map with values below 0 or NaN"),
]


@pytest.mark.parametrize(("damage", "message"), BREAKS)
def test_a_bad_image_stops_the_job_or_is_listed(settings, shards, tmp_path, damage, message):
    damage(settings, tmp_path)
    with pytest.raises(InputError, match=message):
        score(settings, shards[0], tmp_path)
    assert not (tmp_path / "out/m.json").exists()
    found = score({**settings, "on_bad_image": "skip"}, shards[0], tmp_path)
    assert (found["skipped"], found["images"]) == (["b"], 2)


def test_an_image_without_cam_is_named(settings, shards, tmp_path):
    with pytest.raises(InputError, match=r"b: is to be scored, but no CAM was made"):
        score(settings, shards[0][:1], tmp_path)


def test_nothing_left_is_an_error_even_where_skipping_is_allowed(settings, tmp_path):
    settings["on_bad_image"] = "skip"
    archives = write(tmp_path / "m.zip", {}, skipped=dict.fromkeys(NAMES, "a.jpg: truncated"))
    with pytest.raises(InputError, match=r"mask: no image is left to score; the first: a\.jpg"):
        score_labels(settings, archives, tmp_path)
    for name in NAMES:
        (tmp_path / f"data/SegmentationClass/{name}.png").unlink()
    archives = write(tmp_path / "m.zip", dict.fromkeys(NAMES, 0))
    with pytest.raises(InputError, match=r"to score; the first: .*\.png: no such mask"):
        score_labels(settings, archives, tmp_path)


def test_an_image_without_label_is_named_or_listed(settings, tmp_path):
    archives = write(tmp_path / "m.zip", {"a": 0, "c": 1}, skipped={"b": "b.jpg: truncated"})
    with pytest.raises(InputError, match=r"^b\.jpg: truncated$"):
        score_labels(settings, archives, tmp_path)
    found = score_labels({**settings, "on_bad_image": "skip"}, archives, tmp_path)
    assert (found["skipped"], found["images"]) == (["b"], 2)
    archives = write(tmp_path / "m.zip", {"a": 0}, skipped=dict.fromkeys("bc", "truncated"))
    assert score_labels({**settings, "on_bad_image": "skip"}, archives, tmp_path)["images"] == 1
    archives = write(tmp_path / "m.zip", {"a": 0, "c": 1})
    with pytest.raises(InputError, match=r"b: is to be scored, but .*m\.zip hold no label of it"):
        score_labels(settings, archives, tmp_path)


def test_a_damaged_archive_is_no_bad_image(settings, tmp_path):
    settings["on_bad_image"] = "skip"
    (path,) = write(tmp_path / "m.zip", dict.fromkeys(NAMES, 1))
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"m\.zip: labels/a\.png is damaged"):
        score_labels(settings, [path], tmp_path)


def test_labels_beyond_the_classes_are_refused(settings, tmp_path):
    archives = write(tmp_path / "m.zip", dict.fromkeys(NAMES, 3))
    with pytest.raises(InputError, match=r"m\.zip: a holds the value 3, but there are 2 classes"):
        score_labels(settings, archives, tmp_path)


REPOSITORY = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("CLIP_WSSS_SHARED", REPOSITORY.parent / "shared"))


@pytest.mark.skipif(not (SHARED / "parity").is_dir(), reason="no shared/parity beside the project")
def test_maps_and_labels_of_the_public_code_score_as_it_says(settings, tmp_path):
    golden = SHARED / "parity/golden"
    expected = json.loads((golden / "summary.json").read_text())
    settings |= {
        "root": str(SHARED / "parity/VOCdevkit/VOC2012"),
        "vocabulary": str(REPOSITORY / "config/vocabularies/voc12.yaml"),
        "labels": "xml",
        "masks": "SegmentationClassAug",
    }
    labels, shards = [], {"cam_grid": [], "caa_grid": []}
    for name in expected["ids"]:
        with np.load(golden / f"{name}.npz") as image:
            size = tuple(map(int, image["size"]))
            for grid, images in shards.items():
                images.append(ImageMaps(name, size, image["keys"], image[grid]))
            labels.append(encode_image(name, image["crf_label"]))
    powers = range(1, 11)
    for grid, title in (("cam_grid", "initial"), ("caa_grid", "caa")):
        write_maps(tmp_path / "golden.npz", shards[grid])
        golden_maps = [tmp_path / "golden.npz"]
        found = measured(settings, "initial", golden_maps, tmp_path, "parity", powers=powers)
        for power in powers:
            assert found["powers"][str(power)] == expected["mIoU"][f"{title}_pow{power}"]
    write_archive(tmp_path / "crf.zip", "predictions", labels)
    found = measured(settings, "mask", [tmp_path / "crf.zip"], tmp_path, "parity")
    assert found["miou"] == expected["mIoU"]["crf"]
