"""Training of WeCLIP: samples, augmentation, resuming, several processes, NaN."""

import shutil
import signal
import time

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from mmseg.structures import SegDataSample
from online_case import ENTRY, WORDS, OnlineCase, online, row_of, train_row
from PIL import Image
from segmentation_case import SEGMENTORS

from clip_wsss.core.archives import Archive
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import sha256
from clip_wsss.core.settings import Settings
from clip_wsss.data.datasets import open_dataset
from clip_wsss.labels.online import (
    WeCLIPSettings,
    read_settings,
)
from clip_wsss.labels.weclip import LabelSettings
from clip_wsss.masks.context import MaskContext
from clip_wsss.masks.refinements.crf import CrfSettings, crf
from clip_wsss.models.clip import load_for
from clip_wsss.prompts.texts import text_features
from clip_wsss.segmentation import hooks
from clip_wsss.segmentation import predict as prediction
from clip_wsss.segmentation.affinity_loss import affinity_label, affinity_loss, pixel_loss
from clip_wsss.segmentation.hooks import latest_checkpoint
from clip_wsss.segmentation.losses import PixelLoss
from clip_wsss.segmentation.predict import Predictor, label_of, load_checkpoint
from clip_wsss.segmentation.segmentor import build_model, config_digest, read_segmentor


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return OnlineCase(tmp_path_factory.mktemp("online"))


def batch_of(case: OnlineCase, numbers) -> dict:
    samples = case.samples()
    found = [samples[number] for number in numbers]
    return {key: [sample[key] for sample in found] for key in ("inputs", "data_samples")}


def test_a_sample_has_an_image_its_classes_and_its_padding(case):
    sample = case.samples()[3]
    assert sample["inputs"].shape == (3, 32, 32)
    assert sample["data_samples"].metainfo["class_keys"] in ([0], [1], [0, 1])
    assert set(np.unique(sample["data_samples"].gt_sem_seg.data)) <= {0, 255}
    again = case.samples()[3]
    assert (again["inputs"] == sample["inputs"]).all()
    assert case.samples(seed=1)[3]["inputs"].ne(sample["inputs"]).any()


def test_colours_are_in_order(case):
    """BGR from the data, as MMSegmentation has it; RGB in front of the network."""
    images = open_dataset(case.dataset)
    build = {"type": "ImageLabelDataset", "split": "val", "seed": 0, "settings": case.dataset}
    sample = DATASETS.build(build | {"pipeline": [{"type": "PackSegInputs"}]}).prepare_data(1)
    rgb = images.image(sample["data_samples"].metainfo["img_path"])
    assert (rgb[..., 0] != rgb[..., 2]).any()
    np.testing.assert_array_equal(sample["inputs"].numpy(), rgb[..., ::-1].transpose(2, 0, 1))
    model = case.model().eval()
    given = model.data_preprocessor
    seen = model.whole(rgb, [0]).images * given.std + given.mean
    torch.testing.assert_close(
        seen[0], torch.tensor(rgb).permute(2, 0, 1).float(), atol=1e-3, rtol=0
    )


def test_images_without_a_class_stop_or_are_left_out(case, tmp_path):
    rows = (case.root / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(rows[:3]) + "\n")
    settings = case.dataset | {"labels": str(tmp_path / "labels.csv")}
    build = {"type": "ImageLabelDataset", "split": "val", "seed": 0, "pipeline": []}
    with pytest.raises(InputError, match="image2: has no row"):
        DATASETS.build(build | {"settings": settings})
    kept = DATASETS.build(build | {"settings": settings | {"on_bad_image": "skip"}})
    assert len(kept) == 2
    empty = [f"{row.partition(',')[0]}," for row in rows[3:]]
    (tmp_path / "labels.csv").write_text("\n".join([*rows[:3], *empty]) + "\n")
    with pytest.raises(InputError, match=r"image2: has no labels; .* dataset\.negatives"):
        DATASETS.build(build | {"settings": settings})
    kept = DATASETS.build(build | {"settings": settings | {"negatives": "background"}})
    assert len(kept) == 2


