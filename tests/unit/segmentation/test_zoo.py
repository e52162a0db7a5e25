"""Segmentors of MMSegmentation's zoo: read without being executed, built with our loss."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from mmengine import Config

from clip_wsss.core.errors import InputError
from clip_wsss.core.segmentors import read_segmentor_file
from clip_wsss.segmentation.convert import convert
from clip_wsss.segmentation.losses import PixelLoss
from clip_wsss.segmentation.predict import Predictor
from clip_wsss.segmentation.segmentor import build_model, read_segmentor

CONFIGS = Path(find_spec("mmseg").origin).parent / ".mim/configs"
MODELS = sorted((CONFIGS / "_base_/models").glob("*.py"))
ENTRY = {"loss": "confidence-guided", "mu": 0.5}
ZOO = """
_base_ = ['../_base_/models/{}', '../_base_/datasets/pascal_voc12.py',
          '../_base_/default_runtime.py', '../_base_/schedules/schedule_20k.py']
crop_size = (64, 64)
data_preprocessor = dict(size=crop_size)
model = dict(data_preprocessor=data_preprocessor)
"""
REFUSED = {  # why a model of the zoo is no segmentor here
    "danet_r50-d8": "DAHead has a loss of its own",
    "encnet_r50-d8": "EncHead has a loss of its own",
    "fpn_poolformer_s12": "custom_imports: is not used here",
    "pointrend_r50": "PointHead has a loss of its own",
    "san_vit-b16": "text_encoder required either",
    "stdc": "decode_head.sampler: is not used here",
    "upernet_convnext": "custom_imports: is not used here",
    "vpd_sd": "diffusion_cfg: would read files or code that the config does not name",
}
TRAINED = ("bisenetv2", "fast_scnn", "ocrnet_hr18", "bisenetv1_r18-d32", "segformer_mit-b0")


@pytest.fixture
def zoo(tmp_path):
    """A user's config on a model of the zoo."""

    def write(name: str, more: str = "") -> Path:
        path = tmp_path / "mine.py"
        path.write_text(ZOO.format(f"{name}.py") + more)
        return path

    return write


@pytest.fixture
def _zeros(monkeypatch):
    """Weights are not drawn, which is most of the time that the large ones take."""
    for name in ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


def test_the_package_has_its_zoo():
    assert len(MODELS) >= 50
    assert REFUSED.keys() | set(TRAINED) <= {path.stem for path in MODELS}


@pytest.mark.usefixtures("_zeros")
@pytest.mark.parametrize("name", [path.stem for path in MODELS])
def test_every_model_builds_with_our_loss_or_one_line_says_why_not(zoo, name):
    path = zoo(name)
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]) as caught:
            build_model(read_segmentor(path), ENTRY, 3, str(path))
        assert "\n" not in str(caught.value)
        return
    model = build_model(read_segmentor(path), ENTRY, 3, str(path))
    heads = [part for part in model.modules() if hasattr(part, "loss_decode")]
    assert heads
    assert all(isinstance(head.loss_decode, PixelLoss) for head in heads)
    assert all(head.num_classes == 3 for head in heads)
    assert not any(isinstance(part, torch.nn.SyncBatchNorm) for part in model.modules())


@pytest.mark.parametrize("name", TRAINED)
def test_several_heads_train_and_predict(zoo, name):
    """Several auxiliary heads, a cascade, and batch norm that the zoo wants to be synchronised."""
    from test_segmentation_models import sample

    model = build_model(read_segmentor(zoo(name)), ENTRY, 3, name).train()
    samples = [sample(64, 64, 3, n) for n in range(2)]
    loss, parts = model.parse_losses(model.loss(torch.randn(2, 3, 64, 64), samples))
    loss.backward()
    assert torch.isfinite(loss)
    weights = {
        head.loss_decode.loss_weight for head in model.modules() if hasattr(head, "loss_decode")
    }
    assert sum("loss" in key for key in parts) >= len(weights)
    predictor = Predictor.__new__(Predictor)
    predictor.model = model.eval()
    with torch.no_grad():
        assert predictor._logits(torch.randn(1, 3, 64, 64)).shape[:2] == (1, 3)


def test_what_is_taken_of_a_whole_config(zoo):
    """As MMEngine reads it, without what the suite does itself."""
    path = CONFIGS / "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py"
    found, whole = read_segmentor_file(path), Config.fromfile(path).to_dict()
    assert found["init"] == whole["model"].pop("pretrained") == "open-mmlab://resnet50_v1c"
    assert found["model"] == whole["model"]
    assert found["optim_wrapper"] == whole["optim_wrapper"]
    assert found["train_pipeline"] == whole["train_pipeline"][2:-1]
    assert found["train_dataloader"] == {"batch_size": 4, "num_workers": 4}
    (scheduler,) = whole["param_scheduler"]
    assert scheduler.pop("end") == 20000  # where its training ends: the run's end
    assert found["param_scheduler"] == [scheduler]


def test_most_of_the_zoo_is_read_without_being_executed():
    read, reasons = 0, []
    paths = sorted(CONFIGS.glob("[!_]*/*.py"))
    for path in paths:
        try:
            read_segmentor_file(path)
            read += 1
        except InputError as error:
            reasons.append(str(error))
    assert read > 0.9 * len(paths)
    assert not any("\n" in reason for reason in reasons)


def test_a_config_that_must_be_executed_is_converted_by_a_command(zoo, tmp_path, monkeypatch):
    name = "deeplabv3plus_r50-d8"
    path = tmp_path / "mine.py"
    bases = [str(CONFIGS / part) for part in (f"_base_/models/{name}.py",)]
    path.write_text(
        f"_base_ = {bases}\n"
        "rates = [0.1 ** n for n in range(3)]\n"
        "train_pipeline = [dict(type='RandomFlip', prob=rates[0])]\n"
        "train_dataloader = dict(batch_size=2)\n"
        "optim_wrapper = dict(optimizer=dict(type='SGD', lr=rates[2]))\n"
        "param_scheduler = [dict(type='PolyLR')]\n"
    )
    with pytest.raises(InputError, match=r"line 3: .* python -m clip_wsss\.segmentation\.convert"):
        read_segmentor_file(path)
    out = tmp_path / "segmentor.yaml"
    convert(path, out)
    found = read_segmentor_file(out)
    assert found["optim_wrapper"]["optimizer"]["lr"] == pytest.approx(0.01)
    assert found["init"] == "open-mmlab://resnet50_v1c"
    assert yaml.safe_load(out.read_text()) == found
    path.write_text("raise ValueError('no')")
    monkeypatch.setattr(sys, "argv", ["convert", str(path), str(out)])
    monkeypatch.delitem(sys.modules, "clip_wsss.segmentation.convert")  # as if started with -m
    with pytest.raises(SystemExit) as ended:  # its text goes to the terminal, the status is 1
        runpy.run_module("clip_wsss.segmentation.convert", run_name="__main__")
    assert ended.value.code.startswith(f"error: {path}: cannot be executed (no)")
    assert "\n" not in ended.value.code
