"""The clip-es preset against what the public code gave (docs/parity.md)."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from clip_wsss import parity
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import read_label
from clip_wsss.data.datasets import open_dataset

REPOSITORY = Path(__file__).parents[2]
FIXTURES = REPOSITORY / "tests/fixtures/parity"
SHARED = Path(os.environ.get("CLIP_WSSS_SHARED", REPOSITORY.parent / "shared"))
MU = 0.95


def run(out, root, split, weights, architecture=None, preset="clip-es", **options):
    settings = parity.shipped_preset("voc12", preset)
    dataset = open_dataset(
        {
            "name": "voc12",
            "source": "folder",
            "root": str(root),
            "vocabulary": settings["vocabulary"],
            "labels": "xml",
            "size": settings["size"],
            "masks": "SegmentationClassAug",
        }
    )
    model = {"architecture": architecture, "weights": str(weights)}
    return parity.run(dataset, split, model, settings, out, **options)


@pytest.fixture(scope="module")
def fixture_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("parity")
    summary = run(out, FIXTURES / "VOC2012", "parity", FIXTURES / "tiny.safetensors", workers=2)
    return out, summary


def check_image(out: Path, golden: Path) -> None:
    with np.load(out / golden.name) as file:
        ours = dict(file)
    with np.load(golden) as file:
        theirs = dict(file)
    assert set(theirs) <= set(ours)
    for name, wanted in theirs.items():
        assert ours[name].dtype == wanted.dtype, name
        assert ours[name].shape == wanted.shape, name
    for name in ("keys", "size", "grid", "aff_mask", "boxes"):
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    np.testing.assert_allclose(ours["cam_grid"], theirs["cam_grid"], atol=5e-5)
    np.testing.assert_allclose(ours["caa_grid"], theirs["caa_grid"], atol=5e-5)
    for name in ("crf_label", "pseudo_mask"):
        assert np.mean(ours[name] == theirs[name]) >= 0.9999, name
    if "crf_conf" in theirs:
        assert np.mean((ours["crf_conf"] >= MU) == (theirs["crf_conf"] >= MU)) >= 0.999
        np.testing.assert_allclose(ours["crf_conf"], theirs["crf_conf"], atol=5e-3)


@pytest.mark.parametrize("name", sorted(p.stem for p in FIXTURES.glob("golden/2008_*.npz")))
def test_photograph_equals_the_public_code(fixture_run, name):
    check_image(fixture_run[0], FIXTURES / "golden" / f"{name}.npz")


def test_texts_equal_the_public_code(fixture_run):
    with np.load(fixture_run[0] / "text.npz") as ours, np.load(FIXTURES / "golden/text.npz") as g:
        np.testing.assert_allclose(ours["fg"], g["fg"], atol=1e-6)
        np.testing.assert_allclose(ours["bg"], g["bg"], atol=1e-6)
        np.testing.assert_allclose(ours["logit_scale"], g["logit_scale"], rtol=1e-6)


def miou_by_hand(predictions: list[tuple[np.ndarray, np.ndarray]]) -> float:
    ious = []
    for value in range(21):
        hit = union = truths = 0
        for truth, label in predictions:
            counted = truth != 255
            hit += np.sum(counted & (truth == value) & (label == value))
            union += np.sum(counted & ((truth == value) | (label == value)))
            truths += np.sum(truth == value)
        if truths:
            ious.append(hit / union)
    return float(np.mean(ious))


@pytest.mark.parametrize(("stage", "power"), [("initial", 1), ("initial", 7), ("caa", 2)])
def test_mious_follow_from_the_golden_maps(fixture_run, stage, power):
    """Full-resolution float16 maps, float16 background, ties to the background (fact 14)."""
    field = {"initial": "cam_grid", "caa": "caa_grid"}[stage]
    predictions = []
    for golden in sorted(FIXTURES.glob("golden/2008_*.npz")):
        with np.load(golden) as g:
            height, width = g["size"]
            maps = [cv2.resize(m, (int(width), int(height))).astype(np.float16) for m in g[field]]
            background = (1 - np.maximum.reduce(maps)) ** power
            assert background.dtype == np.float16
            values = np.concatenate([[0], g["keys"] + 1])
            label = values[np.argmax([background, *maps], axis=0)]
        mask = read_label(FIXTURES / f"VOC2012/SegmentationClassAug/{golden.stem}.png")
        predictions.append((mask, label))
    ours = fixture_run[1]["mIoU"][f"{stage}_pow{power}"]
    assert ours == pytest.approx(miou_by_hand(predictions), abs=1e-4)


def test_summary_lists_every_stage(fixture_run):
    out, summary = fixture_run
    stages = [f"{stage}_pow{p}" for stage in ("initial", "caa") for p in range(1, 11)] + ["crf"]
    assert list(summary["mIoU"]) == stages
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["skipped"] == summary["unscored"] == {}


def test_two_runs_write_the_same_bytes(fixture_run, tmp_path):
    """Whatever the number of processes."""
    run(tmp_path, FIXTURES / "VOC2012", "parity", FIXTURES / "tiny.safetensors", workers=1)
    for file in fixture_run[0].iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_corrected_boxes_reach_the_last_row_and_column(fixture_run, tmp_path):
    run(tmp_path, FIXTURES / "VOC2012", "parity", FIXTURES / "tiny.safetensors", preset="corrected")
    reached = 0
    for golden in FIXTURES.glob("golden/2008_*.npz"):
        with np.load(tmp_path / golden.name) as ours, np.load(golden) as g:
            assert not g["aff_mask"][:, -1].any()
            assert not g["aff_mask"][:, :, -1].any()
            reached += ours["aff_mask"][:, -1].any() + ours["aff_mask"][:, :, -1].any()
            assert np.abs(ours["cam_grid"] - g["cam_grid"]).max() < 1e-2
    assert reached > 0


full_set = pytest.mark.skipif(
    not (SHARED / "parity").is_dir(), reason="the full parity set is not here"
)
FULL = SHARED / "parity"
FULL_ROOT = FULL / "VOCdevkit/VOC2012"


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("full")
    return out, run(out, FULL_ROOT, "parity", FULL / "tiny.pt", workers=2)


@full_set
def test_full_set_equals_the_public_code(full_run):
    for golden in sorted((FULL / "golden").glob("2*.npz")):
        check_image(full_run[0], golden)


@full_set
def test_full_set_mious_equal_the_public_code(full_run):
    golden = json.loads((FULL / "golden/summary.json").read_text())
    assert full_run[1]["ids"] == golden["ids"]
    assert full_run[1]["mIoU"] == pytest.approx(golden["mIoU"], abs=1e-4)


@full_set
def test_full_set_edge_cases(tmp_path):
    config = str(FULL / "openclip-tiny-quickgelu.json")
    with pytest.raises(InputError) as error:
        run(tmp_path, FULL_ROOT, "edge", FULL / "tiny.pt", config)
    lines = str(error.value).splitlines()
    bad = ["edge_noobject", "edge_unknown", "edge_swapped"]
    assert len(lines) == 3
    for name, line in zip(bad, lines, strict=True):
        assert name in line
    summary = run(tmp_path, FULL_ROOT, "edge", FULL / "tiny.pt", config, skip_bad=True)
    assert summary["ids"] == ["edge_onerow"]
    assert list(summary["skipped"]) == bad
    with np.load(tmp_path / "edge_onerow.npz") as ours:
        assert not ours["caa_grid"].any()
        assert np.isfinite(ours["crf_conf"]).all()


def command(out, *more):
    return parity.main(
        [
            *("--root", str(FIXTURES / "VOC2012"), "--split", "parity", "--out", str(out)),
            *("--weights", str(FIXTURES / "tiny.safetensors"), *more),
        ]
    )


def test_command_line(tmp_path, capsys):
    lists = tmp_path / "one.txt"
    lists.write_text("2008_000030\n")
    assert command(tmp_path, "--split", str(lists)) == 0
    assert "1 images" in capsys.readouterr().out
    assert (tmp_path / "2008_000030.npz").is_file()


@pytest.mark.parametrize("name", ["text.npz", "summary.json", "2008_000030.npz"])
def test_files_of_others_are_not_replaced(tmp_path, capsys, name):
    lists, out = tmp_path / "one.txt", tmp_path / "out"
    lists.write_text("2008_000030\n")
    out.mkdir()
    (out / name).write_text("precious")
    assert command(out, "--split", str(lists)) == 1
    what = f"is there, but {out} has no text.npz of this command"
    if name == "text.npz":
        what = "was not written by this version of this command"
    remedy = "give another --out, or replace it with --overwrite"
    assert capsys.readouterr().err == f"error: {out / name}: {what}; {remedy}\n"
    assert [one.read_text() for one in out.iterdir()] == ["precious"]
    assert command(out, "--split", str(lists), "--overwrite") == 0


@pytest.mark.parametrize("name", ["text.npz", "summary.json"])
def test_a_folder_in_the_place_of_a_file_is_said_before_the_work(
    tmp_path, capsys, monkeypatch, name
):
    (tmp_path / name).mkdir()
    monkeypatch.setattr("clip_wsss.models.clip.load_for", None)
    assert command(tmp_path, "--overwrite") == 1
    line = f"error: {tmp_path / name}: is no file that could be replaced; name another\n"
    assert capsys.readouterr().err == line


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    lists = tmp_path / "bad.txt"
    lists.write_text("2008_000030\nnot_there\n")
    assert command(tmp_path, "--split", str(lists)) == 1
    error = capsys.readouterr().err
    assert "not_there" in error
    assert len(error.splitlines()) == 1
    assert command(tmp_path, "--split", str(lists), "--skip-bad") == 0
    assert "skipped not_there" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "summary.json").read_text())["skipped"]) == ["not_there"]
    assert command(tmp_path, "--architecture", "ViT-B-16-quickgelu") == 1
    assert "does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--threads", "--workers", "--batch"])
def test_numbers_that_cannot_be_are_one_line(tmp_path, capsys, option):
    with pytest.raises(SystemExit, match=r"^2$"):
        command(tmp_path, option, "0")
    assert f"{option}: must be a whole number of at least 1; got 0" in capsys.readouterr().err


def test_missing_masks_leave_an_image_unscored(tmp_path):
    lists = tmp_path / "one.txt"
    lists.write_text("2008_000030\n")
    assert command(tmp_path, "--split", str(lists), "--masks", "NoSuchFolder") == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["mIoU"] == {}
    assert list(summary["unscored"]) == ["2008_000030"]


@pytest.mark.parametrize("dataset", ["voc12", "coco14"])
def test_presets_state_the_facts(dataset):
    """Facts 1, 3, 9, 10, 11, 14, 15, 16, whatever becomes of the configs."""
    clip_es = parity.shipped_preset(dataset, "clip-es")
    corrected = parity.shipped_preset(dataset, "corrected")
    for preset, edge, rounded in ((clip_es, "clamp", "float16"), (corrected, "full", "none")):
        assert preset["round_weights"] == "float16"
        assert preset["size"] == {"voc12": "xml", "coco14": "image"}[dataset]
        assert preset["cam"] == {
            "model": preset["cam"]["model"],
            "precision": "float32",
            "position_embedding": {"resize": "bilinear", "round": rounded},
            "method": "gradcam",
            "target": "softmax",
            "scales": [1.0],
            "flip": False,
        }
        assert preset["affinity"] == {
            "method": "caa",
            "layers": 8,
            "sinkhorn": 3,
            "power": 2,
            "threshold": {"voc12": 0.4, "coco14": 0.7}[dataset],
            "box_edge": edge,
            "mask": "boxes",
            "superpixels": preset["affinity"]["superpixels"],  # which boxes do not read
            "attention": "qk",
            "blocks": None,
            "tower": None,
            "weight": 1,
            "mixed": [],
        }
        masks = preset["masks"]
        assert (masks["source"], masks["refinement"], masks["background_power"]) == (
            "maps",
            "crf",
            1,
        )
        assert masks["crf"] == {
            "backend": {"clamp": "pydensecrf", "full": "fast"}[edge],
            "image": {"clamp": "wrapped-bgr", "full": "rgb"}[edge],
            "iterations": 10,
            "gaussian_sxy": 1,
            "gaussian_compat": 3,
            "bilateral_sxy": 67,
            "bilateral_srgb": 3,
            "bilateral_compat": 4,
        }
        texts = preset["texts"]
        assert texts["template"] == "a clean origami {}."
        assert (texts["names"], texts["background"]) == ("clip-es", "clip-es")
    assert clip_es["masks"]["scoring"] == "oracle"
    assert corrected["masks"]["scoring"] == "fixed"


def test_demo_states_the_same_presets():
    for name in ("clip-es", "corrected"):
        preset, own = parity.shipped_preset("voc12", name), parity.shipped_preset("config", name)
        for entry in ("texts", "affinity", "masks"):
            assert own[entry] == preset[entry]
        assert {**own["cam"], "model": ""} == {**preset["cam"], "model": ""}


def test_coco_background_words():
    path = REPOSITORY / "config/vocabularies"
    voc, coco = (yaml.safe_load((path / f"{n}.yaml").read_text()) for n in ("voc12", "coco14"))
    words = voc["backgrounds"]["clip-es"]
    assert len(words) == 25
    wanted = [word for word in words if word not in ("keyboard", "sign")]
    assert coco["backgrounds"]["clip-es"] == wanted
    assert len(coco["classes"]) == 80
    assert coco["names"]["clip-es"]["snowboard"] == "sknowboard"