def test_scaling_is_pils_and_even():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (41, 30, 3)).astype(np.uint8)
    label = rng.integers(0, 3, (41, 30)).astype(np.uint8)
    factors = []
    for seed in range(200):
        np.random.seed(seed)  # noqa: NPY002
        results = {"img": image, "gt_seg_map": label}
        out = TRANSFORMS.build({"type": "RandomScaleRange"})(results)
        np.random.seed(seed)  # noqa: NPY002
        factor = np.random.uniform(0.5, 2)  # noqa: NPY002
        size = int(30 * factor), int(41 * factor)
        assert out["img_shape"] == out["gt_seg_map"].shape == size[::-1]
        if seed < 5:
            wanted = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(out["img"], wanted)
        factors.append(factor)
    assert min(factors) < 0.55
    assert max(factors) > 1.95


def test_scaled_labels_take_the_pixel_at_their_centre():
    place = np.arange(41 * 30, dtype=np.int32).reshape(41, 30)
    for seed in range(20):
        np.random.seed(seed)  # noqa: NPY002
        image = np.zeros((41, 30, 3), np.uint8)
        found = TRANSFORMS.build({"type": "RandomScaleRange"})({"img": image, "gt_seg_map": place})[
            "gt_seg_map"
        ]
        rows, columns = np.divmod(found, 30)
        assert (rows == rows[:, :1]).all()
        assert (columns == columns[:1]).all()
        for origin, size in ((rows[:, 0], 41), (columns[0], 30)):
            centre = (np.arange(len(origin)) + 0.5) * size / len(origin)
            assert (np.abs(origin + 0.5 - centre) < 0.501).all()


def test_small_images_are_placed_anywhere_on_black():
    image = np.full((20, 50, 3), 9, np.uint8)
    place = TRANSFORMS.build({"type": "RandomPlace", "size": 32})
    tops = set()
    for seed in range(60):
        np.random.seed(seed)  # noqa: NPY002
        out = place({"img": image, "gt_seg_map": np.zeros((20, 50), np.uint8)})
        assert out["img"].shape == (32, 50, 3)
        real = out["gt_seg_map"] == 0
        np.testing.assert_array_equal(out["img"], 9 * np.repeat(real[..., None], 3, axis=2))
        rows = np.flatnonzero(real[:, 0])
        assert len(rows) == 20
        tops.add(rows[0])
    assert tops == set(range(13))
    whole = {"img": np.ones((40, 40, 3), np.uint8), "gt_seg_map": np.zeros((40, 40), np.uint8)}
    assert place(whole)["img"].all()


