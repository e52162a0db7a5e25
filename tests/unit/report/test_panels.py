import albums
import numpy as np
import pytest
import synthetic

from clip_wsss.core.archives import Archives
from clip_wsss.core.errors import InputError
from clip_wsss.data.choice import choose
from clip_wsss.report.panels import (
    NOT_PART,
    SHOWN_STAGES,
    Panels,
    measure_labels,
    stage_files,
)
from clip_wsss.runs.table import Run
from clip_wsss.score.breakdown import image_iou, region_iou
from clip_wsss.score.measurements import read_counts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return synthetic.build(tmp_path_factory.mktemp("panels"))


def files_of(made, name):
    return stage_files(made.plan, next(run for run in made.runs if run.name == name))


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
    panels = Panels(made.dataset)
    plain = panels.panel(files_of(made, "plain"), "train_0000")
    missing = {stage for stage, cell in plain.items() if cell == f"!{NOT_PART}"}
    assert tuple(plain) == SHOWN_STAGES
    assert missing == {"refined", "dropped", "labels", "prediction"}
    trained = panels.panel(files_of(made, "seg-cgl"), "train_0000")
    assert trained["prediction"] == "!predicted on val only"
    assert trained["labels"] == f"!{NOT_PART}"
    assert all(trained[stage] in panels.album.pictures for stage in SHOWN_STAGES[:-2])
    seen = panels.panel(files_of(made, "seg-cgl"), "val_0000")
    assert seen["prediction"] in panels.album.pictures
    assert seen["initial"].startswith("!")


def test_figures_of_a_picture_are_those_that_were_measured(made):
    panels = Panels(made.dataset)
    run = made.runs[-1]
    files, scores = files_of(made, run.name), made.plan.graph.scores(run)
    shown = {"initial": 1, "refined": 1, "mask": None, "segmentation": None}
    for stage, power in shown.items():
        path = (made.root / scores[stage][0]).with_name("counts.parquet")
        regions = region_iou(read_counts(path, power))
        images = image_iou(regions).set_index("id")["iou"]
        name = images.index[0]
        key = "prediction" if stage == "segmentation" else stage
        found = panels.measures(files, name)[key]
        assert found["iou"] == pytest.approx(images[name], abs=1e-4)
        own = regions[regions["id"] == name].set_index("label")["iou"]
        assert {label: iou for label, iou in found["classes"] if iou is not None} == {
            label: pytest.approx(iou, abs=1e-4) for label, iou in own.items()
        }


def test_iou_and_classes_of_a_picture_by_hand():
    truth = np.array([[0, 0, 1, 1], [0, 255, 1, 1]], np.uint8)
    label = np.array([[0, 1, 1, 1], [2, 2, 1, 255]], np.uint8)
    # Background 1 of 3; class 1: 3 hits of 4, and one false alarm; class 2 is not there.
    found = measure_labels(truth, label)
    assert found["classes"] == [[0, 0.3333], [1, 0.6], [2, None]]
    assert found["iou"] == pytest.approx((1 / 3 + 3 / 5) / 2, abs=1e-4)
    assert measure_labels(None, label) == {
        "classes": [[0, None], [1, None], [2, None]],
        "iou": None,
    }


def test_what_mu_drops(made):
    panels = Panels(made.dataset)
    crf, cgl = files_of(made, "crf"), files_of(made, "seg-cgl")
    assert crf.mu == cgl.mu == 0.95
    archive = Archives(crf.masks)["train_0001"]
    kept = (archive.confidence("train_0001") >= np.float32(0.95)).mean()
    assert 0 < kept < 1
    found = panels.measures(crf, "train_0001")["dropped"]
    assert found == {"mu": 0.95, "kept": pytest.approx(kept, abs=1e-4)}
    key = panels.panel(crf, "train_0001")["dropped"]
    alpha = np.asarray(albums.picture(panels.album, key).convert("RGBA"))[..., 3]
    assert ((alpha == 0) == (archive.confidence("train_0001") >= np.float32(0.95))).all()
    assert "dropped" not in panels.measures(files_of(made, "plain"), "train_0001")


def test_maps_of_single_classes_of_images_with_several(made):
    panels, files = Panels(made.dataset), files_of(made, "crf")
    assert panels.class_maps(files, "train_0000") == {}  # of one class
    found = panels.class_maps(files, "train_0001")
    labels = {label + 1 for label in made.dataset.labels("train_0001")}
    assert {stage: set(maps) for stage, maps in found.items()} == {
        "initial": labels, "refined": labels
    }  # fmt: skip
    assert len({key for maps in found.values() for key in maps.values()}) == 4
    assert set(panels.class_maps(files_of(made, "plain"), "train_0001")) == {"initial"}


