"""Heads, backbones, schedules and the segmentors of config/segmentors/."""

import hashlib
import pkgutil
import re
import sys

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import yaml
from mmengine import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.structures import PixelData
from mmengine.utils.dl_utils import mmcv_full_available
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image
from safetensors.torch import save_file
from segmentation_case import SEGMENTORS

from clip_wsss.core.errors import InputError
from clip_wsss.models.clip import load_clip
from clip_wsss.segmentation import weights
from clip_wsss.segmentation.compat import provide_operators
from clip_wsss.segmentation.heads import DeepLabV2Head, TokenHead
from clip_wsss.segmentation.losses import PixelLoss, loss_config, pack
from clip_wsss.segmentation.segmentor import build_model, read_segmentor, use_device
from clip_wsss.segmentation.weights import fetch_initial, load_initial

ENTRY = {"loss": "confidence-guided", "mu": 0.5}


@pytest.fixture(autouse=True)
def _cpu():
    use_device("cpu")
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def demo_clip(tmp_path_factory):
    """A CLIP of the demo's shape with random weights and a vocabulary of four words."""
    torch.manual_seed(0)
    architecture = "src/clip_wsss/demo/clip/model.json"
    config = yaml.safe_load((SEGMENTORS.parents[1] / architecture).read_text())
    config["text_cfg"]["vocab_size"] = 4
    state = open_clip.CLIP(**config).state_dict()
    state["token_embedding.rows"] = torch.tensor([0, 1, 49406, 49407])
    path = tmp_path_factory.mktemp("clip") / "random.safetensors"
    save_file({k: v.contiguous() for k, v in state.items() if k != "attn_mask"}, path)
    return {"architecture": str(SEGMENTORS.parents[1] / architecture), "weights": str(path)}


def sample(height: int, width: int, classes: int, seed: int = 0) -> SegDataSample:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (height, width)).astype(np.uint8)
    packed = torch.from_numpy(pack(label, rng.uniform(size=label.shape))).long()
    return SegDataSample(gt_sem_seg=PixelData(data=packed[None]))


def deeplab_head(**changes) -> DeepLabV2Head:
    loss = {"loss_decode": loss_config("confidence-guided", 0.5)}
    sampler = {"sampler": {"type": "ConfidenceSampler"}}
    return DeepLabV2Head(in_channels=5, num_classes=3, in_index=0, **loss, **sampler, **changes)


def test_the_deeplabv2_head_is_the_sum_of_four_dilated_convolutions():
    head = deeplab_head()
    head.init_weights()
    x = torch.randn(2, 5, 20, 22)
    weights = [(conv.weight, conv.bias) for conv in head.convs]
    expected = sum(
        F.conv2d(x, w, b, padding=rate, dilation=rate)
        for (w, b), rate in zip(weights, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(head((x,)), expected)
    assert {name for name, _ in head.named_parameters()} == {
        f"convs.{i}.{part}" for i in range(4) for part in ("weight", "bias")
    }


def test_the_deeplabv2_head_starts_with_normal_weights_and_no_bias():
    head = DeepLabV2Head(in_channels=64, num_classes=21, in_index=0)
    head.init_weights()
    for conv in head.convs:
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert (conv.bias == 0).all()


def small_msc():
    segmentor = read_segmentor(SEGMENTORS / "deeplabv2-r101.yaml")
    segmentor.model.backbone.update({"depth": 18, "base_channels": 8, "stem_channels": 8})
    segmentor.model.decode_head.update({"in_channels": 64, "rates": [1, 2]})
    model = build_model(segmentor, ENTRY, 3, "r18")
    model.init_weights()
    return model.train()


def test_multi_scale_logits_and_losses_by_hand():
    model = small_msc()
    images, samples = torch.randn(2, 3, 65, 65), [sample(65, 65, 3, n) for n in range(2)]
    losses = model.loss(images, samples)

    one = model.decode_head(model.extract_feat(images))
    three, half = (
        model.decode_head(
            model.extract_feat(F.interpolate(images, scale_factor=s, mode="bilinear"))
        )
        for s in (0.75, 0.5)
    )
    grow = [F.interpolate(x, one.shape[2:], mode="bilinear") for x in (three, half)]
    fused = torch.maximum(one, torch.maximum(*grow))
    torch.testing.assert_close(model(images, mode="tensor"), fused)

    criterion = PixelLoss("confidence-guided", mu=0.5)
    for name, logits in {"1": one, "0.75": three, "0.5": half, "max": fused}.items():
        size = (logits.shape[3], logits.shape[2])
        packed = [Image.fromarray(s.gt_sem_seg.data[0].numpy().astype(np.int32)) for s in samples]
        small = np.stack([np.asarray(p.resize(size, Image.NEAREST)) for p in packed])
        label = torch.from_numpy(small & 255).long()
        confidence = torch.from_numpy(small >> 8) / 65535
        torch.testing.assert_close(
            losses[f"scale_{name}.loss_seg"], criterion(logits, label, confidence)
        )
    assert sum("loss" in key for key in losses) == 4


def test_frozen_batch_norm_neither_learns_nor_follows():
    model = small_msc()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    loss, _ = model.parse_losses(model.loss(torch.randn(1, 3, 33, 33), [sample(33, 33, 3)]))
    loss.backward()
    assert all(p.grad is None for norm in norms for p in norm.parameters())
    assert all((norm.running_mean == mean).all() for norm, mean in zip(norms, before, strict=True))


def test_deeplabv2_trains_weights_and_biases_at_their_own_rates():
    segmentor = read_segmentor(SEGMENTORS / "deeplabv2-r101.yaml")
    model = build_model(segmentor, ENTRY, 21, "r101")
    optimizer = build_optim_wrapper(model, segmentor.optim_wrapper.to_dict()).optimizer
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(g["params"][0])]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups
    }
    for name, (rate, decay) in found.items():
        if not name.startswith("decode_head"):
            expected = (2e-4, 5e-4)
        elif name.endswith("bias"):
            expected = (20 * 2e-4, 0)
        else:
            expected = (10 * 2e-4, 5e-4)
        assert (rate, decay) == pytest.approx(expected), name
    convolutions = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    heads = [name for name in convolutions if name.startswith("decode_head")]
    assert len(heads) == 4
    assert len(found) == len(convolutions) + len(heads)  # no batch norm
    assert {g["momentum"] for g in optimizer.param_groups} == {0.9}