def test_the_frozen_vit_is_run_once_and_its_last_block_once_a_count(case, monkeypatch):
    model = case.model().train()
    clip, calls = model._frozen[0], []
    streams, last = clip.streams, clip.through_last_block
    monkeypatch.setattr(clip, "streams", lambda *a: calls.append("trunk") or streams(*a))
    monkeypatch.setattr(clip, "through_last_block", lambda *a: calls.append("last") or last(*a))
    batch = batch_of(case, range(6))
    classes = {len(sample.metainfo["class_keys"]) for sample in batch["data_samples"]}
    inputs = model.data_preprocessor(batch, True)
    losses = model(**inputs, mode="loss")
    assert calls == ["trunk"] + ["last"] * len(classes)
    assert set(losses) == {"loss_seg", "loss_aff"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not any(p.requires_grad for p in clip.network.parameters())
    assert all(p.grad is None for p in clip.network.parameters())


def test_labels_change_with_the_dynamic_phase_and_padding(case):
    batch = batch_of(case, range(12))
    label = {}
    for name, changes in {
        "static": {"dynamic_start": 9},
        "dynamic": {"dynamic_start": 0},
        "ignored": {"dynamic_start": 9, "padding": "ignored"},
    }.items():
        model = case.model(**changes).eval()
        maker, found = model._labels, []
        model._labels = lambda seen, maker=maker, found=found: found.append(maker(seen)) or found[0]
        model._labels.layers = maker.layers
        inputs = model.data_preprocessor(batch, True)
        model(**inputs, mode="loss")
        label[name] = found[0]
        padding = torch.stack([s.gt_sem_seg.data[0] for s in inputs["data_samples"]]) == 255
    assert (label["static"] != label["dynamic"]).any()
    assert padding.any()
    assert (label["ignored"][padding] == 255).all()
    assert (label["ignored"] == label["static"])[~padding].all()
    assert (label["static"] != 255).all()


def test_the_counter_of_the_public_code():
    """Its validations count: on VOC the dynamic phase starts at 9145, on COCO at 40001."""
    voc = LabelSettings()
    assert [voc.is_dynamic(9144), voc.is_dynamic(9145)] == [False, True]
    assert [voc.passes(2000), voc.passes(2001)] == [2000, 2001 + 1464]
    fixed = LabelSettings(validation_every=0)
    assert [fixed.is_dynamic(15000), fixed.is_dynamic(15001)] == [False, True]


def test_a_killed_training_ends_with_the_same_bytes(case, tmp_path):
    whole = case.fit(tmp_path / "whole", 6)
    case.fit(tmp_path / "killed", 3)
    assert latest_checkpoint(tmp_path / "killed").name == "iter_3.pth"
    for name in ("iter_3 (copy).pth", "iter_last.pth"):
        shutil.copy(tmp_path / "killed/iter_3.pth", tmp_path / "killed" / name)
    assert latest_checkpoint(tmp_path / "killed").name == "iter_3.pth"
    resumed = case.fit(tmp_path / "killed", 6, resume=True)
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert int(whole["forwards"]) == 6
    fresh = case.model().state_dict()
    changed = [name for name, value in whole.items() if not torch.equal(value, fresh[name])]
    assert len(changed) > 10
    assert not any("clip" in name or "visual" in name for name in whole)


def test_a_checkpoint_predicts_without_texts(case, tmp_path):
    model = case.model()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    segmentor = case.online()
    segmentor.model.pop("texts")
    other = build_model(segmentor, ENTRY, 3, "weclip").eval()
    load_checkpoint(other, tmp_path / "model.pth", ["background", "cat", "dog"], "weclip")
    image = torch.randn(1, 3, 45, 38)
    with torch.no_grad():
        assert torch.equal(other(image), model.eval()(image))
        assert other(image).shape == (1, 3, 5, 4)  # the remainder is cut: slip 9
        assert other(image[:, :, :7]).shape == (1, 3, 1, 4)  # less than a patch becomes one
    segmentor.model.settings = {"grid": "ceil"}
    with torch.no_grad():
        assert build_model(segmentor, ENTRY, 3, "weclip").eval()(image).shape == (1, 3, 6, 5)
    with pytest.raises(InputError, match=r"model.texts"):
        other(image, [], mode="loss")


def test_a_training_with_dropout_differs_from_one_without(case):
    batch = case.model().data_preprocessor(batch_of(case, range(4)), True)
    values = [
        float(case.model().train(mode)(**batch, mode="loss")["loss_seg"].detach())
        for mode in (True, True, False)
    ]
    assert values[0] == values[1] != values[2]


def test_a_batch_without_background_or_foreground_makes_no_nan(case, caplog):
    model = case.model().train()
    batch = model.data_preprocessor(batch_of(case, range(4)), True)
    for value, update in ((0, 1), (1, 2)):
        maker = model._labels
        model._labels = lambda seen, value=value: torch.full((4, 32, 32), value)
        model._labels.layers = maker.layers
        losses = model(**batch, mode="loss")
        model.zero_grad()
        sum(losses.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        assert model.public_nan.tolist() == [update, 1]
        model._labels = maker
    assert caplog.text.count("would be NaN") == 1
    assert "no foreground pixel" in caplog.text


def test_losses_over_nothing_are_zero():
    label = torch.full((1, 16, 16), 255)
    pairs = affinity_label(label, (2, 2), 8)
    assert (pairs == 255).all()
    values = torch.rand(1, 4, 4, requires_grad=True)
    loss = affinity_loss(values, pairs)
    loss.backward()
    assert loss.item() == 0
    assert not values.grad.any()
    same = affinity_label(torch.zeros(1, 16, 16).long(), (2, 2), 0)
    assert affinity_loss(torch.zeros(1, 4, 4), same).item() == pytest.approx(4 / 2 / 5)
    logits = torch.randn(1, 3, 16, 16, requires_grad=True)
    assert pixel_loss(PixelLoss("balanced"), logits, label).item() == 0


def _rank(rank: int, ranks: int, case: OnlineCase, out) -> None:
    """Losses and gradients of this rank's share of eight samples."""
    if ranks > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{out}/store", rank=rank, world_size=ranks
        )
    torch.set_num_threads(1)
    model = case.model(padding="ignored").train()
    batch = model.data_preprocessor(batch_of(case, range(rank, 8, ranks)), True)
    gradients, values = {}, []
    for _ in range(2):  # so that the draws of two updates are seen
        model.zero_grad()
        losses = model(**batch, mode="loss")
        sum(losses.values()).backward()
        values += [value.item() for value in losses.values()]
    for name, parameter in model.named_parameters():
        if ranks > 1:  # what MMEngine's wrapper does
            torch.distributed.all_reduce(parameter.grad)
        gradients[name] = parameter.grad / ranks
    torch.save({"gradients": gradients, "values": values}, out / f"{ranks}-{rank}.pt")
    if ranks > 1:
        torch.distributed.destroy_process_group()


def test_two_processes_equal_one(case, tmp_path):
    """Counts, affinity pairs and dropout are those of the whole batch."""
    _rank(0, 1, case, tmp_path)
    # Forked, since a new process would import everything again.
    torch.multiprocessing.start_processes(_rank, (2, case, tmp_path), 2, start_method="fork")
    one, first, second = (torch.load(tmp_path / f"{n}.pt") for n in ("1-0", "2-0", "2-1"))
    assert first["values"] == second["values"]
    np.testing.assert_allclose(first["values"], one["values"], atol=1e-6)
    for name, gradient in one["gradients"].items():
        if name.endswith("in_proj_bias"):
            gradient[16:32] = first["gradients"][name][16:32] = 0  # the K third is noise
        scale = gradient.abs().max().clamp(min=1e-8)
        assert float((first["gradients"][name] - gradient).abs().max() / scale) < 1e-4, name


def test_the_shipped_segmentors_build(case):
    for path in sorted((SEGMENTORS / "online").glob("*.yaml")):
        segmentor = read_segmentor(path)
        assert config_digest(segmentor) != config_digest(case.online())
        segmentor.model.backbone = case.clip
        model = build_model(segmentor, ENTRY, 5, str(path))
        model.init_weights()
        assert model.decode_head.classify.weight.shape[0] == 5
        for transform in segmentor.train_pipeline:
            TRANSFORMS.build(transform)


def test_the_decoder_has_the_stated_size_and_start():
    torch.manual_seed(0)
    head = MODELS.build({"type": "WeCLIPHead", "in_channels": [768] * 11, "num_classes": 21})
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(5.99, abs=0.01)
    block = head.blocks[0]
    assert not block.attention.in_proj_bias.any()
    assert not block.attention.out_proj.bias.any()
    xavier = (6 / (256 + 768)) ** 0.5
    assert block.attention.in_proj_weight.abs().max().item() == pytest.approx(xavier, rel=1e-2)
    bound = 1 / 768**0.5
    assert head.projections[3][0].weight.abs().max().item() == pytest.approx(bound, rel=1e-2)
    keep = head.draw(400, torch.Generator().manual_seed(0))
    assert set(keep.unique().tolist()) == {0.0, torch.tensor(1 / 0.9).item()}
    assert float((keep == 0).float().mean()) == pytest.approx(0.1, abs=0.01)


def test_settings_are_checked_in_one_line():
    for kind, given, text in (
        (LabelSettings, {"filter": "both"}, r"labels.filter: .*got both"),
        (LabelSettings, {"par": {"iterations": -1}}, r"labels.par.iterations: .*got -1"),
        (LabelSettings, {"tresh": 1}, r"labels.tresh: unknown key"),
        (WeCLIPSettings, {"affinity_weight": float("nan")}, r"affinity_weight: "),
    ):
        with pytest.raises(InputError, match=text) as error:
            read_settings(kind, given, "labels")
        assert "\n" not in str(error.value)


class Tags:
    """A maker of labels without settings."""

    layers = 0

    def __init__(self, texts):
        pass

    def __call__(self, seen):
        label = torch.zeros(len(seen.keys), *seen.size, dtype=torch.int64)
        for own, keys in zip(label, seen.keys, strict=True):
            own[8:24, 8:24] = keys[0] + 1
        return label


def test_a_label_maker_of_ones_own(case):
    """Another system: one class."""
    segmentor = case.online()
    segmentor.model.labels = {"method": f"{__name__}:Tags"}
    model = build_model(segmentor, ENTRY, 3, "weclip").train()
    batch = model.data_preprocessor(batch_of(case, range(4)), True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    values = []
    for _ in range(12):
        loss = sum(model(**batch, mode="loss").values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]


def sample_of(keys: list[int], size: tuple[int, int]) -> SegDataSample:
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, *size).long()))
    sample.set_metainfo({"class_keys": keys})
    return sample