def test_runs_share_the_pictures_of_the_stages_that_they_share(made):
    panels = Panels(made.dataset)
    crf, trained = (panels.panel(files_of(made, name), "train_0001") for name in ("crf", "seg-cgl"))
    size = panels.album.size
    assert {stage for stage in SHOWN_STAGES if crf[stage] != trained[stage]} == {"prediction"}
    panels.panel(files_of(made, "crf"), "train_0001")
    assert panels.album.size == size
    softmax = panels.panel(files_of(made, "softmax"), "train_0001")
    assert softmax["image"] == crf["image"]
    assert softmax["initial"] != crf["initial"]


def test_labels_are_those_of_the_masks_or_of_the_last_maps(made):
    panels = Panels(made.dataset)
    crf, plain = files_of(made, "crf"), files_of(made, "plain")
    assert (
        panels.labels(crf, "train_0003") == Archives(crf.masks)["train_0003"].label("train_0003")
    ).all()
    label = panels.labels(plain, "train_0003")
    image = panels.find_maps(plain.initial, "train_0003")
    assert label.shape == image.size
    assert set(np.unique(label)) <= {0, *(image.keys + 1)}
    assert plain.power == 1
    steeper = made.config.evaluation.model_copy(update={"background_power": 8})
    steep = files_of(
        made.changed(config=made.config.model_copy(update={"evaluation": steeper})), "plain"
    )
    assert (panels.labels(steep, "train_0003") == 0).sum() < (label == 0).sum()
    assert panels.labels(plain, "val_0000") is None
    assert panels.labels(crf, "val_0000") is None
    assert files_of(made, "caa").maps == files_of(made, "caa").refined != ()


def test_masks_of_other_sources_are_shown_without_maps(tmp_path):
    rows = [Run("true", None, masks="ground-truth", table="ladder")]
    made = synthetic.build(tmp_path, train=2, runs=rows)
    cells = Panels(made.dataset).panel(files_of(made, "true"), "train_0000")
    missing = {stage for stage, cell in cells.items() if cell == f"!{NOT_PART}"}
    assert missing == {"initial", "refined", "labels", "prediction"}
    assert cells["mask"] == cells["truth"]


def test_predictions_of_the_shown_images_are_shown(tmp_path):
    made = synthetic.build(tmp_path, runs=synthetic.ladder()[-1:])
    node = made.plan.graph.paths["seg-cgl"]["inference"]
    synthetic.write_predictions(made, node, 0, "shown", "train")
    panels = Panels(made.dataset)
    for name in ("train_0000", "val_0000"):
        assert panels.panel(files_of(made, "seg-cgl"), name)["prediction"] in panels.album.pictures


def test_final_labels_of_an_online_run_are_shown(tmp_path):
    made = synthetic.build(tmp_path, runs=[synthetic.online(), *synthetic.ladder()[-1:]])
    panels = Panels(made.dataset)
    cells = panels.panel(files_of(made, "weclip"), "train_0000")
    archive = made.plan.predictions(made.plan.graph.paths["weclip"]["inference"], 0, "labels")
    wanted = Archives(archive.files)["train_0000"].label("train_0000")
    again = Panels(made.dataset)
    assert panels.album.pictures[cells["labels"]] == again.album.pictures[again._picture(
        ("own",), lambda: again._label(wanted))]  # fmt: skip
    seen = panels.panel(files_of(made, "weclip"), "val_0000")
    assert seen["labels"] == "!predicted on train only"
    assert panels.panel(files_of(made, "seg-cgl"), "train_0000")["labels"] == f"!{NOT_PART}"


def test_a_missing_file_of_a_stage_is_named(tmp_path):
    made = synthetic.build(tmp_path, train=2, runs=synthetic.ladder()[3:4])
    files = files_of(made, "crf")
    files.initial[0].unlink()
    files.masks[0].unlink()
    with pytest.raises(InputError, match=r"cam/.*0001of0002\.npz: no such file"):
        Panels(made.dataset).panel(files, "train_0000")
    with pytest.raises(InputError, match=r"masks/.*0001of0002\.zip: this archive cannot be opened"):
        Panels(made.dataset).labels(files, "train_0000")


def test_a_restart_keeps_what_was_read_and_no_picture(made):
    panels = Panels(made.dataset)
    files = files_of(made, "crf")
    large = panels.panel(files, "train_0000")
    panels.restart(20)
    small = panels.panel(files, "train_0000")
    assert not set(panels.album.pictures) & set(large.values())
    fresh = Panels(made.dataset, side=20)
    assert fresh.panel(files, "train_0000") == small


def test_pictures_are_made_smaller_on_request(made):
    small = Panels(made.dataset, side=20)
    cells = small.panel(files_of(made, "crf"), "train_0000")
    assert {max(albums.rgb(small.album, cells[stage]).shape) for stage in SHOWN_STAGES[:-2]} == {20}
    assert small.longest == 48


def test_a_data_set_without_masks_has_panels_too(tmp_path):
    made = synthetic.build(tmp_path, masks=False)
    cells = Panels(made.dataset).panel(files_of(made, "plain"), "train_0000")
    assert cells["truth"] == "!no ground truth"
