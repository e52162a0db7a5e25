from dataclasses import replace

import numpy as np
import pytest
import synthetic
from PIL import Image

from clip_wsss.choice import choose
from clip_wsss.errors import InputError
from clip_wsss.imageio import read_label
from clip_wsss.panels import NOT_PART, STAGES, Panels, write_qualitative


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return synthetic.build(tmp_path_factory.mktemp("panels"))


def run_of(made, name):
    return next(run for run in made.runs if run.name == name)


def test_choose_shows_few_and_many_classes_and_is_the_same_each_time(made):
    names = choose(made.dataset, "train", 6)
    assert sorted(names) == sorted(made.dataset.ids("train"))
    assert [len(made.dataset.labels(name)) for name in names[:3]] == [1, 2, 3]
    assert choose(made.dataset, "train", 3) == names[:3]
    assert len(choose(made.dataset, "train", 99)) == 6


def test_choose_passes_over_bad_images_where_they_may_be_left_out(tmp_path):
    made = synthetic.build(tmp_path, train=4)
    first, second = choose(made.dataset, "train", 2)
    (made.dataset.root / "JPEGImages" / f"{first}.jpg").write_bytes(b"not an image")
    (made.dataset.root / "Annotations" / f"{second}.xml").unlink()
    with pytest.raises(InputError, match=second):
        choose(made.dataset, "train", 2)
    made.dataset.settings["on_bad_image"] = "skip"
    assert not {first, second} & set(choose(made.dataset, "train", 2))


def test_panel_says_what_a_run_does_not_have(made):
    panels = Panels(made.dataset, made.root, made.config)
    plain = panels.panel(run_of(made, "plain"), "train_0000")
    missing = {stage for stage, cell in plain.items() if cell == f"!{NOT_PART}"}
    assert tuple(plain) == STAGES
    assert missing == {"refined", "confidence", "prediction"}
    trained = panels.panel(run_of(made, "seg-cgl"), "train_0000")
    assert trained["prediction"] == "!predicted on val only"
    assert all(trained[stage] in panels.album.pictures for stage in STAGES[:-1])
    seen = panels.panel(run_of(made, "seg-cgl"), "val_0000")
    assert seen["prediction"] in panels.album.pictures
    assert seen["initial"].startswith("!")


def test_runs_share_the_pictures_of_the_stages_that_they_share(made):
    panels = Panels(made.dataset, made.root, made.config)
    crf, trained = (panels.panel(run_of(made, name), "train_0001") for name in ("crf", "seg-cgl"))
    size = panels.album.size
    assert {stage for stage in STAGES if crf[stage] != trained[stage]} == {"prediction"}
    panels.panel(run_of(made, "crf"), "train_0001")
    assert panels.album.size == size
    softmax = panels.panel(run_of(made, "softmax"), "train_0001")
    assert softmax["image"] == crf["image"]
    assert softmax["initial"] != crf["initial"]


def test_labels_are_the_exported_ones_or_those_that_were_scored(made):
    panels = Panels(made.dataset, made.root, made.config)
    crf, plain = run_of(made, "crf"), run_of(made, "plain")
    path = made.root / "masks/synonyms/softmax/caa-crf/labels/train_0003.png"
    assert (panels.labels(crf, "train_0003") == read_label(path)).all()
    label = panels.labels(plain, "train_0003")
    cams = panels.cams(plain, "train_0003")
    assert label.shape == cams.size
    assert set(np.unique(label)) <= {0, *(cams.keys + 1)}
    steeper = replace(plain, masks="initial,background_power=8")
    assert (panels.labels(steeper, "train_0003") == 0).sum() < (label == 0).sum()
    assert panels.labels(plain, "val_0000") is None


def test_pictures_are_made_smaller_on_request(made):
    small = Panels(made.dataset, made.root, made.config, side=20)
    cells = small.panel(run_of(made, "crf"), "train_0000")
    assert {max(small.album.rgb(cells[stage]).shape) for stage in STAGES[:-1]} == {20}
    assert small.longest == 48


def test_a_data_set_without_masks_has_panels_too(tmp_path):
    made = synthetic.build(tmp_path, masks=False)
    cells = Panels(made.dataset, made.root, made.config).panel(made.runs[0], "train_0000")
    assert cells["truth"] == "!no ground truth"


def test_qualitative_picture_leaves_empty_columns_out(made, tmp_path):
    out = tmp_path / "docs/panel.png"
    names = ["train_0000", "train_0001"]
    for name in ("crf", "plain"):
        write_qualitative(
            run_of(made, name), made.dataset, made.root, made.config, out, names, limit=90_000
        )
        with Image.open(out) as image:
            width, height = image.size
        assert width / height == pytest.approx((6 if name == "crf" else 4) * 1.55 / 4.1, rel=0.02)
        assert out.stat().st_size <= 90_000