def test_labels_only_hold_the_classes_of_their_image(case):
    model = case.model().eval()
    rgb = np.random.default_rng(0).integers(0, 256, (45, 38, 3)).astype(np.uint8)
    assert set(np.unique(label_of(model.final_scores(rgb, [1]).numpy(), [1]))) <= {0, 2}
    assert model.final_scores(rgb, [1], long_side=64).shape == (2, 45, 38)
    inputs = torch.randn(1, 3, 32, 32)
    assert torch.isfinite(sum(model(inputs, [sample_of([1], (32, 32))], mode="loss").values()))


# ---- as a row of a runs table: `clip_wsss.segmentation.train` ------------------------------------


@pytest.fixture(scope="module")
def row(case, tmp_path_factory):
    """An unbroken training of a row."""
    out = tmp_path_factory.mktemp("row")
    train_row(case, out, row_of(case))
    return out


def test_a_row_trains_without_masks_and_predicts(case, row):
    rows = (row / "log.csv").read_text().splitlines()
    assert len(rows) == 7
    assert not (row / "work").exists()
    content = torch.load(row / "c.pth", weights_only=True)
    assert int(content["state_dict"]["forwards"]) == 6
    assert not any("visual" in name for name in content["state_dict"])
    inference = {"scales": [1.0], "flip": True, "long_side": 64, "average": "logits"}
    classes = ["background", "cat", "dog"]
    predictor = Predictor(row_of(case), inference, row / "c.pth", classes, "cpu")
    found = predictor.probabilities(np.zeros((40, 48, 3), np.uint8))
    assert found.shape == (3, 40, 48)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_a_killed_row_ends_with_the_same_bytes(case, row, tmp_path, monkeypatch):
    def kill(self, runner, batch_idx, data_batch=None):
        if runner.iter == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(hooks.PlainCheckpointHook, "before_train_iter", kill, raising=False)
    with pytest.raises(KeyboardInterrupt):
        train_row(case, tmp_path, row_of(case))
    monkeypatch.undo()
    assert latest_checkpoint(tmp_path / "work").name == "iter_4.pth"
    assert train_row(case, tmp_path, row_of(case)) == sha256(row / "c.pth")
    assert (tmp_path / "log.csv").read_bytes() == (row / "log.csv").read_bytes()


