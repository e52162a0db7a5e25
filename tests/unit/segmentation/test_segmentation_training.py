"""Samples, training, resuming, prediction: on a tiny data set."""

import csv
import json
import os
import pickle
import socket
import subprocess
import tarfile
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from mmengine import ConfigDict
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.structures import SegDataSample
from PIL import Image
from segmentation_case import CLASSES, Case

from clip_wsss.core.archives import Archive, encode_image, write_archive
from clip_wsss.core.confidence import EDGES
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import sha256
from clip_wsss.core.images import voc_palette
from clip_wsss.segmentation import data, hooks
from clip_wsss.segmentation import train as training
from clip_wsss.segmentation.data import CountingSampler, RandomScale, read_masks
from clip_wsss.segmentation.losses import PixelLoss, pack
from clip_wsss.segmentation.predict import Predictor, predict
from clip_wsss.segmentation.segmentor import build_model, read_segmentor
from clip_wsss.segmentation.submission import FOLDER, write_submission
from clip_wsss.segmentation.train import _last_line, _main, check_trainings, train

PIPELINE = [
    {"type": "RandomScale", "factors": [0.5, 0.75, 1.0, 1.25, 1.5]},
    {"type": "RandomCrop", "crop_size": 32},
    {"type": "RandomFlip", "prob": 0.5},
]

OPTIM = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01}}


def code(confidence: float) -> int:
    """The code whose edge a threshold is."""
    return int(np.flatnonzero(np.isclose(EDGES, confidence))[0])


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A case with its unbroken training."""
    case = Case(tmp_path_factory.mktemp("trained"))
    run(case)
    return case


def run(case: Case, name: str = "out", seed: int = 0, **changes) -> str:
    """Train on the CPU; the checkpoint's hash."""
    out = case.root / name
    settings = {
        "entry": case.entry,
        "dataset_settings": case.dataset,
        "archives": [str(case.masks)],
        "seed": seed,
        "work_dir": case.root / "work",
        "checkpoint": out / "checkpoint.pth",
        "log": out / "log.csv",
        "threads": 1,
        "device": "cpu",
    }
    train(**(settings | changes))
    return sha256(out / "checkpoint.pth")


def open_samples(case: Case, pipeline: list = (), seed: int = 0):
    return DATASETS.build(
        {
            "type": "PseudoMaskDataset",
            "settings": case.dataset,
            "archives": [str(case.masks)],
            "seed": seed,
            "pipeline": list(pipeline),
        }
    )


def test_a_sample_holds_image_labels_and_confidences(case):
    samples = open_samples(case)
    sample = samples.prepare_data(3)
    name = case.ids[3]
    assert (sample["gt_seg_map"] & 255 == case.labels[name]).all()
    assert (sample["gt_seg_map"] >> 8 == case.codes[name]).all()
    assert (sample["img"][..., ::-1] == samples.images.image(name)).all()  # BGR


def test_transforms_keep_image_labels_and_confidences_together(case):
    """Each pixel of image, label and confidence carries its place; they must still agree."""
    samples = open_samples(case, PIPELINE)
    height, width = 40, 48
    place = np.arange(height * width).reshape(height, width)
    for number in range(40):
        np.random.seed(number)  # noqa: NPY002
        packed = (place % 251 | place << 8).astype(np.int32)
        image = np.dstack([place % 251] * 3).astype(np.uint8)
        result = {"img": image, "gt_seg_map": packed, "seg_fields": ["gt_seg_map"]}
        result = samples.pipeline({**result, "img_shape": image.shape[:2]})
        label, origin = result["gt_seg_map"] & 255, result["gt_seg_map"] >> 8
        assert (label == origin % 251).all()
        assert result["img"].shape[:2] == label.shape
        y, x = np.divmod(origin, width)
        assert (np.diff(y, axis=0) >= 0).all()  # no row out of order
        steps = np.diff(x, axis=1)
        assert (steps >= 0).all() or (steps <= 0).all()  # flipped as a whole, or not at all
        if label.shape == (32, 32) and (np.abs(steps) == 1).all():  # scale 1: nothing interpolated
            assert (result["img"][..., 0] == label).all()


def test_random_scale_uses_its_factors():
    sizes = set()
    for number in range(60):
        np.random.seed(number)  # noqa: NPY002
        image = np.zeros((40, 60, 3), dtype=np.uint8)
        result = {"img": image, "gt_seg_map": image[..., 0].astype(np.int32)}
        result = RandomScale([0.5, 1.5]).transform(result)
        assert result["gt_seg_map"].shape == result["img"].shape[:2] == result["img_shape"]
        sizes.add(result["img_shape"])
    assert sizes == {(20, 30), (60, 90)}


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.25, 1.5])
def test_labels_take_the_pixel_at_their_centre(factor):
    place = np.arange(40 * 60, dtype=np.int32).reshape(40, 60)
    image = np.zeros((40, 60, 3), np.uint8)
    found = RandomScale([factor]).transform({"img": image, "gt_seg_map": place})["gt_seg_map"]
    for origin, size in zip(np.divmod(found, 60), (40, 60), strict=True):
        axis = 0 if size == 40 else 1
        assert (origin == origin.take([0], 1 - axis)).all()
        centre = (np.arange(size * factor) + 0.5) / factor
        assert (np.abs(origin.take(0, 1 - axis) + 0.5 - centre) < 0.501).all()


def test_sample_numbers_decide_the_samples(case):
    one, two = open_samples(case, PIPELINE), open_samples(case, PIPELINE)
    numbers = list(range(15))
    first = {n: one[n]["img"] for n in numbers}
    for n in reversed(numbers):  # in another order, after other draws
        assert (two[n]["img"] == first[n]).all()
    for epoch in range(3):  # every image once an epoch
        names = [one[n]["img_path"] for n in range(5 * epoch, 5 * epoch + 5)]
        assert sorted(names) == case.ids
    other = open_samples(case, PIPELINE, seed=1)
    assert not all(np.array_equal(other[n]["img"], image) for n, image in first.items())


def test_the_sampler_counts_on_from_where_it_was(case):
    sampler = CountingSampler(range(5))
    assert list(islice(sampler, 7)) == list(range(7))
    sampler.start = 4
    assert list(islice(sampler, 3)) == [4, 5, 6]


def test_processes_share_the_sample_numbers(monkeypatch):
    """Two processes that have had 3 samples each go on with 6, 8, ... and 7, 9, ..."""
    for rank in (0, 1):
        monkeypatch.setattr(data, "get_dist_info", lambda rank=rank: (rank, 2))
        sampler = CountingSampler(range(5))
        sampler.start = 3
        assert list(islice(sampler, 2)) == [6 + rank, 8 + rank]
        sampler = CountingSampler(range(5), whole=3)  # batches of three, every other one
        assert list(islice(sampler, 4)) == [3 * rank, 3 * rank + 1, 3 * rank + 2, 6 + 3 * rank]


