"""Segmentors as data: a YAML file with an MMEngine config, made into a model for a data set."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine import Config, ConfigDict
from mmengine.device import utils as device_utils
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from torch import Tensor, nn

from clip_wsss.core.devices import torch_device
from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.memory import out_of_memory
from clip_wsss.core.methods import is_method, method
from clip_wsss.core.segmentors import checked, read_segmentor_file, windows
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.segmentation.losses import loss_config


def read_segmentor(name: str | Path, entry: dict | None = None) -> Config:
    """A segmentor, from its file or from the function that builds it.

    Args:
        name: the file, or `package.module:function`.
        entry: of the config's group `segmentation`, with the function's settings.

    Raises:
        InputError: as `clip_wsss.core.plain.read_segmentor_file`.
    """
    if is_method("segmentor", str(name)):
        built = method("segmentor", str(name))
        found = checked(built.bound((entry or {}).get(built.short))(), name, False)
    else:
        found = read_segmentor_file(name)
    return Config({**found, "train_pipeline": _paired(found["train_pipeline"])})


def _paired(value: Any, key: str = "") -> Any:
    """Settings of transforms in which two numbers, a list in YAML, are the tuple that they want."""
    if isinstance(value, dict):
        return {name: _paired(one, name) for name, one in value.items()}
    if not isinstance(value, list | tuple):
        return value
    numbers = len(value) == 2 and all(type(one) in (int, float) for one in value)
    kept = isinstance(value, tuple) or (numbers and key != "prob")  # whose list has one a flip
    return (tuple if kept else list)(_paired(one, key) for one in value)


def build_model(
    segmentor: Config,
    entry: dict,
    classes: int,
    path: str,
    texts: str | Path | tuple[Tensor, Tensor] | None = None,
    unseen: Sequence[int] = (),
    taught: bool = False,
) -> EncoderDecoder:
    """Build a segmentor with the loss of a run in each of its heads.

    Args:
        segmentor: from `read_segmentor`.
        entry: of the config's group `segmentation`, with the `clip` that its backbone names, if
            it names one (`clip_wsss.runs.graph`).
        classes: foreground classes and background.
        path: the segmentor's file, for messages.
        texts: npz of text features, where labels are made online and the model is to be trained;
            of a text head the features themselves (`clip_wsss.segmentation.text_head`).
        unseen: 0-based classes that a text head does not see in training.
        taught: whether the `teacher` of the entry is wanted too, which predictions do without.

    Raises:
        InputError: a loss that is unknown or has a wrong mu, a model that cannot be built, or one
            with a head that has a loss of its own.
    """
    model = segmentor.model.to_dict()
    if entry.get("labels") == "online":
        model |= _online(model, entry["online"], path) | {"texts": texts}
    if entry.get("clip") is not None:
        model["backbone"]["model"] = entry["clip"]
    if entry.get("text_head") is not None:
        wrap = text_head_module().with_text_head
        model["decode_head"] = wrap(model["decode_head"], entry["text_head"], texts, unseen, path)
    if entry.get("teacher") is not None:
        model = _with_teacher(model, entry, path, taught)
    own = entry.get(method("loss", entry["loss"]).short)
    for head in (*_several(model["decode_head"]), *_several(model.get("auxiliary_head") or [])):
        losses = _several(head.pop("loss_decode", None) or {})
        loss_weight = losses[0].get("loss_weight", 1.0)
        head["loss_decode"] = loss_config(entry["loss"], entry["mu"], loss_weight, own)
        head["sampler"] = {"type": "ConfidenceSampler"}
        head["num_classes"] = classes
        for key in ("out_channels", "threshold"):  # of one channel for two classes: another loss
            head.pop(key, None)
        head["ignore_index"] = IGNORE
    if not MMLogger.check_instance_created("clip_wsss"):
        MMLogger.get_instance("clip_wsss", log_level="ERROR")  # else each tensor's origin is told
    try:
        with warnings.catch_warnings():  # MMSegmentation's heads use its own deprecated builders
            warnings.filterwarnings("ignore", message="``build_")
            test = ConfigDict({"mode": "whole", **(model.get("test_cfg") or {})})
            if test.mode == "slide":
                test |= {key: windows(test[key]) for key in ("crop_size", "stride")}
            built = MODELS.build({"train_cfg": {}, **model, "test_cfg": test})
    except InputError:
        raise
    except Exception as error:  # MMSegmentation asserts, and raises what it likes
        if out_of_memory(error):
            raise
        reason = one_line(error)
        raise InputError(f"{path}: the model cannot be built ({reason})") from None
    _check_heads(built, path)
    return revert_sync_batchnorm(built)  # `train` synchronises where processes share a batch


def _several(value: Any) -> list[dict]:
    """A list of what may be one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_heads(model: nn.Module, path: str) -> None:
    """Refuse heads of MMSegmentation that take labels and losses their own way.

    Their labels would still be packed (`clip_wsss.segmentation.losses.pack`).
    """
    for name, head in model.named_modules():
        if not isinstance(head, BaseDecodeHead):
            continue
        for part in ("loss", "loss_by_feat"):
            owner = next(kind for kind in type(head).__mro__ if part in vars(kind))
            foreign = owner.__module__.startswith("mmseg.")
            if foreign and owner not in (BaseDecodeHead, BaseCascadeDecodeHead):
                raise InputError(
                    f"{path}: model.{name}: {type(head).__name__} has a loss of its own, which "
                    "ignores confidences; use another head"
                )


def online_module(name: str) -> ModuleType:
    """A module of labels that are made online.

    It is loaded by its name: its code counts for the trainings that use it, and changes no other's
    fingerprint (`clip_wsss.runs.plan.CODE`).
    """
    return import_module(f"clip_wsss.segmentation.weclip.{name}")


def text_head_module() -> ModuleType:
    """The module of text heads, loaded by its name as those of `online_module`."""
    return import_module("clip_wsss.segmentation.text_head")


def _with_teacher(model: dict, entry: dict, path: str, taught: bool) -> dict:
    """The config of a segmentor that a frozen CLIP teaches.

    Its module is loaded by its name as those of `online_module`.
    """
    if model["type"] != "EncoderDecoder":
        raise InputError(
            f"{path}: model.type: teacher needs a segmentor of type EncoderDecoder; got "
            f"{model['type']}"
        )
    import_module("clip_wsss.segmentation.teacher.segmentor")
    said = {"teacher": entry["teacher"], "clip": entry["text_head"]["clip"]} if taught else {}
    return {**model, "type": "TeacherSegmentor", **said}


def _online(model: dict, row: dict, path: str) -> dict:
    """What the cells of a row say of a model that makes its labels itself."""
    for module in ("data", "segmentor"):
        online_module(module)  # registers what the file names
    said = {"backbone": row["clip"], "settings": row["settings"], "labels": row["labels"]}
    said |= {"towers": row["towers"]} if "towers" in row else {}
    if twice := [key for key in said if key in model]:
        raise InputError(f"{path}: model.{twice[0]}: follows from the row; leave it out")
    return {**said, "decoder": row.get("decoder")}


def config_digest(segmentor: Config) -> str:
    """SHA-256 of a segmentor's settings."""
    text = json.dumps(segmentor.to_dict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def use_device(device: str) -> str:
    """Make MMEngine use a device, `auto` being CUDA where there is one.

    Returns:
        cpu or cuda.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    device = torch_device(device).type
    device_utils.DEVICE = device  # MMEngine has no setting for it, only what it found on import
    return device
