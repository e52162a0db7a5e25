"""Files of segmentors: plain data, checked before the first job, never executed."""

import copy
from pathlib import Path

import pytest
import yaml

from clip_wsss.core.errors import InputError
from clip_wsss.core.literals import Unreadable, read_literals
from clip_wsss.core.segmentors import read_segmentor_file

ROOT = Path(__file__).parents[3]
SEGMENTOR = ROOT / "config/segmentors/deeplabv3plus-r50.yaml"


@pytest.fixture
def content():
    return yaml.safe_load(SEGMENTOR.read_text())


def put(content: dict, key: str, value) -> dict:
    """The content with one value, by a dotted key; ... takes the key out."""
    own = copy.deepcopy(content)
    *places, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    found = own
    for place in places:
        found = found[place]
    if value is ...:
        del found[last]
    else:
        found[last] = value
    return own


@pytest.mark.parametrize("path", sorted((ROOT / "config/segmentors").rglob("*.yaml")), ids=str)
def test_the_shipped_files_are_read(path):
    assert read_segmentor_file(path) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", None, "model: must be a mapping; got None"),
        ("model", ..., "the key model is missing"),
        ("model.type", ..., "model: must be a mapping with a type"),
        ("model.decode_head", None, "model.decode_head: must be a mapping with a type; got None"),
        ("model.decode_head", [], r"model.decode_head: must be a mapping with a type; got \[\]"),
        ("model.decode_head", [3], "model.decode_head: must be a mapping with a type; got 3"),
        ("model.auxiliary_head", "FCNHead", "model.auxiliary_head: must be a mapping with a type"),
        ("model.backbone.depth", float("nan"), "model.backbone.depth: must be a finite number"),
        (
            "model.backbone",
            {"type": "FrozenCLIPBackbone"},
            "model.backbone.model: must be the name",
        ),
        ("model.backbone.model", ["a"], r"model.backbone.model: must be the name .*; got \['a'\]"),
        (
            "model.decode_head.init_cfg",
            {"type": "Pretrained"},
            "model.decode_head.init_cfg: weights",
        ),
        (
            "model.backbone.init_cfg",
            {"type": "Pretrained_Part", "checkpoint": "a.pth"},
            "model.backbone.init_cfg: weights",
        ),
        (
            "model.backbone.init_cfg",
            [{"type": "Normal", "checkpoint": "a.pth"}],
            "model.backbone.init_cfg.0: weights",
        ),
        (
            "model.backbone.backbone_cfg",
            {"type": "ResNet", "pretrained": "a.pth"},
            "model.backbone.backbone_cfg: weights",
        ),
        ("model.decode_head.class_weight", "a.pkl", "class_weight: must be a list"),
        (
            "model.decode_head.loss_se_decode",
            {"type": "CrossEntropyLoss", "class_weight": "a.pkl"},
            "loss_se_decode.class_weight: must be a list of numbers, not a file; got 'a.pkl'",
        ),
        (
            "model.neck",
            [{"type": "A", "part": {"type": "B", "class_weight": "a.npy"}}],
            "model.neck.0.part.class_weight: must be a list",
        ),
        (
            "train_pipeline.0.backend_args",
            {"backend": "memcached", "sys_path": "/tmp"},
            "train_pipeline.0.backend_args: would read files or code",
        ),
        ("model.backbone.checkpoint_path", "a.pth", "backbone.checkpoint_path: would read files"),
        ("model.backbone.class_embed_path", "a.pth", "class_embed_path: would read files or code"),
        ("model.backbone.norm_layer", "os.system", "backbone.norm_layer: must be the name of a"),
        (
            "model.backbone",
            {"type": "TIMMBackbone", "model_name": "resnet18"},
            "model.backbone.pretrained: must be false, since timm would download weights",
        ),
        (
            "model.neck",
            {"type": "TIMMBackbone", "model_name": "resnet18", "pretrained": True},
            "model.neck.pretrained: must be false",
        ),
        (
            "model.backbone",
            {"type": "TIMMBackbone", "model_name": "hf-hub:a/b", "pretrained": False},
            "model.backbone.model_name: must be a name of timm; got 'hf-hub:a/b'",
        ),
        ("model.pretrained", "other", "init and model.pretrained name different initial weights"),
        ("model.pretrained", 3, "model.pretrained: must name a file or an address; got 3"),
        ("init", 3, "init: must be a file, an address or null"),
        ("train_dataloader.batch_size", 0, "batch_size: must be an integer of at least 1; got 0"),
        ("train_dataloader.batch_size", True, "batch_size: must be an integer of at least 1"),
        ("train_dataloader.batch_size", ..., "batch_size: must be an integer .*; got None"),
        ("train_dataloader.num_workers", -1, "num_workers: must be an integer from 0 to 256"),
        ("train_dataloader.num_workers", 10**6, "num_workers: must be an integer from 0 to 256"),
        ("optim_wrapper.accumulative_counts", 10**12, "accumulative_counts: must be an integer fr"),
        ("train_dataloader.shuffle", True, "train_dataloader: unknown key `shuffle`"),
        ("train_dataloader", [], "train_dataloader: must be a mapping"),
        ("train_pipeline", None, "train_pipeline: must be a list; got None"),
        (
            "train_pipeline.1",
            {"type": "LoadAnnotations"},
            "train_pipeline.1: LoadAnnotations is add",
        ),
        (
            "model.data_preprocessor",
            {"type": "SegDataPreProcessor", "std": [0, 1, 1]},
            "std: must be",
        ),
        (
            "model.data_preprocessor",
            {"type": "SegDataPreProcessor", "std": [1, 1, 1]},
            "model.data_preprocessor: mean and std are used together; give both or neither",
        ),
        (
            "model.data_preprocessor",
            {"type": "SegDataPreProcessor", "mean": [0.485, 0.456], "std": [0.229, 0.224]},
            "model.data_preprocessor: mean and std are those of images from 0 to 1",
        ),
        (
            "model.decode_head.sampler",
            {"type": "OHEMPixelSampler"},
            "model.decode_head.sampler: is not used here",
        ),
        ("model.decode_head.ignore_index", 0, "ignore_index: must be 255 or left out; got 0"),
        ("train_pipeline.1", "RandomCrop", "train_pipeline.1: must be a mapping with a type"),
        ("optim_wrapper.optimizer", None, "optim_wrapper.optimizer: must be a mapping with a type"),
        ("optim_wrapper.optimizer.lr", -1, "lr: must be a number of at least 0; got -1"),
        (
            "optim_wrapper.optimizer.lr",
            float("inf"),
            "optimizer.lr: must be a finite number; got inf",
        ),
        ("optim_wrapper.optimizer.lr", "high", "lr: must be a number of at least 0; got 'high'"),
        ("optim_wrapper.accumulative_counts", 0, "accumulative_counts: must be an integer from 1"),
        (
            "optim_wrapper.clip_grad",
            {"max_nrom": 1},
            "clip_grad: must be a mapping with a max_norm",
        ),
        ("optim_wrapper.clip_grad", {"max_norm": "big"}, "above 0; got {'max_norm': 'big'}"),
        ("optim_wrapper.clip_grad", {"max_norm": -1.0}, "above 0; got {'max_norm': -1.0}"),
        ("optim_wrapper.clip_grad", {"type": "value", "clip_value": 0}, "clip_value. above 0; got"),
        ("optim_wrapper.clip_grad", [1], r"clip_grad: must be a mapping .*; got \[1\]"),
        ("param_scheduler.0.step_size", 0, "param_scheduler.0.step_size: must be a number of at"),
        ("param_scheduler.0.milestones", ["a"], "0.milestones: must be a number .*; got 'a'"),
        (
            "param_scheduler.0.by_epoch",
            True,
            "param_scheduler.0.by_epoch: updates are counted; rem",
        ),
        (
            "model.decode_head.loss_decode",
            "CrossEntropyLoss",
            "model.decode_head.loss_decode: must be a mapping, or a list of them; got 'Cross",
        ),
        ("model.decode_head.loss_decode", ["x"], "or a list of them; got 'x'"),
        ("model.decode_head.loss_decode", {"loss_weight": 0}, "loss_weight: must be a .* got 0"),
        (
            "model.auxiliary_head",
            [{"type": "A"}, {"type": "A", "loss_decode": [{"loss_weight": -1}]}],
            "model.auxiliary_head.loss_decode.loss_weight: must be a number above 0; got -1",
        ),
        ("model.data_preprocessor", "x", "model.data_preprocessor: must be a mapping; got 'x'"),
        (
            "model.data_preprocessor.test_cfg",
            {"sizes": [1, 1]},
            "test_cfg: must be a mapping with size or size_divisor; got {'sizes'",
        ),
        ("model.data_preprocessor.test_cfg", {"size": [1, 1], "size_divisor": 3}, "size or size_"),
        ("model.data_preprocessor.test_cfg", {"size_divisor": 0}, "size_divisor: must be an int"),
        ("model.data_preprocessor.test_cfg", {"size": [8]}, "size: must be height and width"),
        ("model.data_preprocessor.test_cfg", {"size": [8, -1]}, "size: must be height and width"),
        ("model.test_cfg", "slide", "model.test_cfg: must be a mapping; got 'slide'"),
        ("model.test_cfg", {"mode": "wholle"}, "mode: must be one of whole, slide; got 'wholle'"),
        ("model.test_cfg", {"mode": "slide"}, "test_cfg.crop_size: must be height and width"),
        (
            "model.test_cfg",
            {"mode": "slide", "crop_size": [8, 8], "stride": [4, 0]},
            "test_cfg.stride: must be height and width",
        ),
        (
            "model.test_cfg",
            {"mode": "slide", "crop_size": [8, 8], "stride": "4"},
            "test_cfg.stride: must be height and width",
        ),
        (
            "model.test_cfg",
            {"mode": "slide", "crop_size": [8, 8], "stride": [4, 9]},
            "test_cfg.stride: must be at most crop_size",
        ),
        ("optim_wrapper.type", "AmpOptimWrapper", "optim_wrapper.type: must be OptimWrapper"),
        (
            "train_pipeline.0",
            {"type": "Normalize", "mean": [0], "std": [1]},
            "train_pipeline.0: Normalize would change the images of the training and not",
        ),
        (
            "train_pipeline.0",
            {"type": "RandomChoice", "transforms": [[{"type": "Normalize"}]]},
            "train_pipeline.0.transforms.0.0: Normalize would change the images of the training",
        ),
        (
            "train_pipeline.0",
            {"type": "RandomApply", "transforms": [{"type": "LoadAnnotations"}]},
            "train_pipeline.0.transforms.0: LoadAnnotations is added by itself; remove it",
        ),
        ("model.decode_head.dropout_ratio", 1.0, "dropout_ratio: must be below 1, which"),
        ("model.backbone.drop_path_rate", 2, "drop_path_rate: must be below 1, which drops all"),
        ("param_scheduler", {"type": "PolyLR"}, "param_scheduler: must be a list"),
        ("param_scheduler.0", None, "param_scheduler.0: must be a mapping with a type"),
        ("optim_wrapper.optimizer.lr", 0, "optimizer.lr: must be above 0; got 0"),
        ("checkpoint_interval", 0, "checkpoint_interval: must be an integer of at least 1"),
        ("checkpoint_interval", 1.5, "checkpoint_interval: must be an integer of at least 1"),
        ("custom_imports", {"imports": ["os"]}, "unknown key `custom_imports`"),
        ("_base_", "./x.py", "unknown key `_base_`"),
        (
            "model.type",
            "subprocess.Popen",
            "model.type: must be the name of a registered class, without a dot; got 'subprocess.P",
        ),
        ("model.backbone", {"type": "os.system", "x": 1}, "model.backbone.type: must be the name"),
        ("model.backbone.norm_cfg.type", "os.system", r"model.backbone.norm_cfg.type: must be"),
        ("model.decode_head.act_cfg", {"type": 3}, "model.decode_head.act_cfg.type: must be the"),
        ("model.auxiliary_head", [{"type": "a.b"}], r"model.auxiliary_head.0.type: must be the"),
        ("train_pipeline.0.type", "mmdet.Resize", "train_pipeline.0.type: must be the name"),
        ("train_pipeline.0.transforms", [{"type": "a.b"}], "train_pipeline.0.transforms.0.type: m"),
        ("train_pipeline.0.resize_type", "os.system", "train_pipeline.0.resize_type: must be"),
        ("optim_wrapper.constructor", "os.system", "optim_wrapper.constructor: must be the name"),
        ("optim_wrapper.optimizer.type", "torch.optim.SGD", "optimizer.type: must be the name"),
        ("param_scheduler.0.type", "os.system", "param_scheduler.0.type: must be the name"),
        ("model._base_", "x.py", "model._base_: is not used here; remove it"),
        ("model.backbone._delete_", True, "model.backbone._delete_: is not used here"),
        ("model.custom_imports", {"imports": ["os"]}, "model.custom_imports: is not used here"),
        ("model._scope_", "mmdet", "model._scope_: must be one of mmseg, mmengine; got 'mmdet'"),
    ],
)
def test_what_no_training_can_use_is_one_line_before_the_first_job(
    tmp_path, content, key, value, message
):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(put(content, key, value)))
    with pytest.raises(InputError, match=message) as caught:
        read_segmentor_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim_wrapper.clip_grad", None),
        ("optim_wrapper.clip_grad", {"max_norm": 0.01, "norm_type": 2}),
        ("optim_wrapper.clip_grad", {"type": "value", "clip_value": 1}),
        ("model.decode_head.loss_decode", None),
        ("model.decode_head.loss_decode", [{"loss_weight": 0.4}, {}]),
        ("param_scheduler.0.by_epoch", False),
        ("model.data_preprocessor.test_cfg", {"size_divisor": 32}),
        ("model.data_preprocessor.test_cfg", {"size": [8, 9]}),
        ("model.data_preprocessor.test_cfg", {}),
        ("model.test_cfg", {}),
        ("model.test_cfg", {"mode": "whole"}),
        ("model.test_cfg", {"mode": "slide", "crop_size": 8, "stride": [8, 3]}),
        ("model.test_cfg", {"mode": "slide", "crop_size": [8, 9], "stride": [8, 3]}),
    ],
)
def test_what_trainings_can_use_is_kept(tmp_path, content, key, value):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(wanted := put(content, key, value)))
    assert read_segmentor_file(path) == wanted