def test_skipped_images_are_left_out_and_damaged_masks_are_not(case):
    case.write_masks(image0="truncated")
    assert list(read_masks([case.masks])) == case.ids[1:]
    content = bytearray(case.masks.read_bytes())
    content[content.index(b"confidence/image2.png") + 100] ^= 1
    case.masks.write_bytes(content)
    with pytest.raises(InputError, match=r"masks\.zip: confidence/image2\.png is damaged"):
        run(case)
    with pytest.raises(InputError, match=r"names image1, and so does"):
        read_masks([case.masks, case.masks])
    with pytest.raises(InputError, match=r"no\.zip: this archive cannot be opened"):
        read_masks([case.root / "no.zip"])
    case.write_masks(**dict.fromkeys(case.ids, "truncated"))
    with pytest.raises(InputError, match="no pseudo mask to train on"):
        read_masks([case.masks])
    case.write_masks("predictions")
    with pytest.raises(InputError, match="holds predictions; train on masks"):
        read_masks([case.masks])


def test_images_without_a_class_are_trained_on_if_asked(case):
    first, *others = case.ids
    rows = "".join(f"{name},{'' if name == first else 'cat'}\n" for name in case.ids)
    (case.root / "labels.csv").write_text(f"image,labels\n{rows}")
    case.dataset |= {"labels": str(case.root / "labels.csv"), "negatives": "background"}
    case.dataset["train_negatives"] = False
    assert [item["id"] for item in open_samples(case).load_data_list()] == others
    case.dataset["train_negatives"] = True
    assert [item["id"] for item in open_samples(case).load_data_list()] == case.ids
    (case.root / "labels.csv").write_text(f"image,labels\n{rows}".replace("cat", ""))
    case.dataset["train_negatives"] = False
    with pytest.raises(InputError, match=r"dataset\.train_negatives: false, and no image has a"):
        open_samples(case)


def test_masks_that_do_not_fit_are_one_line(case):
    first = case.ids[0]
    case.labels[first] = np.zeros((40, 47), dtype=np.uint8)
    case.codes[first] = np.zeros((40, 47), dtype=np.uint8)
    case.write_masks()
    with pytest.raises(InputError, match="image0 is 47 x 40, but its image is 48 x 40"):
        run(case)
    case.labels[first] = np.full((40, 48), 3, dtype=np.uint8)
    case.codes[first] = np.zeros((40, 48), dtype=np.uint8)
    case.write_masks()
    with pytest.raises(InputError, match="image0 holds the value 3, but there are 3 classes"):
        run(case)


def test_workers_of_the_loader_read_the_same_samples(case):
    """Forked ones share the archive, spawned ones get the data set pickled and open it."""
    samples = open_samples(case, PIPELINE)
    want = [samples[number]["gt_seg_map"] for number in range(8)]
    loader = torch.utils.data.DataLoader(
        samples,
        1,
        sampler=range(8),
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=lambda batch: batch[0]["gt_seg_map"],
    )
    again = pickle.loads(pickle.dumps(samples))
    for number, found in enumerate(loader):
        assert (found == want[number]).all()
        assert (again[number]["gt_seg_map"] == want[number]).all()


def test_the_checkpoint_holds_weights_and_settings(trained):
    content = torch.load(trained.root / "out/checkpoint.pth", weights_only=True)
    model = build_model(
        read_segmentor(trained.entry["segmentor"]), trained.entry, 3, trained.entry["segmentor"]
    )
    assert content["state_dict"].keys() == model.state_dict().keys()
    meta = json.loads(content["meta"])
    assert meta["classes"] == CLASSES
    assert meta["seed"] == 0
    assert not (trained.root / "work").exists()


