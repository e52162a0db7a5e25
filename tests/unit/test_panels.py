"""Panels: each stage of a run as a picture, from shards of maps and archives."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from clip_wsss.archives import Archive, encode_image, write_archive
from clip_wsss.choice import choose
from clip_wsss.confidence import encode
from clip_wsss.datasets import open_dataset
from clip_wsss.errors import InputError
from clip_wsss.imageio import write_label
from clip_wsss.maps import ImageMaps, write_maps
from clip_wsss.masks import labels_and_confidence
from clip_wsss.panels import (
    NOT_PART,
    STAGES,
    Panels,
    StageFiles,
    find_maps,
    write_qualitative,
)

CLASSES = ["cat", "dog", "cow"]
SIZE = (40, 48)
PLAIN = {"refinement": "none", "background_power": 1}


class Made:
    """Images of ellipses with one to three classes, and what some runs left of them."""

    def __init__(self, root, train=6, val=4, masks=True):
        self.root, self.rng = root, np.random.default_rng(0)
        for split, count in (("train", train), ("val", val)):
            names = [f"{split}_{number:04d}" for number in range(count)]
            path = root / f"data/ImageSets/Segmentation/{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(names))
            for number, name in enumerate(names):
                self.image(name, self.rng.permutation(3)[: 1 + number % 3])
        words = {"classes": CLASSES, "names": {"plain": {}}, "backgrounds": {"none": ["wall"]}}
        (root / "vocabulary.yaml").write_text(yaml.safe_dump(words))
        score = val = "val" if masks else None
        self.dataset = open_dataset(
            {
                "name": "toy",
                "source": "folder",
                "root": str(root / "data"),
                "vocabulary": str(root / "vocabulary.yaml"),
                "labels": "xml",
                "size": "xml",
                "masks": "SegmentationClass" if masks else None,
                "splits": {"pseudo": "train", "score": score and "train", "val": val},
                "on_bad_image": "fail",
            }
        )

    def image(self, name, keys):
        """Write an image with its XML and mask."""
        image = self.rng.integers(90, 150, (*SIZE, 3)).astype(np.uint8)
        mask = np.zeros(SIZE, np.uint8)
        for place, key in enumerate(keys):
            centre = (SIZE[1] * (2 * place + 1) // (2 * len(keys)), SIZE[0] // 2)
            axes = (SIZE[1] // (2 * len(keys)) - 2, 14)
            cv2.ellipse(image, centre, axes, 0, 0, 360, self.rng.integers(0, 255, 3).tolist(), -1)
            cv2.ellipse(mask, centre, axes, 0, 0, 360, int(key) + 1, -1)
        for folder in ("JPEGImages", "Annotations"):
            (self.root / "data" / folder).mkdir(exist_ok=True)
        Image.fromarray(image).save(self.root / f"data/JPEGImages/{name}.jpg", quality=90)
        write_label(self.root / f"data/SegmentationClass/{name}.png", mask)
        objects = "".join(f"<object><name>{CLASSES[key]}</name></object>" for key in keys)
        size = f"<width>{SIZE[1]}</width><height>{SIZE[0]}</height>"
        (self.root / f"data/Annotations/{name}.xml").write_text(
            f"<annotation><size>{size}</size>{objects}</annotation>"
        )

    def maps(self, stem, noise):
        """Two shards of noisy maps of the training images."""
        names, paths = self.dataset.ids("train"), []
        for number in range(2):
            paths.append(self.root / f"{stem}{number}.npz")
            shard = names[number * len(names) // 2 : (number + 1) * len(names) // 2]
            write_maps(paths[-1], [self.map(name, noise) for name in shard])
        return tuple(paths)

    def map(self, name, noise):
        truth = np.asarray(Image.open(self.root / f"data/SegmentationClass/{name}.png"))
        keys = np.array(self.dataset.labels(name))
        grids = [
            cv2.resize((truth == key + 1).astype(np.float32), (6, 5), interpolation=cv2.INTER_AREA)
            for key in keys
        ]
        noisy = np.stack(grids) + noise * self.rng.random((len(keys), 5, 6))
        return ImageMaps(name, SIZE, keys, (noisy / noisy.max()).astype(np.float32))

    def labels(self, stem, split, kind):
        """An archive of random blocks."""
        path = self.root / f"{stem}.zip"
        images = []
        for name in self.dataset.ids(split):
            label = self.rng.integers(0, 4, (5, 6)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
            codes = encode(self.rng.random(SIZE)) if kind == "masks" else None
            images.append(encode_image(name, label, codes))
        write_archive(path, kind, images)
        return (path,)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("panels"))


@pytest.fixture(scope="module")
def runs(made):
    """Runs that share their first stages."""
    initial = made.maps("initial", 0.5)
    plain = StageFiles(initial=initial, entry=PLAIN)
    crf = StageFiles(initial, made.maps("refined", 0.2), made.labels("masks", "train", "masks"))
    predictions = made.labels("predictions", "val", "predictions")
    return {
        "plain": plain,
        "other": StageFiles(initial=made.maps("other", 0.9), entry=PLAIN),
        "crf": crf,
        "trained": replace(crf, predictions=predictions),
    }


def test_choose_shows_few_and_many_classes_and_is_the_same_each_time(made):
    names = choose(made.dataset, "train", 6)
    assert sorted(names) == sorted(made.dataset.ids("train"))
    assert [len(made.dataset.labels(name)) for name in names[:3]] == [1, 2, 3]
    assert choose(made.dataset, "train", 3) == names[:3]
    assert len(choose(made.dataset, "train", 99)) == 6


def test_choose_passes_over_bad_images_where_they_may_be_left_out(tmp_path):
    made = Made(tmp_path, train=4)
    first, second = choose(made.dataset, "train", 2)
    (made.dataset.root / "JPEGImages" / f"{first}.jpg").write_bytes(b"not an image")
    (made.dataset.root / "Annotations" / f"{second}.xml").unlink()
    with pytest.raises(InputError, match=second):
        choose(made.dataset, "train", 2)
    made.dataset.settings["on_bad_image"] = "skip"
    assert not {first, second} & set(choose(made.dataset, "train", 2))


def test_panel_says_what_a_run_does_not_have(made, runs):
    panels = Panels(made.dataset)
    plain = panels.panel(runs["plain"], "train_0000")
    missing = {stage for stage, cell in plain.items() if cell == f"!{NOT_PART}"}
    assert tuple(plain) == STAGES
    assert missing == {"refined", "confidence", "prediction"}
    trained = panels.panel(runs["trained"], "train_0000")
    assert trained["prediction"] == "!predicted on val only"
    assert all(trained[stage] in panels.album.pictures for stage in STAGES[:-1])
    seen = panels.panel(runs["trained"], "val_0000")
    assert seen["prediction"] in panels.album.pictures
    assert seen["initial"].startswith("!")
    assert seen["mask"] == "!no pseudo mask"


def test_runs_share_the_pictures_of_the_stages_that_they_share(made, runs):
    panels = Panels(made.dataset)
    crf, trained = (panels.panel(runs[name], "train_0001") for name in ("crf", "trained"))
    size = panels.album.size
    assert {stage for stage in STAGES if crf[stage] != trained[stage]} == {"prediction"}
    panels.panel(runs["crf"], "train_0001")
    assert panels.album.size == size
    other = panels.panel(runs["other"], "train_0001")
    assert other["image"] == crf["image"]
    assert other["initial"] != crf["initial"]


def test_labels_are_the_exported_ones_or_those_that_were_scored(made, runs):
    panels = Panels(made.dataset)
    crf, plain = runs["crf"], runs["plain"]
    from_archive = panels.labels(crf, "train_0003")
    np.testing.assert_array_equal(from_archive, Archive(crf.masks[0]).label("train_0003"))
    assert panels.labels(replace(crf, masks=()), "train_0003") is None
    image = made.dataset.image("train_0003")
    maps = find_maps(plain.initial, "train_0003")
    label = panels.labels(plain, "train_0003")
    assert (label == labels_and_confidence(maps.maps, maps.keys, image, PLAIN)[0]).all()
    assert set(np.unique(label)) <= {0, *(maps.keys + 1)}
    steeper = replace(plain, entry=PLAIN | {"background_power": 8})
    assert (panels.labels(steeper, "train_0003") == 0).sum() < (label == 0).sum()
    cells = [panels.panel(files, "train_0003")["mask"] for files in (plain, steeper, crf)]
    assert len(set(cells)) == 3
    assert panels.labels(plain, "val_0000") is None


def test_pictures_are_made_smaller_on_request(made, runs):
    small = Panels(made.dataset, side=20)
    cells = small.panel(runs["crf"], "train_0000")
    assert {max(small.album.rgb(cells[stage]).shape) for stage in STAGES[:-1]} == {20}
    assert small.longest == 48


def test_a_data_set_without_masks_has_panels_too(tmp_path):
    made = Made(tmp_path, masks=False)
    files = StageFiles(initial=made.maps("initial", 0.5))
    cells = Panels(made.dataset).panel(files, "train_0000")
    assert cells["truth"] == "!no ground truth"
    assert cells["mask"] == "!no pseudo mask"


def test_qualitative_picture_leaves_empty_columns_out(made, runs, tmp_path):
    out = tmp_path / "docs/panel.png"
    names = ["train_0000", "train_0001"]
    for name in ("crf", "plain"):
        write_qualitative(runs[name], made.dataset, out, names, limit=90_000)
        with Image.open(out) as image:
            width, height = image.size
        assert width / height == pytest.approx((6 if name == "crf" else 4) * 1.55 / 4.1, rel=0.02)
        assert out.stat().st_size <= 90_000