def rates(updates: int, accumulate: int, **settings) -> list[float]:
    """Rates of the iterations of a run at base rate 1."""
    wrapper = OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0))
    settings |= {"type": "SteppedPolyLR", "end": updates * accumulate, "accumulate": accumulate}
    scheduler = PARAM_SCHEDULERS.build(settings, default_args={"optimizer": wrapper})
    found = []
    for _ in range(updates * accumulate):
        found.append(wrapper.param_groups[0]["lr"])
        wrapper.step()
        scheduler.step()
    return found


def test_the_rate_moves_every_ten_updates():
    found = rates(20_000, 1, power=0.9, every=10)
    for update in (0, 1, 9, 10, 11, 19, 20, 9_999, 10_000, 19_989, 19_999):
        expected = (1 - update // 10 * 10 / 20_000) ** 0.9
        assert found[update] == pytest.approx(expected, rel=1e-12), update


def test_an_update_of_two_iterations_has_one_rate():
    once, twice = rates(50, 1, every=10), rates(50, 2, every=10)
    assert twice == [rate for rate in once for _ in range(2)]


def test_warm_up_rises_linearly():
    found = rates(100, 1, power=1.0, warmup=0.1)
    for update in (0, 4, 9, 10, 50):
        expected = min(1, (update + 1) / 10) * (1 - update / 100)
        assert found[update] == pytest.approx(expected)


@pytest.mark.parametrize("path", sorted(SEGMENTORS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_segmentor_takes_a_step(path, demo_clip):
    segmentor, entry = read_segmentor(path), ENTRY
    if segmentor.model.backbone.type == "FrozenCLIPBackbone":
        entry = ENTRY | {"clip": demo_clip}
        segmentor.model.backbone.blocks = [0, 1, 2, 3]
        segmentor.model.decode_head.in_channels = [3, 128, 128, 128, 128]
    if segmentor.model.backbone.get("depth", 0) > 18:
        build_model(segmentor, ENTRY, 21, str(path))  # as it is, then smaller
        segmentor.model.backbone.update({"depth": 50, "base_channels": 8, "stem_channels": 8})
        segmentor.model.decode_head.in_channels = 256
    if "auxiliary_head" in segmentor.model:
        segmentor.model.decode_head.update({"c1_in_channels": 32, "channels": 32})
        segmentor.model.auxiliary_head.update({"in_channels": 128, "channels": 32})
    model = build_model(segmentor, entry, 3, str(path)).train()
    model.init_weights()
    samples = [sample(48, 48, 3, n) for n in range(2)]
    loss, _ = model.parse_losses(model.loss(torch.randn(2, 3, 48, 48), samples))
    loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(grad is not None for grad in trained.values())  # or DDP would wait for ever
    assert torch.isfinite(loss)
    logits = model.eval()(torch.randn(1, 3, 48, 48), mode="tensor")
    assert logits.shape[:2] == (1, 3)


def test_a_head_of_one_channel_gets_the_classes_of_the_run():
    segmentor = read_segmentor(SEGMENTORS / "deeplabv2-r18.yaml")
    segmentor.model.decode_head.update({"out_channels": 1, "threshold": 0.3})
    assert build_model(segmentor, ENTRY, 2, "r18").decode_head.out_channels == 2


def test_the_published_crop_gives_output_stride_8():
    for name in ("deeplabv2-r101", "deeplabv2-r101-coco"):
        segmentor = read_segmentor(SEGMENTORS / f"{name}.yaml")
        segmentor.model.backbone.update({"depth": 50, "base_channels": 8, "stem_channels": 8})
        segmentor.model.decode_head.in_channels = 256
        model = build_model(segmentor, ENTRY, 21, name)
        with torch.no_grad():
            (features,) = model.extract_feat(torch.zeros(1, 3, 321, 321))
        assert features.shape[2:] == (41, 41)


def test_caffe_resnet_strides_in_the_first_1x1_and_rounds_its_pool_up():
    model = MODELS.build({"type": "CaffeResNet", "depth": 50, "base_channels": 8})
    assert model.layer2[0].conv1.stride == (2, 2)
    assert model.layer2[0].conv2.stride == (1, 1)
    assert model.maxpool.ceil_mode


def test_the_frozen_backbone_gives_the_tokens_of_each_block_and_stores_nothing(demo_clip):
    backbone = MODELS.build({"type": "FrozenCLIPBackbone", "model": demo_clip, "blocks": [0, -1]})
    assert not list(backbone.parameters())
    assert not backbone.state_dict()
    with pytest.raises(ValueError, match=r"blocks: 4 must be in -4\.\.3"):
        MODELS.build({"type": "FrozenCLIPBackbone", "model": demo_clip, "blocks": [4]})
    rgb = np.random.default_rng(0).integers(0, 255, (32, 48, 3)).astype(np.uint8)
    clip = load_clip(demo_clip)
    batch = clip.preprocess(rgb)[None]
    image, first, last = backbone(batch)
    assert (image == batch).all()
    assert first.shape == last.shape == (1, 128, 4, 6)
    torch.testing.assert_close(first.mean(1), torch.zeros(1, 4, 6), atol=1e-5, rtol=0)

    x, _ = clip.trunk(batch, 0)
    tokens = clip.last_block(x, clip.normed(x))
    expected = F.layer_norm(tokens[0, 1:], (128,)).T.reshape(128, 4, 6)
    torch.testing.assert_close(last[0], expected)


def test_odd_sides_are_stretched_to_whole_patches(demo_clip):
    backbone = MODELS.build({"type": "FrozenCLIPBackbone", "model": demo_clip, "blocks": [0]})
    image, tokens = backbone(torch.randn(1, 3, 33, 40))
    assert image.shape[2:] == (33, 40)
    assert tokens.shape[2:] == (5, 5)


def test_the_token_head_answers_on_the_fine_grid():
    head = TokenHead(in_channels=[3, 6, 6], channels=8, stem_channels=4, num_classes=3)
    inputs = (torch.randn(2, 3, 32, 48), torch.randn(2, 6, 4, 6), torch.randn(2, 6, 4, 6))
    assert head(inputs).shape == (2, 3, 8, 12)


def kazuto_name(name: str) -> str:
    """The inverse of what `load_initial` does, by hand: torchvision's name to kazuto1011's."""
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"layer1.conv1.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.(\d)\.(\w+)", name):
        kind = "conv" if match[3] == "0" else "bn"
        return f"layer{int(match[1]) + 1}.block{int(match[2]) + 1}.shortcut.{kind}.{match[4]}"
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(\w+)", name)
    part = {"1": "reduce", "2": "conv3x3", "3": "increase"}[match[4]]
    return f"layer{int(match[1]) + 1}.block{int(match[2]) + 1}.{part}.{match[3]}.{match[5]}"


@pytest.mark.parametrize("names", ["torchvision", "kazuto", "segmentor"])
def test_initial_weights_of_three_sources_reach_the_backbone(tmp_path, names):
    segmentor = Config({"model": read_segmentor(SEGMENTORS / "deeplabv2-r101-coco.yaml").model})
    segmentor.model.backbone.update({"depth": 50, "base_channels": 8, "stem_channels": 8})
    segmentor.model.decode_head.in_channels = 256
    source, target = (build_model(segmentor, ENTRY, 3, "r50") for _ in range(2))
    for value in source.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    state = {k.removeprefix("backbone."): v for k, v in source.backbone.state_dict().items()}
    if names == "kazuto":
        state = {kazuto_name(k): v for k, v in state.items() if "num_batches" not in k}
        assert "layer3.block2.increase.bn.running_var" in state
    elif names == "torchvision":
        state["fc.weight"] = torch.zeros(1000, 256)
    else:
        state = {"state_dict": source.state_dict(), "meta": {"epoch": 3}}
    torch.save(state, tmp_path / "init.pth")
    load_initial(target, tmp_path / "init.pth")
    same = [
        torch.equal(a, b)
        for (name, a), b in zip(
            target.state_dict().items(), source.state_dict().values(), strict=True
        )
        if "num_batches" not in name and (names == "segmentor" or name.startswith("backbone."))
    ]
    assert same
    assert all(same)


def test_initial_weights_that_do_not_fit_are_one_line(tmp_path):
    segmentor = read_segmentor(SEGMENTORS / "deeplabv2-r18.yaml")
    model = build_model(segmentor, ENTRY, 3, "r18")
    state = model.backbone.state_dict()
    cases = {
        "has no backbone.layer4.1.bn2.running_var": {
            k: v for k, v in state.items() if k != "layer4.1.bn2.running_var"
        },
        r"backbone.conv1.weight is \(1,\), \(64, 3, 7, 7\) is needed": {
            **state,
            "conv1.weight": torch.zeros(1),
        },
        "holds no state dict": {"epoch": 1},
    }
    for message, content in cases.items():
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(InputError, match=message):
            load_initial(model, tmp_path / "bad.pth")
    torch.save({"state_dict": {"foo.bar": torch.zeros(3)}}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="none of its tensors has a place there"):
        load_initial(torch.nn.Linear(2, 2), tmp_path / "bad.pth")  # as a frozen backbone has none
    (tmp_path / "bad.pth").write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a checkpoint that can be read"):
        load_initial(model, tmp_path / "bad.pth")


def test_where_initial_weights_come_from(tmp_path, server, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert fetch_initial(None) is None
    assert fetch_initial("random") is None

    (tmp_path / "served" / "w.pth").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    for _ in range(2):
        path = fetch_initial(f"{server.url}/w.pth#sha256={digest[:8]}")
        assert path.read_bytes() == b"weights"
    assert len(server.requests) == 1  # the second time from the cache
    with pytest.raises(InputError, match=f"its sha256 is {digest}"):
        fetch_initial(f"{server.url}/w.pth#sha256=00000000")
    path.unlink()
    with pytest.raises(InputError, match=f"its sha256 is {digest}, not 00000000; correct the add"):
        fetch_initial(f"{server.url}/w.pth#sha256=00000000")
    monkeypatch.setattr(weights, "MOST", 3)
    with pytest.raises(InputError, match="goes on after 0 GB, which no weights have"):
        fetch_initial(f"{server.url}/w.pth#sha256={digest[:8]}")
    assert not list(path.parent.iterdir())

    for init, message in {
        "no/such.pth": "there is no file no/such.pth",
        "https://example.org/x.pth": "an address needs its checksum",
        "torchvision://ResNet7_Weights.X": "torchvision has no such weights",
        "required": "its run must name",
        "http://127.0.0.1:1/x.pth#sha256=" + "0" * 8: "cannot be downloaded",
    }.items():
        with pytest.raises(InputError, match=message):
            fetch_initial(init)


def test_bad_segmentor_files_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"there is no file no\.yaml"):
        read_segmentor("no.yaml")
    content = yaml.safe_load((SEGMENTORS / "deeplabv2-r18.yaml").read_text())
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({**content, "modle": 1}))
    with pytest.raises(InputError, match="unknown key `modle`; did you mean `model`"):
        read_segmentor(path)
    del content["optim_wrapper"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="the key optim_wrapper is missing"):
        read_segmentor(path)
    (tmp_path / "imported_by_type.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("ResNett", "imported_by_type"):
        content["model"]["backbone"]["type"] = name
        with pytest.raises(InputError, match=f"the model cannot be built .*{name} is not in the"):
            build_model(Config(content), ENTRY, 3, "s.yaml")
    assert "imported_by_type" not in sys.modules


def test_mmengine_finds_no_operators_on_a_python_without_find_loader(monkeypatch):
    monkeypatch.delattr(pkgutil, "find_loader", raising=False)
    there = provide_operators()
    assert mmcv_full_available() == there


def test_mmseg_works_beside_mmcv_lite_and_says_what_is_missing():
    import mmcv.ops  # fails without the stand-in

    assert "PixelLoss" in MODELS
    x = torch.zeros(2, 2)
    if provide_operators():
        pytest.skip("the real operators are installed")
    with pytest.raises(
        RuntimeError, match="operator `sigmoid_focal_loss_forward` is not installed"
    ):
        mmcv.ops.sigmoid_focal_loss(x, x[0].long(), 2.0, 0.25)