def test_the_log_has_a_row_an_update(trained):
    with (trained.root / "out/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert {float(row["lr"]) for row in rows} == {0.01}  # the rate moves every 10 updates


def test_an_empty_or_missing_log_is_written_again_from_the_checkpoint(trained, monkeypatch):
    """A power cut may empty it, or lose it, while the checkpoint is whole."""

    def kill(self, runner, batch_idx, data_batch=None):
        if runner.iter == 9:
            raise KeyboardInterrupt

    for spoil in (lambda path: path.write_bytes(b""), Path.unlink):
        monkeypatch.setattr(hooks.PlainCheckpointHook, "before_train_iter", kill, raising=False)
        with pytest.raises(KeyboardInterrupt):
            run(trained, "killed")
        monkeypatch.undo()
        spoil(trained.root / "work/log.csv")
        assert run(trained, "killed") == sha256(trained.root / "out/checkpoint.pth")
        log = (trained.root / "killed/log.csv").read_bytes()
        assert log == (trained.root / "out/log.csv").read_bytes()


def test_pixels_that_count_are_counted(case, trained, caplog):
    """By hand: the codes of each sample's crop that reach mu, summed over both of an update."""
    with (trained.root / "out/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    samples = open_samples(trained, read_segmentor(trained.entry["segmentor"]).train_pipeline)
    for update, row in enumerate(rows):
        packed = [samples[number]["gt_seg_map"] for number in range(4 * update, 4 * update + 4)]
        wanted = sum(int(((x >> 8 >= code(0.9)) & (x & 255 != 255)).sum()) for x in packed)
        assert int(row["pixels"]) == wanted
        assert int(row["of"]) == 4 * 32 * 32, "with the padding"
    meta = json.loads(torch.load(trained.root / "out/checkpoint.pth", weights_only=True)["meta"])
    assert meta["updates_without_pixels"] == 0
    for name in case.ids[:4]:
        case.codes[name] = np.zeros_like(case.codes[name])
    case.write_masks()
    case.segmentor(train_dataloader={"batch_size": 1}, optim_wrapper=OPTIM)
    run(case)
    with (case.root / "out/log.csv").open() as file:
        empty = [row["pixels"] for row in csv.DictReader(file)].count("0")
    assert 1 <= empty < 6
    assert f"no pixel counted in {empty} of 6 updates" in caplog.text
    meta = json.loads(torch.load(case.root / "out/checkpoint.pth", weights_only=True)["meta"])
    assert meta["updates_without_pixels"] == empty


def test_a_training_on_few_pixels_says_so(case, caplog):
    for name in case.ids:
        case.codes[name] = np.zeros_like(case.codes[name])
        case.codes[name][:2, :4] = code(1.0)
    case.write_masks()
    run(case)
    with (case.root / "out/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    counted, seen = (sum(int(row[key]) for row in rows) for key in ("pixels", "of"))
    assert 0 < counted < 0.01 * seen
    assert f"{counted} of {seen} pixels counted; lower mu to use more" in caplog.text


@pytest.mark.parametrize("kind", ["unsure", "ignored"])
def test_a_training_without_a_pixel_that_counts_is_refused(case, kind):
    """After all five images were seen, of which an update takes four."""
    for name in case.ids:
        if kind == "unsure":
            case.codes[name] = np.zeros_like(case.codes[name])
        else:
            case.labels[name] = np.full_like(case.labels[name], 255)
    case.write_masks()
    with pytest.raises(InputError, match=r"no pixel of the masks has counted in 2 updates"):
        run(case)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(trained):
    want = sha256(trained.root / "out/checkpoint.pth")
    assert run(trained, "again") == want
    assert (trained.root / "again/log.csv").read_bytes() == (
        trained.root / "out/log.csv"
    ).read_bytes()
    assert run(trained, "other", seed=1) != want


@pytest.mark.parametrize("updates", [1, 3, 4, 5])
def test_a_killed_training_ends_like_an_unbroken_one(trained, monkeypatch, updates, caplog):
    """Killed in the middle of an update; a checkpoint is written every 2."""
    caplog.set_level("INFO", "clip_wsss.core.progress")

    def kill(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2 * updates + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(hooks.PlainCheckpointHook, "before_train_iter", kill, raising=False)
    with pytest.raises(KeyboardInterrupt):
        run(trained, "killed")
    monkeypatch.undo()
    saved = sorted((trained.root / "work").glob("iter_*.pth"))
    assert bool(saved) == (updates >= 2)
    if updates == 5:  # the kill cut the newest checkpoint short
        saved[-1].write_bytes(saved[-1].read_bytes()[:-1000])

    seen = []
    count = hooks.SeedHook.before_train_iter
    monkeypatch.setattr(
        hooks.SeedHook,
        "before_train_iter",
        lambda self, runner, **more: (seen.append(runner.iter), count(self, runner, **more)),
    )
    assert run(trained, "killed") == sha256(trained.root / "out/checkpoint.pth")
    first = {1: 0, 3: 4, 4: 8, 5: 4}[updates]
    assert seen[0] == first
    assert (f"training: goes on from iter_{first}" in caplog.messages) is bool(first)  # for costs
    assert (trained.root / "killed/log.csv").read_bytes() == (
        trained.root / "out/log.csv"
    ).read_bytes()


def test_work_of_other_settings_is_set_aside(trained, monkeypatch):
    def kill(self, runner, batch_idx, data_batch=None):
        if runner.iter == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(hooks.PlainCheckpointHook, "before_train_iter", kill, raising=False)
    with pytest.raises(KeyboardInterrupt):
        run(trained, "killed", entry=trained.entry | {"mu": 0.5})
    monkeypatch.undo()
    assert run(trained, "killed") == sha256(trained.root / "out/checkpoint.pth")
    assert (trained.root / "work.old").is_dir()


@pytest.mark.parametrize("damage", ["settings", "iter_8.pth", "log.csv", "last_checkpoint"])
def test_a_damaged_work_folder_is_made_again(trained, monkeypatch, damage):
    def kill(self, runner, batch_idx, data_batch=None):
        if runner.iter == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(hooks.PlainCheckpointHook, "before_train_iter", kill, raising=False)
    with pytest.raises(KeyboardInterrupt):
        run(trained, "killed")
    monkeypatch.undo()
    if damage == "settings":
        (trained.root / "work/settings.json").write_bytes(b"\xff\xfe")
    else:
        place = trained.root / "work" / damage
        place.unlink()
        (place / "folder").mkdir(parents=True)
    assert run(trained, "killed") == sha256(trained.root / "out/checkpoint.pth")


def test_a_loss_that_is_not_finite_says_what_to_do(case):
    optim = {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1e30}}
    case.segmentor(optim_wrapper=optim)
    with pytest.raises(InputError, match=r"the loss is (nan|inf) in update .*; use loss: balanced"):
        run(case)


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InputError("x.png: is broken; mend it")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 1 GiB"),
    ],
)
def test_a_training_that_does_not_fit_is_one_line(case, monkeypatch, error):
    def loss(*_, **__):
        raise error

    monkeypatch.setattr(PixelLoss, "forward", loss)
    with pytest.raises(InputError, match=r"its training does not fit .* lower train_dataloader"):
        run(case)


def test_a_batch_that_cannot_fit_is_refused_before_it_is_read(case):
    # FAULTS 27
    case.segmentor(train_dataloader={"batch_size": 10**9})
    with pytest.raises(
        InputError, match=r"a batch of 1000000000 images takes about .* lower train"
    ):
        run(case)


def test_an_error_in_a_worker_of_the_loader_is_one_line_too():
    for workers in (0, 1):
        with pytest.raises(InputError) as caught:
            next(iter(torch.utils.data.DataLoader(Broken(), num_workers=workers)))
        assert _last_line(caught.value) == "x.png: is broken; mend it"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "amp"}, "amp needs CUDA"),
        ({"loss": "dice"}, "must be one of balanced, .* got dice"),
        ({"mu": 2}, "segmentation.mu: .* got 2;"),
        ({"segmentor": "no.yaml"}, "there is no file no.yaml"),
        ({"init": "no.pth"}, "init: there is no file no.pth"),
    ],
)
def test_bad_entries_are_one_line(case, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        run(case, entry=case.entry | changes)
    assert "\n" not in str(caught.value)
    assert not (case.root / "work").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_pipeline": [{"type": "RandomFlop"}]},
            "train_pipeline.0: cannot be built .*RandomFlop",
        ),
        (
            {"train_pipeline": [{"type": "RandomFlip", "prob": 2}]},
            "train_pipeline.0: cannot be built",
        ),
        (
            {"optim_wrapper": {"optimizer": {"type": "SDG", "lr": 0.1}}},
            r"optim_wrapper\.optimizer: unknown optimizer `SDG`; did you mean `SGD`",
        ),
        (
            {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "speed": 1}}},
            "optim_wrapper: cannot be built .*speed",
        ),
        (
            {"param_scheduler": [{"type": "PoliLR"}]},
            "unknown scheduler `PoliLR`; did you mean `Poly",
        ),
        (
            {"param_scheduler": [{"type": "PolyLR", "rate": 1}]},
            "param_scheduler.0: cannot be built",
        ),
        (
            {"param_scheduler": [{"type": "SteppedPolyLR", "warmup": 2}]},
            "param_scheduler.0: cannot be built .*warmup must be from 0 to 1",
        ),
        (
            {"param_scheduler": [{"type": "SteppedPolyLR", "every": 0}]},
            "param_scheduler.0: cannot be built .*every at least 1",
        ),
        (
            {"train_pipeline": [{"type": "RandomScale", "factors": [1, 0]}]},
            r"train_pipeline.0: cannot be built .*factors must be numbers above 0; got \(1, 0\)",
        ),
        (
            {"train_pipeline": [{"type": "RandomScale", "factors": []}]},
            "factors must be numbers above 0",
        ),
        (
            {"train_pipeline": [{"type": "RandomScaleRange", "low": 0}]},
            "low must be above 0, and high at least low; got 0 and 2.0",
        ),
        (
            {"train_pipeline": [{"type": "RandomScaleRange", "low": 3, "high": 1}]},
            "low must be above 0, and high at least low; got 3 and 1",
        ),
        (
            {"train_pipeline": [{"type": "RandomPlace", "size": 0}]},
            "size must be an integer of at least 1; got 0",
        ),
    ],
)
def test_parts_that_cannot_be_built_are_one_line_before_the_first_update(case, changes, message):
    path = case.segmentor(**changes)
    with pytest.raises(InputError, match=message) as caught:
        run(case)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert check_trainings({"cgl": case.entry}, 3) == [f"cgl: {caught.value}"]