@pytest.mark.parametrize("key", ["pretrained", "backbone.pretrained", "backbone.init_cfg"])
def test_pretrained_becomes_init(tmp_path, content, key):
    weights = "open-mmlab://resnet50_v1c"
    value = {"type": "Pretrained", "checkpoint": weights} if key.endswith("init_cfg") else weights
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(put(content, f"model.{key}", value) | {"init": None}))
    assert read_segmentor_file(path) == content | {"init": weights}


def test_nothing_of_a_file_is_executed(tmp_path, content):
    """Neither tags of YAML nor statements and calls of Python; aliases do not fill the memory."""
    ran = tmp_path / "ran"
    call = f"open({str(ran)!r}, 'w')"
    evil = tmp_path / "evil.py"
    evil.write_text(f"{call}\n")
    files = {
        "tag.yaml": f"model: !!python/object/apply:os.system ['touch {ran}']\n",
        "base.yaml": f"_base_: {evil}\n{yaml.safe_dump(content)}",
        "laughs.yaml": "a: &a0 [1, 1]\n"
        + "".join(f"b{n}: &a{n + 1} [*a{n}, *a{n}, *a{n}, *a{n}]\n" for n in range(20)),
        "call.py": f"model = {call}\n",
        "nested.py": f"model = dict(type=[{call}][0])\n",
        "base.py": f"_base_ = [{str(evil)!r}]\n",
        "computed_base.py": f"_base_ = {call}\n",
        "import.py": "import os\n",
        "class.py": "class A:\n    pass\n",
        "decorated.py": f"@{call}\ndef f(): pass\n",
        "lambda.py": f"model = (lambda: {call})()\n",
        "format.py": f"model = f'{{{call}}}'\n",
        "comprehension.py": f"model = [{call} for _ in range(1)]\n",
        "attribute.py": "model = 'x'.join\n",
        "subscript.py": f"x = 1\nx[{call}] = 1\n",
        "loop.py": f"while True:\n    {call}\n",
        "unpacked.py": f"a, b = {call}\n",
        "star.py": f"model = dict(**{call})\n",
        "power.py": "model = 10 ** 10 ** 10\n",
        "long.py": "model = [0] * 10 ** 12\n",
        "doubled.py": "x = 'ha'\n" + "x = x * 100\n" * 20 + "model = x\n",
        "squared.py": "x = 9999999999\n" + "x = x * x\n" * 60 + "model = x\n",
        "deep.py": "model = " + "-" * 5000 + "1\n",
        "sum.py": "model = " + "1 + " * 5000 + "1\n",
        "own_base.py": "_base_ = 'own_base.py'\n",
        "bytes.py": "\x00",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read_segmentor_file(path)
        assert "\n" not in str(caught.value), name
        assert not ran.exists(), name


def test_bases_merge_as_in_mmengine(tmp_path):
    (tmp_path / "a.py").write_text(
        "norm = dict(type='BN', eps=-1e-3)\n"
        "model = dict(type='A', norm=norm, head=dict(type='H', width=2 * 3), steps=[1] + [2])\n"
    )
    (tmp_path / "b.py").write_text("'''Doc.'''\nrate = {'lr': 1 / 4, 'sizes': sum([1, 2]) // 2}\n")
    (tmp_path / "c.py").write_text(
        "_base_ = ['./a.py', 'b.py']\n"
        "odd = [n for n in range(3)]\n"
        "new = dict(x=(1, None))\n"
        "model = dict(norm=dict(eps=2), head=dict(_delete_=True, type='I'), new=new)\n"
        "rate = None\n"
    )
    found = read_literals(tmp_path / "c.py")
    assert isinstance(found.pop("odd"), Unreadable)
    assert found == {
        "norm": {"type": "BN", "eps": -1e-3},
        "model": {
            "type": "A",
            "norm": {"type": "BN", "eps": 2},
            "head": {"type": "I"},
            "steps": [1, 2],
            "new": {"x": (1, None)},
        },
        "rate": None,
        "new": {"x": (1, None)},
    }
    for text, message in {
        "_base_ = ['a.py', 'a.py']\n": "_base_: two files have the key",
        "_base_ = 'none.py'\n": r"none\.py: there is no such file",
        "_base_ = 'a.py'\nmodel = dict(steps=dict(a=1))\n": "steps: .*add _delete_=True",
        "model = dict(type=missing)\nx = dict(model)": None,
    }.items():
        (tmp_path / "d.py").write_text(text)
        if message is None:
            assert isinstance(read_literals(tmp_path / "d.py")["model"], Unreadable)
            continue
        with pytest.raises(InputError, match=message):
            read_literals(tmp_path / "d.py")


def test_a_backbone_of_timm_without_weights_is_kept(tmp_path, content):
    backbone = {"type": "TIMMBackbone", "model_name": "resnet18", "pretrained": False}
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(put(content, "model.backbone", backbone)))
    assert read_segmentor_file(path)["model"]["backbone"] == backbone