@pytest.mark.long
def test_a_process_killed_twice_leaves_the_same_bytes(case, row, tmp_path):
    """SIGKILL, once in each phase of the labels."""
    fork = torch.multiprocessing.get_context("fork")
    for number in (2, 4):
        process = fork.Process(target=train_row, args=(case, tmp_path, row_of(case)))
        process.start()
        while not (tmp_path / f"work/iter_{number}.pth").is_file():
            assert process.is_alive()
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (tmp_path / "c.pth").exists()
    assert train_row(case, tmp_path, row_of(case)) == sha256(row / "c.pth")
    assert (tmp_path / "log.csv").read_bytes() == (row / "log.csv").read_bytes()


def test_ranked_texts_come_as_a_file_and_decide_the_labels(case, row, tmp_path):
    entry = row_of(case)
    clip = load_for(entry["online"]["clip"], entry["online"]["clip"], "cpu")
    losses = []
    for changes in ({}, {"names": ["aeroplane", "boat"]}):
        foreground, background = text_features(clip, **(WORDS | changes))
        path = tmp_path / "texts.npz"
        np.savez(path, foreground=foreground.numpy(), background=background.numpy())
        ranked = entry | {"online": entry["online"] | {"texts": None}}
        train_row(case, tmp_path, ranked, texts=path)
        losses.append((tmp_path / "log.csv").read_bytes())
    assert losses[0] == (row / "log.csv").read_bytes() != losses[1]