def test_a_model_that_cannot_be_built_is_said_before_the_first_map(case):
    case.segmentor()
    assert check_trainings({"cgl": case.entry}, 3) == []
    good = read_segmentor(case.entry["segmentor"]).model.to_dict()
    case.segmentor(model={**good, "decode_head": {**good["decode_head"], "type": "Hat"}})
    (said,) = check_trainings({"cgl": case.entry}, 3)
    assert said.startswith(f"cgl: {case.entry['segmentor']}: the model cannot be built (")
    clip = {"weights": "openai"}  # would have to be downloaded
    assert check_trainings({"cgl": case.entry | {"clip": clip}}, 3) == []


@pytest.mark.parametrize("part", ["in_channels", "mean"])
def test_channels_that_do_not_fit_are_said_before_the_first_map(case, part):
    path = case.segmentor()
    model = read_segmentor(path).model.to_dict()
    if part == "mean":
        model["data_preprocessor"] |= {"mean": [1, 2, 3, 4], "std": [1, 1, 1, 1]}
    else:
        model["decode_head"] |= {"in_channels": model["decode_head"]["in_channels"] + 1}
    case.segmentor(model=model)
    (said,) = check_trainings({"cgl": case.entry}, 3)
    assert said.startswith(f"cgl: {case.entry['segmentor']}: ")
    assert "goes through its model (" in said or part == "mean"


SGD = {"type": "SGD", "lr": 0.01}


@pytest.mark.parametrize(
    ("changes", "said", "late"),
    [
        ({"optim_wrapper": {"optimizer": SGD, "clip_grad": {"max_norm": 1, "norm": 2}}},
         "optim_wrapper: no update can be made (TypeError: ", "TypeError: .*argument 'norm'"),
        ({"optim_wrapper": {"optimizer": {"type": "LBFGS"}, "accumulative_counts": 3}},
         "optim_wrapper: no update can be made (TypeError: LBFGS.step()", "TypeError: LBFGS.step"),
        ({"optim_wrapper": {"optimizer": {"type": "SparseAdam"}}},
         "optim_wrapper: no update can be made (RuntimeError: Sparse", "RuntimeError: SparseAdam"),
        ({"param_scheduler": [{"type": "OneCycleLR", "eta_max": 0.1, "total_steps": 3}]},
         "param_scheduler.0: fails in update 2 (ValueError: ", "ValueError: Tried to step"),
        ({"param_scheduler": [{"type": "PolyLR"}, {"type": "CosineAnnealingLR", "T_max": 3,
                                                  "eta_min": "x"}]},
         "param_scheduler.1: fails in update 1 (TypeError: ", "TypeError: unsupported operand"),
        ({"train_pipeline": [{"type": "RandomCrop", "crop_size": 32},
                             {"type": "RandomGrayscale", "prob": 0.5}]},
         "train_pipeline makes images of 1 and of 3 channels; ", "IndexError: index 2 is out of"),
    ],
)  # fmt: skip
def test_what_fails_in_an_update_is_one_line_before_the_first_map_and_in_the_training(
    case, changes, said, late, caplog
):
    path = case.segmentor(**changes)
    (line,) = check_trainings({"cgl": case.entry}, 3)
    assert line.startswith(f"cgl: {path}: {said}")
    assert not caplog.text
    with pytest.raises(InputError, match=rf"its training failed \({late}") as caught:
        run(case)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; correct the file")
    assert "\n" not in str(caught.value)
    assert "Traceback (most recent call last):" in caplog.text
    assert "in _fit" in caplog.text


STILL = {"type": "ConstantLR", "factor": 0.0, "end": 10**6}


@pytest.mark.parametrize(
    "changes",
    [
        {"param_scheduler": [STILL]},
        {"optim_wrapper": {"optimizer": SGD, "paramwise_cfg": {
            "custom_keys": {"decode_head": {"lr_mult": 0.0}}}}},
    ],
)  # fmt: skip
def test_a_head_that_never_moves_is_refused(case, changes):
    path = case.segmentor(**changes)
    updates = case.entry["iterations"]
    (line,) = check_trainings({"cgl": case.entry}, 3)
    assert line.startswith(
        f"cgl: {path}: the learning rate of every head is 0 in {updates} updates, so that "
    )


def test_a_rate_of_no_parameter_is_refused(case):
    paramwise = {"custom_keys": {"backbone": {"lr_mult": 0.5}, "hed": {"lr_mult": 10.0}}}
    path = case.segmentor(optim_wrapper={"optimizer": SGD, "paramwise_cfg": paramwise})
    assert check_trainings({"cgl": case.entry}, 3) == [
        f"cgl: {path}: optim_wrapper.paramwise_cfg.custom_keys: hed is in no parameter's name; "
        "correct or remove it"
    ]


def test_a_backbone_may_stay_as_it_is(case):
    paramwise = {"custom_keys": {"backbone": {"lr_mult": 0.0}}}
    case.segmentor(optim_wrapper={"optimizer": SGD, "paramwise_cfg": paramwise})
    assert check_trainings({"cgl": case.entry}, 3) == []


@pytest.mark.parametrize("scheduler", [
    {"type": "ExponentialLR", "gamma": -1},
    {"type": "PolyLR", "eta_min": -1},
])  # fmt: skip
def test_rates_below_zero_are_said_before_the_first_map_and_stop_the_training(case, scheduler):
    path = case.segmentor(param_scheduler=[scheduler])
    (line,) = check_trainings({"cgl": case.entry}, 3)
    assert line.startswith(f"cgl: {path}: the learning rate of update 1 is -")
    with pytest.raises(
        InputError, match=r"segmentation: the learning rate of update . is -"
    ) as why:
        run(case)
    assert "\n" not in str(why.value)
    with (case.root / "work/log.csv").open() as file:
        assert all(float(row["lr"]) >= 0 for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"type": "Foo"}, "its weights cannot be initialised (KeyError: "),
        ({"type": "Constant", "layer": "Conv2d", "val": "x"},
         "its weights cannot be initialised (TypeError: "),
        ({"type": "Normal", "std": 1, "override": {"name": "nothere"}},
         "its weights cannot be initialised (RuntimeError: module did not have"),
    ],
)  # fmt: skip
def test_an_initialisation_that_fails_is_said_before_the_first_map(case, init, message):
    model = read_segmentor(case.segmentor()).model.to_dict()
    model["decode_head"]["init_cfg"] = init
    path = case.segmentor(model=model)
    (said,) = check_trainings({"cgl": case.entry}, 3)
    assert said.startswith(f"cgl: {path}: {message}")
    assert said.endswith("; correct the init_cfg of its parts")
    with pytest.raises(InputError) as caught:
        run(case)
    assert f"cgl: {caught.value}" == said


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("torchvision://ResNet18_Weights.NOPE", "torchvision has no such weights"),
        ("torchvision://resnet18.NOPE", "torchvision has no such weights"),
        ("open-mmlab://nope", "unknown name of OpenMMLab `nope`"),
        ("https://example.org/x.pth", "an address needs its checksum"),
        ("no.pth", "there is no file no.pth"),
    ],
)
def test_initial_weights_that_are_nowhere_are_said_before_the_first_map(case, init, message):
    (said,) = check_trainings({"cgl": case.entry | {"init": init}}, 3)
    assert said.startswith("cgl: init: ")
    assert message in said


