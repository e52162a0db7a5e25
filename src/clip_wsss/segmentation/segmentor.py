"""Segmentors as data: a YAML file with an MMEngine config, made into a model for a data set."""

import hashlib
import json
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from mmengine import Config
from mmengine.device import utils as device_utils
from mmengine.logging import MMLogger
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS

from clip_wsss.core.devices import take_free_gpu
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import sha256
from clip_wsss.core.plain import read_segmentor_file
from clip_wsss.core.registry import lookup
from clip_wsss.core.resources import find
from clip_wsss.segmentation.losses import loss_config


def read_segmentor(path: str | Path) -> Config:
    """Read the YAML of a segmentor. Raises InputError as `read_segmentor_file`."""
    return Config(read_segmentor_file(path))


def build_model(
    segmentor: Config, entry: dict, classes: int, path: str, texts: str | Path | None = None
) -> EncoderDecoder:
    """Build a segmentor with the loss of a run in each of its heads.

    Args:
        segmentor: from `read_segmentor`.
        entry: of the config's group `segmentation`.
        classes: foreground classes and background.
        path: the segmentor's file, for messages.
        texts: npz of text features, where labels are made online and the model is to be trained.

    Raises:
        InputError: a loss that is unknown or has a wrong mu, a model that cannot be built.
    """
    model = segmentor.model.to_dict()
    if entry.get("labels") == "online":
        model |= _online(model, entry["online"], path) | {"texts": texts}
    heads = model.get("auxiliary_head") or []
    for head in [model["decode_head"], *(heads if isinstance(heads, list) else [heads])]:
        loss_weight = (head.pop("loss_decode", None) or {}).get("loss_weight", 1.0)
        head["loss_decode"] = loss_config(entry["loss"], entry["mu"], loss_weight)
        head["sampler"] = {"type": "ConfidenceSampler"}
        head["num_classes"] = classes
        head["ignore_index"] = 255
    if not MMLogger.check_instance_created("clip_wsss"):
        MMLogger.get_instance("clip_wsss", log_level="ERROR")  # else each tensor's origin is told
    try:
        with warnings.catch_warnings():  # MMSegmentation's heads use its own deprecated builders
            warnings.filterwarnings("ignore", message="``build_")
            return MODELS.build({"train_cfg": {}, "test_cfg": {"mode": "whole"}, **model})
    except InputError:
        raise
    except Exception as error:  # MMSegmentation asserts, and raises what it likes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: the model cannot be built ({reason})") from None


def online_module(name: str) -> ModuleType:
    """A module of labels that are made online.

    It is loaded by its name: its code counts for the trainings that use it, and changes no other's
    fingerprint (`clip_wsss.runs.plan.CODE`).
    """
    return import_module(f"clip_wsss.segmentation.weclip.{name}")


def _online(model: dict, row: dict, path: str) -> dict:
    """What the cells of a row say of a model that makes its labels itself.

    A labeller takes those settings of the row that it has; its own come from the segmentor's file.
    """
    own = {"type": "weclip", **(model.get("labels") or {})}
    for module in ("data", "segmentor"):
        online_module(module)  # registers what the file names
    makers = online_module("labels").LABEL_MAKERS
    kind, _ = lookup(makers, own["type"], f"{path}: model.labels.type")
    taken = {key: value for key, value in row["labels"].items() if key in kind.model_fields}
    said = {"backbone": row["clip"], "settings": row["settings"], "labels": {**taken, **own}}
    twice = [key for key in ("backbone", "settings") if key in model]
    twice += [f"labels.{key}" for key in taken if key in own]
    if twice:
        raise InputError(f"{path}: model.{twice[0]}: follows from the row; leave it out")
    return said


def digest(segmentor: Config) -> str:
    """SHA-256 of a segmentor's settings and of the local weight file that its backbone names."""
    text = json.dumps(segmentor.to_dict(), sort_keys=True)
    weights = (segmentor.model.get("backbone") or {}).get("weights")
    if weights is not None and find(weights).is_file():
        text += sha256(find(weights))
    return hashlib.sha256(text.encode()).hexdigest()


def use_device(device: str) -> str:
    """Make MMEngine use a device, `auto` being CUDA where there is one.

    Returns:
        cpu or cuda.

    Raises:
        InputError: cuda is asked for and there is none.
    """
    cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    if device == "cuda" and not cuda:
        raise InputError("compute.device: cuda is asked for, but there is no GPU; set cpu or auto")
    if device == "cuda":
        take_free_gpu()
    device_utils.DEVICE = device  # MMEngine has no setting for it, only what it found on import
    return device