def test_an_online_setting_changes_the_training(case, row, tmp_path):
    entry = row_of(case, online(dynamic_start=2, validation_every=0, statistics="clip"))
    train_row(case, tmp_path, entry)
    assert (tmp_path / "log.csv").read_bytes() != (row / "log.csv").read_bytes()


class BoxedSettings(LabelSettings):
    side: int = 4


class Boxed:
    """A label maker of your own: a square of a stated size."""

    layers = 0

    def __init__(self, texts, settings: BoxedSettings):
        self.settings = settings

    def __call__(self, seen):
        label = torch.zeros(len(seen.keys), *seen.size, dtype=torch.int64)
        for own, keys in zip(label, seen.keys, strict=True):
            own[: self.settings.side, : self.settings.side] = keys[0] + 1
        return label


def test_another_system_is_one_class_and_one_row(case, tmp_path):
    entry = row_of(case, online(method=f"{__name__}:Boxed", side=9, dynamic_start=2))
    model = build_model(
        read_segmentor(entry["segmentor"]), entry, 3, "boxed", save_texts(case, tmp_path)
    )
    assert model._labels.settings.side == 9
    assert model._labels.settings.static_layers == 2, "the row's"
    assert train_row(case, tmp_path, entry)


class PatchesSettings(Settings):
    channels: int = 4


class Patches(torch.nn.Module):
    """A decoder of your own, without dropout."""

    def __init__(self, widths, classes, settings: PatchesSettings):
        super().__init__()
        self.features = torch.nn.Conv2d(sum(widths), settings.channels, 1)
        self.classify = torch.nn.Conv2d(settings.channels, classes, 1)

    def forward(self, tokens, grid):
        features = self.features(torch.cat(tokens, dim=2).transpose(1, 2).unflatten(2, grid))
        return self.classify(features), features


class Flat(Patches):
    """Its features are not on the grid."""

    def forward(self, tokens, grid):
        return tuple(x.flatten(2) for x in super().forward(tokens, grid))


def test_another_decoder_is_one_class_and_one_row(case, tmp_path):
    own = online(decoder=f"{__name__}:Patches", Patches={"channels": 6}, dynamic_start=2)
    entry = row_of(case, own)
    train_row(case, tmp_path, entry)
    state = torch.load(tmp_path / "c.pth", weights_only=True)["state_dict"]
    assert state["decode_head.features.weight"].shape[0] == 6
    assert not any("projections" in name for name in state), "nothing of the file's"
    assert list(final_labels(case, entry, tmp_path, tmp_path / "a.zip").ids) == case.ids[:4]
    inference = {"scales": [1.0], "flip": True, "average": "logits"}
    classes = ["background", "cat", "dog"]
    predictor = Predictor(entry, inference, tmp_path / "c.pth", classes, "cpu")
    assert predictor.probabilities(np.zeros((40, 48, 3), np.uint8)).shape == (3, 40, 48)
    flat = row_of(case, online(decoder=f"{__name__}:Flat"))
    with pytest.raises(InputError, match=r"decoder: must return logits .* grid \(4, 4\)") as caught:
        train_row(case, tmp_path / "flat", flat)
    assert "\n" not in str(caught.value)


def save_texts(case: OnlineCase, folder):
    clip = row_of(case)["online"]["clip"]
    foreground, background = text_features(load_for(clip, clip, "cpu"), **WORDS)
    np.savez(folder / "texts.npz", foreground=foreground.numpy(), background=background.numpy())
    return folder / "texts.npz"


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ({"method": "snake"}, r"model.labels: follows from the row; leave it out"),
        ({"threshold": 0.3}, r"model.labels: follows from the row; leave it out"),
    ],
)
def test_a_file_that_does_not_fit_the_row_is_one_line(case, tmp_path, labels, line):
    with pytest.raises(InputError, match=line) as caught:
        train_row(case, tmp_path, row_of(case, **labels))
    assert "\n" not in str(caught.value)


# ---- labels of whole images by a finished training ----------------------------------------------

CRF = {"refinement": "crf", "crf": {"backend": "fast", "iterations": 3}}