def test_initial_weights_that_do_not_fit_are_said_before_the_first_map(case):
    """As far as they are here: what would be downloaded is not."""
    path = case.root / "init.pth"
    torch.save({"backbone.conv1.weight": torch.zeros(1)}, path)
    (said,) = check_trainings({"cgl": case.entry | {"init": str(path)}}, 3)
    assert said.startswith(f"cgl: init: {path} does not fit the segmentor")
    whole = build_model(read_segmentor(case.segmentor()), case.entry, 3, "s.yaml").state_dict()
    torch.save({k: (v * 9).to(torch.int8) for k, v in whole.items()}, path)
    (said,) = check_trainings({"cgl": case.entry | {"init": str(path)}}, 3)
    assert "torch.int8 where torch.float32 is wanted; save it as floating point" in said
    torch.save({k: torch.zeros_like(v) for k, v in whole.items()}, path)
    (said,) = check_trainings({"cgl": case.entry | {"init": str(path)}}, 3)
    assert said == f"cgl: init: {path}: every matrix is all zero; get the file again"
    init = "http://127.0.0.1:1/x.pth#sha256=" + "0" * 8
    assert check_trainings({"cgl": case.entry | {"init": init}}, 3) == []


@pytest.mark.parametrize(
    "part", [{"in_channels": 3}, {"rates": []}, {"rates": [0]}, {"in_index": 4}, {"scales": [0]},
             {"scales": ["a"]}, {}],
)  # fmt: skip
def test_a_batch_of_the_multi_scale_segmentor_is_tried(case, part):
    model = read_segmentor(case.segmentor()).model.to_dict()
    head = {"type": "DeepLabV2Head", "in_channels": 64, "in_index": 0, "rates": [1, 2]}
    scales = part.pop("scales", [0.75, 0.5])
    model |= {"type": "MultiScaleSegmentor", "scales": scales, "decode_head": head | part}
    path = case.segmentor(model=model)
    said = check_trainings({"cgl": case.entry}, 3)
    if not part and len(scales) == 2:
        assert said == []
    else:
        assert said[0].startswith(f"cgl: {path}: no batch goes through its model (")


def test_samples_that_cannot_be_stacked_are_said_before_the_first_map(case):
    """Those of one image a batch need not be."""
    model = read_segmentor(case.segmentor()).model.to_dict()
    model["data_preprocessor"]["size"] = [0, 0]
    scaled = [{"type": "RandomScale", "factors": [0.5, 1.0, 2.0]}]
    path = case.segmentor(model=model, train_pipeline=scaled)
    (said,) = check_trainings({"cgl": case.entry}, 3)
    assert said.startswith(f"cgl: {path}: no batch goes through its model (stack expects each")
    case.segmentor(model=model, train_pipeline=scaled, train_dataloader={"batch_size": 1})
    assert check_trainings({"cgl": case.entry}, 3) == []
    case.segmentor(model=model, train_pipeline=[{"type": "RandomFlip", "prob": 0.5}])
    assert check_trainings({"cgl": case.entry}, 3) == [], "all images may be of one size"


def test_sizes_of_the_data_set_that_cannot_be_stacked_are_said_before_the_first_map(case):
    """The crop is larger than they are, and nothing pads them to one size."""
    model = read_segmentor(case.segmentor()).model.to_dict()
    model["data_preprocessor"]["size"] = [64, 64]
    crop = [{"type": "RandomCrop", "crop_size": [640, 640]}]
    path = case.segmentor(model=model, train_pipeline=crop)
    sizes = [[96, 128], [104, 136]]
    assert check_trainings({"cgl": case.entry}, 3, sizes[:1]) == []
    (said,) = check_trainings({"cgl": case.entry}, 3, sizes)
    assert said.startswith(f"cgl: {path}: no batch goes through its model (stack expects each")
    assert "data_preprocessor (whose size pads what is smaller)" in said
    model["data_preprocessor"]["size"] = [640, 640]
    case.segmentor(model=model, train_pipeline=crop)
    assert check_trainings({"cgl": case.entry}, 3, sizes) == []


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"type": "TransformBroadcaster", "mapping": {"img": ["img"]},
           "transforms": [{"type": "RandomCrop", "crop_size": 32}]}],
         "makes an image of 32 x 32 with labels of 160 x 120"),
        ([{"type": "Resize", "scale": [0, 0]}], "an image of 160 x 120: does not go through"),
        ([{"type": "RandomMosaic", "prob": 1.0}], "an image of 160 x 120: does not go through"),
        ([{"type": "RandomRotate", "prob": 1.0, "degree": 40, "seg_pad_val": 9}], "the label 9 of"),
        ([{"type": "RandomCutOut", "prob": 1.0, "n_holes": 9, "cutout_shape": [[9, 9]],
           "seg_fill_in": 4}], "the label 4 of the 3 classes'"),
    ],
)  # fmt: skip
def test_transforms_that_fail_are_one_line_before_the_first_map_and_in_the_training(
    case, steps, message
):
    path = case.segmentor(train_pipeline=steps)
    (said,) = check_trainings({"cgl": case.entry}, 3)
    assert said.startswith(f"cgl: {path}: ")
    assert message in said
    with pytest.raises(InputError, match="segmentor's train_pipeline") as caught:
        run(case)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("step", "key"),
    [
        ({"type": "RandomRotate", "prob": 1.0, "degree": 9, "seg_pad_val": 300}, "seg_pad_val"),
        ({"type": "Pad", "size": [64, 64], "pad_val": {"img": 0, "seg": -1}}, "pad_val.seg"),
        ({"type": "RandomCutOut", "seg_fill_in": 2.5}, "seg_fill_in"),
        ({"type": "RandomApply", "transforms": [{"type": "RandomRotate", "seg_pad_val": 256}]},
         "seg_pad_val"),
    ],
)  # fmt: skip
def test_fillings_of_labels_that_would_reach_the_confidences_are_refused(case, step, key):
    case.segmentor(train_pipeline=[step])
    (said,) = check_trainings({"cgl": case.entry}, 3)
    assert f"{key}: must be 255 (no label) or a class; got " in said


def test_a_model_that_makes_no_batch_is_said_before_the_first_map(case):
    model = read_segmentor(case.segmentor()).model.to_dict()
    del model["data_preprocessor"]["size"]
    path = case.segmentor(model=model)
    (said,) = check_trainings({"cgl": case.entry}, 3)
    assert said.startswith(f"cgl: {path}: no batch goes through its model (only one of size and")


def test_pairs_of_numbers_may_be_lists_as_in_yaml(case):
    case.segmentor(
        train_pipeline=[
            {"type": "RandomResize", "scale": [96, 48], "ratio_range": [0.5, 2.0],
             "keep_ratio": True},
            {"type": "RandomChoiceResize", "scales": [[64, 64], [80, 80]]},
            {"type": "RandomCrop", "crop_size": [32, 32], "cat_max_ratio": 0.75},
            {"type": "RandomFlip", "prob": [0.3, 0.3], "direction": ["horizontal", "vertical"]},
            {"type": "Resize", "scale": [32, 32]},
        ]
    )  # fmt: skip
    assert check_trainings({"cgl": case.entry}, 3) == []


def test_a_config_of_the_zoo_trains_as_it_is(case):
    """Its schedule ends with the run, its crops look at the labels, its batch norm is plain."""
    path = case.root / "mine.py"
    path.write_text(
        "_base_ = ['../_base_/models/fcn_r50-d8.py', '../_base_/datasets/pascal_voc12.py',\n"
        "          '../_base_/default_runtime.py', '../_base_/schedules/schedule_20k.py']\n"
        "crop_size = (32, 32)\n"
        "model = dict(data_preprocessor=dict(size=crop_size), pretrained=None,\n"
        "             backbone=dict(depth=18, base_channels=8, stem_channels=8),\n"
        "             decode_head=dict(in_channels=64, channels=8),\n"
        "             auxiliary_head=dict(in_channels=32, channels=8))\n"
        "train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),\n"
        "    dict(type='RandomResize', scale=(96, 48), ratio_range=(0.5, 2.0), keep_ratio=True),\n"
        "    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),\n"
        "    dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion'),\n"
        "    dict(type='PackSegInputs')]\n"
    )
    run(case, entry=case.entry | {"segmentor": str(path), "iterations": 3})
    with (case.root / "out/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(int(row["pixels"]) for row in rows)
    assert [float(row["lr"]) for row in rows] == pytest.approx(
        [1e-4 + 0.0099 * (1 - k / 2) ** 0.9 for k in range(3)], rel=1e-5
    )


def test_a_crop_looks_at_labels_and_not_at_confidences():
    """MMSegmentation's own sees as many values as there are pairs of both."""
    from mmseg.datasets.transforms import RandomCrop

    rng = np.random.default_rng(0)
    label = np.zeros((64, 64), np.uint8)
    label[:, 32:] = 1
    packed = pack(label, rng.integers(0, 70, label.shape).astype(np.uint8))
    shares, blind = [], []
    for number in range(40):
        for kind, found in ((TRANSFORMS.get("RandomCrop"), shares), (RandomCrop, blind)):
            np.random.seed(number)  # noqa: NPY002
            crop = kind(crop_size=(32, 32), cat_max_ratio=0.75)
            top, bottom, left, right = crop.crop_bbox({"img": label, "gt_seg_map": packed})
            ones = float(label[top:bottom, left:right].mean())
            found.append(max(ones, 1 - ones))
    assert max(shares) < 0.75 <= max(blind)


def test_processes_that_cannot_share_an_update_are_refused(case):
    with pytest.raises(InputError, match=r"divisor of batch_size, 2, or of accumulative_counts, 2"):
        run(case, gpus=3)


def test_a_killed_process_of_several_is_one_line(case, monkeypatch):
    """FAULTS 29; torchrun itself says which one, and by which signal."""
    ended = subprocess.CompletedProcess([], returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: ended)
    with pytest.raises(InputError, match=r"work: one of the 2 processes .* ended early.* lower"):
        run(case, gpus=2)


def _forked(command: list[str], **settings) -> subprocess.CompletedProcess:
    """What torchrun does with a command of two processes, without importing all of it thrice."""
    assert "--nproc-per-node=2" in command
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}

    def rank(number: str):
        os.environ.update(where, WORLD_SIZE="2", RANK=number, LOCAL_RANK=number)
        _main(Path(command[-2]), None)

    ranks = [get_context("fork").Process(target=rank, args=number) for number in "01"]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return subprocess.CompletedProcess(command, int(any(one.exitcode for one in ranks)))


@pytest.mark.parametrize(
    ("batch", "accumulate", "launch"), [(2, 1, subprocess.run), (3, 2, _forked)]
)
def test_two_processes_train_as_one(case, batch, accumulate, launch, monkeypatch):
    """Samples of a batch, by MMEngine's launcher (torchrun; gloo on the CPU), or whole batches.

    Confidences make the ranks' pixels differ in number; half of the features are dropped.
    """
    monkeypatch.setattr(training, "subprocess", SimpleNamespace(run=launch))
    model = yaml.safe_load(case.segmentor().read_text())["model"]
    model["backbone"]["norm_cfg"] = {"type": "GN", "num_groups": 2}
    case.segmentor(
        model=model,
        train_dataloader={"batch_size": batch},
        optim_wrapper=OPTIM | {"accumulative_counts": accumulate},
    )
    entry = case.entry | {"iterations": 3, "mu": 0.98}
    states, rows = [], []
    for gpus in (1, 2):
        run(case, str(gpus), gpus=gpus, entry=entry)
        states.append(torch.load(case.root / f"{gpus}/checkpoint.pth", weights_only=True))
        rows.append(np.loadtxt(case.root / f"{gpus}/log.csv", delimiter=",", skiprows=1))
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-5)
    for name, value in states[0]["state_dict"].items():
        torch.testing.assert_close(states[1]["state_dict"][name], value, rtol=1e-4, atol=1e-6)
    assert states[0]["meta"] == states[1]["meta"]


def test_a_failure_in_one_process_of_several_is_its_line_and_its_traceback(
    case, monkeypatch, caplog
):
    monkeypatch.setattr(training, "subprocess", SimpleNamespace(run=_forked))
    path = case.segmentor(optim_wrapper={"optimizer": {"type": "SparseAdam"}})
    with pytest.raises(InputError, match=r"failed \(RuntimeError: SparseAdam does not") as caught:
        run(case, gpus=2)
    assert str(caught.value).startswith(f"{path}: its training ")
    assert "\n" not in str(caught.value)
    assert "Traceback (most recent call last):" in caplog.text
    assert "sparse_adam.py" in caplog.text