def final_labels(case: OnlineCase, entry: dict, row, out, **changes) -> Archive:
    """Labels of four images, as the job of the workflow makes them."""
    inference = {"scales": [1.0], "flip": False, "refinement": "none", **changes}
    settings = changes.pop("dataset", case.dataset)
    texts = inference.pop("texts", None)
    inference.pop("dataset", None)
    prediction.label(
        entry, inference, row / "c.pth", settings, case.ids[:4], out, texts, device="cpu"
    )
    return Archive(out)


def test_a_finished_training_labels_its_images(case, row, tmp_path):
    entry = row_of(case)
    found = final_labels(case, entry, row, tmp_path / "a.zip")
    assert list(found.ids) == case.ids[:4]
    model = build_model(
        read_segmentor(entry["segmentor"]), entry, 3, "weclip", save_texts(case, tmp_path)
    )
    load_checkpoint(model, row / "c.pth", ["background", "cat", "dog"], "weclip")
    images = open_dataset(case.dataset)
    seen: set[int] = set()
    for name in found.ids:
        rgb, keys = images.image(name), images.labels(name)
        wanted = label_of(model.eval().final_scores(rgb, keys).numpy(), keys)
        np.testing.assert_array_equal(found.label(name), wanted)
        assert set(np.unique(wanted)) <= {0, *(key + 1 for key in keys)}
        seen |= set(np.unique(wanted).tolist())
    assert len(seen) > 1
    again = final_labels(case, entry, row, tmp_path / "b.zip", scales=[0.5], long_side=8, flip=True)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes(), "views"
    texts = save_texts(case, tmp_path)
    ranked = entry | {"online": entry["online"] | {"texts": None}}
    final_labels(case, ranked, row, tmp_path / "b.zip", texts=texts)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes(), "ranked texts"
    refined = final_labels(case, entry, row, tmp_path / "c.zip", **CRF)
    for name in refined.ids:
        keys, rgb = images.labels(name), images.image(name)
        scores = model.final_scores(rgb, keys).numpy()
        wanted = crf(MaskContext(scores, rgb, keys), CrfSettings(**CRF["crf"]))
        np.testing.assert_array_equal(refined.label(name), label_of(wanted, keys))
    assert any((refined.label(n) != again.label(n)).any() for n in refined.ids)


def test_images_without_a_class_are_background_or_stop(case, row, tmp_path):
    rows = (case.root / "labels.csv").read_text().splitlines()
    rows[1] = f"{case.ids[0]},"
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    settings = case.dataset | {"labels": str(tmp_path / "labels.csv")}
    entry = row_of(case)
    with pytest.raises(InputError, match=f"{case.ids[0]}: has no labels"):
        final_labels(case, entry, row, tmp_path / "a.zip", dataset=settings)
    skipped = final_labels(
        case, entry, row, tmp_path / "a.zip", dataset=settings | {"on_bad_image": "skip"}
    )
    assert list(skipped.skipped) == case.ids[:1]
    empty = final_labels(
        case, entry, row, tmp_path / "a.zip", dataset=settings | {"negatives": "background"}, **CRF
    )
    assert not empty.label(case.ids[0]).any()


class Squares(Boxed):
    """Scores of whole images too."""

    def final(self, seen):
        """A square of the first class."""
        scores = torch.zeros(1 + len(seen.keys[0]), *seen.size)
        scores[0] = 0.5
        scores[1, : self.settings.side, : self.settings.side] = 1
        return scores[: 3 if self.settings.side < 20 else 1]


def test_another_maker_labels_whole_images_by_one_method(case, tmp_path):
    entry = row_of(case, online(method=f"{__name__}:Squares", side=9))
    train_row(case, tmp_path, entry)
    found = final_labels(case, entry, tmp_path, tmp_path / "a.zip")
    label = found.label(case.ids[1])
    assert (label[:9, :9] == open_dataset(case.dataset).labels(case.ids[1])[0] + 1).all()
    assert (label > 0).sum() == 81
    entry["online"]["labels"]["side"] = 20
    with pytest.raises(InputError, match=r"final must return \(3, .* scores; got \(1, ") as caught:
        final_labels(case, entry, tmp_path, tmp_path / "a.zip")
    assert "\n" not in str(caught.value)