def test_a_process_that_only_lost_another_says_nothing_of_its_own(case, monkeypatch):
    def lost(*_, **__):
        raise RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:5] Connection")

    monkeypatch.setattr(PixelLoss, "forward", lost)
    with pytest.raises(RuntimeError, match=r"pair\.cc"):
        run(case)


def test_an_error_of_a_worker_is_its_last_line(case, monkeypatch):
    caught = RuntimeError(
        "Caught IndexError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "x.py", line 1\nIndexError: no such channel\n'
    )

    def raising(*_, **__):
        raise caught

    monkeypatch.setattr(PixelLoss, "forward", raising)
    with pytest.raises(InputError, match=r"failed \(IndexError: no such channel\); correct"):
        run(case)


def test_initial_weights_are_where_training_starts(trained, tmp_path):
    model = build_model(
        read_segmentor(trained.entry["segmentor"]), trained.entry, 3, trained.entry["segmentor"]
    )
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_(0, 0.1)
    torch.save(model.state_dict(), tmp_path / "init.pth")
    entry = trained.entry | {"init": str(tmp_path / "init.pth"), "iterations": 1}
    run(trained, "from-init", entry=entry)
    state = torch.load(trained.root / "from-init/checkpoint.pth", weights_only=True)["state_dict"]
    weight = "backbone.layer4.1.conv2.weight"
    assert (state[weight] - model.state_dict()[weight]).abs().max() < 0.05  # one update away


def predicted(case, out, checkpoint=None, dataset=None, ids=None, inference=None, **options):
    """Predict on the CPU; the archive."""
    predict(
        case.entry,
        inference or case.inference,
        checkpoint or case.root / "out/checkpoint.pth",
        dataset or case.dataset,
        case.ids if ids is None else ids,
        out,
        device="cpu",
        **options,
    )
    return Archive(out)


def test_predictions_are_an_archive(trained):
    out = trained.root / "predicted" / "p.zip"
    archive = predicted(trained, out, threads=1)
    assert (archive.kind, archive.ids, archive.skipped) == ("predictions", trained.ids, {})
    predictor = Predictor(
        trained.entry, trained.inference, trained.root / "out/checkpoint.pth", CLASSES, "cpu"
    )
    rgb = open_samples(trained).images.image
    for name in trained.ids:
        label = archive.label(name)
        assert label.shape == (40, 48)
        assert (label == predictor.probabilities(rgb(name)).argmax(axis=0)).all()
    before = out.read_bytes()
    predicted(trained, out, threads=1)
    assert out.read_bytes() == before


@pytest.mark.parametrize("refinement", ["none", "crf"])
def test_a_prediction_that_does_not_fit_costs_its_image_only(trained, monkeypatch, refinement):
    # FAULTS 17
    settings = trained.inference | {"refinement": refinement, "crf": {"iterations": 1}}
    whole = predicted(trained, trained.root / "whole" / "p.zip", inference=settings)
    own, seen = Predictor.probabilities, []

    def small(self, rgb):
        seen.append(rgb)
        if len(seen) == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return own(self, rgb)

    monkeypatch.setattr(Predictor, "probabilities", small)
    out, lost = trained.root / "fewer" / "p.zip", trained.ids[1]
    with pytest.raises(InputError, match=f"{lost}: its prediction does not fit into memory; scale"):
        predicted(trained, out, inference=settings)
    seen.clear()
    dataset = trained.dataset | {"on_bad_image": "skip"}
    found = predicted(trained, out, inference=settings, dataset=dataset)
    assert found.ids == [name for name in trained.ids if name != lost]
    assert list(found.skipped) == [lost]
    for name in found.ids:
        assert (found.label(name) == whole.label(name)).all()


CRF = {
    "backend": "pydensecrf",
    "image": "rgb",
    "iterations": 10,
    "gaussian_sxy": 1,
    "gaussian_compat": 3,
    "bilateral_sxy": 67,
    "bilateral_srgb": 3,
    "bilateral_compat": 4,
}


def test_the_crf_refines_predictions_in_any_number_of_processes(trained, tmp_path):
    content = torch.load(trained.root / "out/checkpoint.pth", weights_only=True)
    torch.manual_seed(0)
    content["state_dict"]["decode_head.conv_seg.weight"].normal_()  # all classes, here and there
    torch.save(content, tmp_path / "c.pth")
    found = []
    weaker = CRF | {"bilateral_compat": 1, "iterations": 1}
    for refinement, crf, workers in (
        ("none", CRF, 1),
        ("none", weaker, 1),
        ("crf", CRF, 1),
        ("crf", CRF, 2),
        ("crf", weaker, 1),
    ):
        inference = trained.inference | {"refinement": refinement, "crf": crf}
        predicted(
            trained, tmp_path / "p.zip", tmp_path / "c.pth", inference=inference, workers=workers
        )
        found.append((tmp_path / "p.zip").read_bytes())
    assert found[0] == found[1] != found[2] == found[3] != found[4]
    with pytest.raises(
        InputError, match=r"must be one of crf, none, pamr, par, sepl, or .* got snake"
    ):
        predicted(
            trained, tmp_path / "p.zip", inference=trained.inference | {"refinement": "snake"}
        )


def test_the_images_that_are_asked_for_are_predicted(trained, tmp_path):
    wanted = [trained.ids[3], trained.ids[1]]
    assert predicted(trained, tmp_path / "p.zip", ids=wanted).ids == wanted


def test_scales_and_flips_are_averaged_as_probabilities(trained):
    rgb = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)

    def answer(image, **changes):
        inference, checkpoint = trained.inference | changes, trained.root / "out/checkpoint.pth"
        predictor = Predictor(trained.entry, inference, checkpoint, CLASSES, "cpu")
        return predictor.probabilities(image)

    one, large = answer(rgb), answer(rgb, scales=[1.5])
    assert np.allclose(one.sum(axis=0), 1, atol=1e-5)
    both = answer(rgb, scales=[1.0, 1.5])
    assert np.allclose(both, (one + large) / 2, atol=1e-6)
    mirrored = answer(np.ascontiguousarray(rgb[:, ::-1]))[..., ::-1]
    flipped = answer(rgb, flip=True)
    assert np.allclose(flipped, (one + mirrored) / 2, atol=1e-6)


def test_logits_of_views_may_be_averaged_at_a_fixed_long_side(trained):
    rgb = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)

    def predictor(**changes):
        inference, checkpoint = trained.inference | changes, trained.root / "out/checkpoint.pth"
        return Predictor(trained.entry, inference, checkpoint, CLASSES, "cpu")

    default = predictor().probabilities(rgb)
    whole = {"long_side": None, "average": "probabilities"}
    assert (predictor(**whole).probabilities(rgb) == default).all()
    assert np.allclose(predictor(average="logits").probabilities(rgb), default, atol=1e-6)
    own = predictor(long_side=72, scales=[1.0, 0.5], flip=True, average="logits")
    found = own.probabilities(rgb)
    bgr = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))
    image = own.model.data_preprocessor({"inputs": [bgr]})["inputs"]

    def resized(x, size):
        return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)

    large, logits = resized(image, (60, 72)), []
    with torch.no_grad():
        for view in (large, resized(large, (30, 36))):
            logits.append(own.model(view) + own.model(view.flip(3)).flip(3))
    mean = (logits[0] + resized(logits[1], logits[0].shape[2:])) / 4
    wanted = resized(mean, (40, 48)).softmax(dim=1)[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(predictor(long_side=72).probabilities(rgb) - default).max() > 1e-3


@pytest.mark.parametrize("padding", [{"size_divisor": 32}, {"size": [70, 60]}, {"size": [9, 9]}])
def test_predictions_are_padded_as_mmsegmentation_pads_them(trained, tmp_path, padding):
    content = yaml.safe_load(Path(trained.entry["segmentor"]).read_text())
    content["model"]["data_preprocessor"] |= {"test_cfg": padding, "pad_val": 3}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    entry, checkpoint = (
        trained.entry | {"segmentor": str(path)},
        trained.root / "out/checkpoint.pth",
    )
    assert check_trainings({"cgl": entry}, 3) == []
    rgb = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)

    def predictor(**changes):
        return Predictor(entry, trained.inference | changes, checkpoint, CLASSES, "cpu")

    found = predictor().probabilities(rgb)
    whole = build_model(read_segmentor(path), entry, 3, str(path)).eval()
    whole.load_state_dict(predictor().model.state_dict())
    bgr = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))
    whole.test_cfg = ConfigDict(mode="whole")
    sample = SegDataSample(metainfo={"ori_shape": (40, 48), "img_shape": (40, 48)})
    (wanted,) = whole.test_step({"inputs": [bgr], "data_samples": [sample]})
    wanted = wanted.seg_logits.data.softmax(dim=0).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.allclose(predictor(average="logits").probabilities(rgb), found, atol=1e-5)
    unpadded = Predictor(trained.entry, trained.inference, checkpoint, CLASSES, "cpu")
    differ = np.abs(unpadded.probabilities(rgb) - found).max()
    assert differ > 1e-4 if padding != {"size": [9, 9]} else differ < 1e-5


@pytest.mark.parametrize("crop", [[16, 24], 64])
def test_predictions_in_windows_are_those_of_mmsegmentation(trained, tmp_path, crop):
    """Windows larger than the image are the image."""
    content = yaml.safe_load(Path(trained.entry["segmentor"]).read_text())
    content["model"]["test_cfg"] = {"mode": "slide", "crop_size": crop, "stride": [12, 10]}
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    entry = trained.entry | {"segmentor": str(path)}
    checkpoint = trained.root / "out/checkpoint.pth"
    rgb = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    predictor = Predictor(entry, trained.inference, checkpoint, CLASSES, "cpu")
    found = predictor.probabilities(rgb)

    own = build_model(read_segmentor(path), entry, 3, str(path)).eval()
    own.load_state_dict(predictor.model.state_dict())
    bgr = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1)))
    own.data_preprocessor.test_cfg = None
    sample = SegDataSample(metainfo={"ori_shape": (40, 48), "img_shape": (40, 48)})
    (wanted,) = own.test_step({"inputs": [bgr], "data_samples": [sample]})
    wanted = wanted.seg_logits.data.softmax(dim=0).detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    whole = Predictor(trained.entry, trained.inference, checkpoint, CLASSES, "cpu")
    differ = np.abs(whole.probabilities(rgb) - found).max()
    assert differ > 1e-4 if crop == [16, 24] else differ < 1e-5


def test_checkpoints_that_do_not_fit_are_one_line(trained, tmp_path):
    checkpoint = trained.root / "out/checkpoint.pth"
    content = torch.load(checkpoint, weights_only=True)
    other = {**content["state_dict"], "decode_head.conv_seg.bias": torch.zeros(4)}
    cases = {
        "has another decode_head.conv_seg.bias": {**content, "state_dict": other},
        "was trained on 3 classes": None,
        "lacks backbone.conv1.weight": {
            **content,
            "state_dict": {
                k: v for k, v in content["state_dict"].items() if k != "backbone.conv1.weight"
            },
        },
    }
    for message, saved in cases.items():
        path, classes = tmp_path / "other.pth", CLASSES
        torch.save(saved or content, path)
        if saved is None:
            classes = ["background", "cow", "dog"]
        with pytest.raises(InputError, match=message) as caught:
            Predictor(trained.entry, trained.inference, path, classes, "cpu")
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such checkpoint"):
        Predictor(trained.entry, trained.inference, tmp_path / "none.pth", CLASSES, "cpu")


def test_an_unreadable_image_stops_the_prediction_or_is_listed(case, trained):
    path = case.root / "data/JPEGImages/image1.png"
    path.write_bytes(path.read_bytes()[:500])
    out, checkpoint = case.root / "p.zip", trained.root / "out/checkpoint.pth"
    with pytest.raises(InputError, match=r"image1\.png"):
        predicted(case, out, checkpoint)
    assert not out.exists()
    archive = predicted(case, out, checkpoint, case.dataset | {"on_bad_image": "skip"})
    assert archive.ids == [name for name in case.ids if name != "image1"]
    assert list(archive.skipped) == ["image1"]
    assert "image1.png" in archive.skipped["image1"]


def test_the_submission_has_the_servers_layout_and_stable_bytes(case):
    predictions = case.root / "p.zip"
    images = [encode_image(name, case.labels[name]) for name in reversed(case.ids)]
    write_archive(predictions, "predictions", images)
    archives = [case.root / name for name in ("a.tgz", "b.tgz")]
    for archive in archives:
        write_submission(case.ids, predictions, archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as tar:
        assert tar.getnames() == [f"{FOLDER}/{name}.png" for name in case.ids]
        for name in case.ids:
            picture = Image.open(tar.extractfile(f"{FOLDER}/{name}.png"))
            assert picture.mode == "P"
            assert (np.asarray(picture) == case.labels[name]).all()
            colours = np.asarray(picture.convert("RGB"))
            assert (colours == voc_palette()[case.labels[name]]).all()
    with pytest.raises(InputError, match=r"p\.zip: has no image9"):
        write_submission(["image9"], predictions, case.root / "c.tgz")
    assert not (case.root / "c.tgz").exists()


@pytest.mark.parametrize("meta", [{}, {"log": ["1,0.5,0.01,7"]}, {"log": ["1,0.5,0.01,seven,9"]}])
def test_a_checkpoint_of_another_version_is_one_line(tmp_path, meta):
    hook = hooks.LogHook(str(tmp_path / "log.csv"))
    with pytest.raises(InputError, match=f"^{tmp_path}: an unfinished .*; remove the folder"):
        hook.after_load_checkpoint(None, {"meta": meta})
