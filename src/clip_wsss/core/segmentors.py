"""Segmentors as plain data: a YAML file, or a config of MMEngine in Python that is not executed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.core.literals import Unreadable, read_literals
from clip_wsss.core.plain import check_values, read_yaml
from clip_wsss.core.resources import find, is_file, missing
from clip_wsss.core.spelling import unknown

KEYS = {  # what a segmentor's file holds, and whether it must
    "model": True,
    "init": False,
    "train_pipeline": True,
    "train_dataloader": True,
    "optim_wrapper": True,
    "param_scheduler": True,
    "checkpoint_interval": True,
}
LOADER = ("batch_size", "num_workers")
MAKES_LABELS = "WeCLIP"  # the type of a model for labels: online
INTERVAL = 500  # updates between checkpoints where a Python file does not say
# MMEngine imports what a dotted name says, and then calls it.
_REGISTERED = re.compile(r"[A-Za-z_][\w-]*")
_TIMM = re.compile(r"[\w.-]+")  # without `hf-hub:` and `local-dir:`
_DROPS = re.compile(r"drop(out|_prob)|\w*drop\w*_(ratio|rate)")  # shares of what a part drops
_SCOPES = ("mmseg", "mmengine")
_OF_FILES = ("_base_", "_delete_", "custom_imports")  # keys of MMEngine's files, not of parts
# Keys by which a part of MMSegmentation or timm reads a file, imports a module or downloads:
# weights (a pickle runs what it names), storage whose client is imported, other libraries' parts.
_READS = (
    *(
        "checkpoint_path",
        "class_embed_path",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "load_from",
    ),
    *("backend_args", "file_client_args", "diffusion_cfg", "rfstructure_file"),
)
# What the suite itself does in the place of these steps.
_OWN_STEPS = ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")
_OF_BOTH = ("Normalize", "Rerange", "CLAHE", "AdjustGamma", "RGB2Gray")  # predictions want them too


def read_segmentor_file(path: str | Path) -> dict[str, Any]:
    """Read the file of a segmentor as plain data, with the keys of KEYS.

    Args:
        path: YAML (as in config/segmentors/), or a `.py` of MMSegmentation's zoo, of which what
            the suite does not decide itself is taken (docs/segmentation.md). In both `pretrained`
            and the backbone's `init_cfg` of type Pretrained become `init`.

    Raises:
        InputError: the file is missing or says what would have to be executed, a key is missing or
            unknown (such as MMEngine's `custom_imports`), a value cannot be, or a type has a dot.
    """
    if not is_file(path):
        raise InputError(f"segmentation.segmentor: {missing(path)}")
    python = Path(path).suffix == ".py"
    return checked(read_literals(find(path)) if python else read_yaml(path), path, python)


def checked(content: Any, path: str | Path, python: bool) -> dict[str, Any]:
    """The content of a segmentor's file, checked; see `read_segmentor_file`."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping with the keys {', '.join(KEYS)}")
    if python:
        content = _of_mmengine(content, path)
    for key in content:
        if key not in KEYS:
            raise InputError(f"{path}: {unknown('key', str(key), KEYS)}")
    for key, needed in KEYS.items():
        if needed and key not in content:
            raise InputError(f"{path}: the key {key} is missing")
    check_values(content, str(path))
    _check_names(content, path)
    if not isinstance(content["model"], dict):
        raise InputError(f"{path}: model: must be a mapping; got {content['model']!r}")
    if not isinstance(content.get("init"), str | None):
        raise InputError(f"{path}: init: must be a file, an address or null")
    _check_model(content["model"], path)
    _check_training(content, path)
    return _with_init(content, path)


def _of_mmengine(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """What a training here takes of a whole config of MMEngine; the rest is the suite's own."""
    for key in ("custom_imports", "custom_hooks", "load_from"):
        if content.get(key):
            remedy = "name the file as init" if key == "load_from" else "remove it"
            raise InputError(f"{path}: {key}: is not used here; {remedy}")
    found = {key: value for key, value in content.items() if key in KEYS}
    for value in (*found.values(), content.get("data_preprocessor"), content.get("train_cfg")):
        if isinstance(value, Unreadable):
            raise InputError(value.message)
    found.setdefault("checkpoint_interval", INTERVAL)
    if isinstance(model := found.get("model"), dict) and "data_preprocessor" in content:
        found["model"] = {"data_preprocessor": content["data_preprocessor"], **model}
    if isinstance(steps := found.get("train_pipeline"), list | tuple):
        found["train_pipeline"] = [
            step
            for step in steps
            if not (isinstance(step, dict) and step.get("type") in _OWN_STEPS)
        ]
    if isinstance(loader := found.get("train_dataloader"), dict):
        found["train_dataloader"] = {key: loader[key] for key in LOADER if key in loader}
    schedulers, loop = found.get("param_scheduler"), content.get("train_cfg")
    if isinstance(schedulers, dict):
        found["param_scheduler"] = schedulers = [schedulers]
    if isinstance(schedulers, list | tuple) and isinstance(loop, dict):
        # A schedule that ends with its config's training ends with the run.
        last = ("end", loop.get("max_iters"))
        found["param_scheduler"] = [
            {key: value for key, value in one.items() if (key, value) != last}
            if isinstance(one, dict)
            else one
            for one in schedulers
        ]
    return found


def _check_names(content: dict[str, Any], path: str | Path) -> None:
    """Refuse what would make MMEngine import or read something, however deep it is."""
    for where, value in _mappings(content):
        for key, one in value.items():
            inside = f"{path}: {where}.{key}"
            if key in _OF_FILES:
                raise InputError(f"{inside}: is not used here; remove it")
            if key == "_scope_" and one not in _SCOPES:
                raise InputError(f"{inside}: must be one of {', '.join(_SCOPES)}; got {one!r}")
            if key in _READS and one not in (None, ""):
                raise InputError(
                    f"{inside}: would read files or code that the config does not name; remove it "
                    "(weights are named as init)"
                )
            if key == "class_weight" and isinstance(one, str):
                raise InputError(f"{inside}: must be a list of numbers, not a file; got {one!r}")
            # `resize_type` of a transform and `constructor` of an optimizer are types too.
            names = key == "type" or (
                isinstance(one, str)
                and (key in ("constructor", "norm_layer") or str(key).endswith("_type"))
            )
            if names and not (isinstance(one, str) and _REGISTERED.fullmatch(one)):
                raise InputError(
                    f"{inside}: must be the name of a registered class, without a dot; got {one!r}"
                )
        if value.get("type") == "TIMMBackbone":
            _check_timm(value, f"{path}: {where}")


def _check_timm(backbone: dict[str, Any], inside: str) -> None:
    """Refuse a network of timm that would fetch weights or a config, which no key would hold."""
    if backbone.get("pretrained") is not False:
        raise InputError(
            f"{inside}.pretrained: must be false, since timm would download weights; name a file "
            f"as init, or leave it out; got {backbone.get('pretrained')!r}"
        )
    name = backbone.get("model_name")
    if not isinstance(name, str) or not _TIMM.fullmatch(name):
        raise InputError(f"{inside}.model_name: must be a name of timm; got {name!r}")


def _mappings(content: dict[str, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    """All mappings below the keys of a file, with where they are."""
    waiting: list[tuple[str, Any]] = list(content.items())
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, dict):
            yield where, value
            waiting += [(f"{where}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{where}.{place}", item) for place, item in enumerate(value)]


def _check_model(model: dict[str, Any], path: str | Path) -> None:
    parts: list[tuple[str, Any]] = [("model", model)]
    for key in ("decode_head", "auxiliary_head", "backbone"):
        value: Any = model.get(key)
        # MMSegmentation cannot build an empty list of heads.
        several = isinstance(value, list | tuple) and value and key != "backbone"
        if value is not None or key == "decode_head":
            parts += [(f"model.{key}", one) for one in (value if several else [value])]
    for where, value in parts:
        if not isinstance(value, dict) or not isinstance(value.get("type"), str):
            raise InputError(f"{path}: {where}: must be a mapping with a type; got {value!r}")
        _check_loss(value.get("loss_decode"), f"{path}: {where}.loss_decode")
        if where != "model" and value.get("sampler") is not None:
            raise InputError(
                f"{path}: {where}.sampler: is not used here, where the confidence decides which "
                "pixels count; remove it"
            )
        if where != "model" and value.get("ignore_index", 255) != 255:
            raise InputError(
                f"{path}: {where}.ignore_index: must be 255 or left out; got "
                f"{value['ignore_index']!r}"
            )
    prepare = model.get("data_preprocessor") or {}
    if not isinstance(prepare, dict):
        raise InputError(f"{path}: model.data_preprocessor: must be a mapping; got {prepare!r}")
    _check_padding(prepare.get("test_cfg"), f"{path}: model.data_preprocessor.test_cfg")
    _check_windows(model.get("test_cfg"), f"{path}: model.test_cfg")
    stds = prepare.get("std") or ()
    for std in stds if isinstance(stds, list | tuple) else (stds,):
        if isinstance(std, bool) or not isinstance(std, int | float) or std <= 0:
            raise InputError(f"{path}: model.data_preprocessor.std: must be above 0; got {std!r}")
    if bool(stds) != bool(prepare.get("mean")):
        raise InputError(
            f"{path}: model.data_preprocessor: mean and std are used together; give both or neither"
        )
    if _of_unit_images(prepare.get("mean")) and _of_unit_images(stds):
        raise InputError(
            f"{path}: model.data_preprocessor: mean and std are those of images from 0 to 1, which "
            "here are from 0 to 255; multiply them by 255"
        )
    for where, part in _mappings({"model": model}):
        for key, value in part.items():
            if _DROPS.fullmatch(str(key)) and isinstance(value, int | float) and value >= 1:
                raise InputError(
                    f"{path}: {where}.{key}: must be below 1, which drops all; got {value!r}"
                )
    backbone = model.get("backbone") or {}
    name = backbone.get("model")
    if not isinstance(name, str | None) or (
        name is None and backbone.get("type") == "FrozenCLIPBackbone"
    ):
        raise InputError(
            f"{path}: model.backbone.model: must be the name of an entry of models; got {name!r}"
        )


def _of_unit_images(values: Any) -> bool:
    values = values if isinstance(values, list | tuple) else (values,)
    return all(isinstance(one, int | float) and 0 < one < 1 for one in values)


def _check_loss(losses: Any, where: str) -> None:
    """Refuse what is no loss; of one only its weight counts here."""
    for loss in losses if isinstance(losses, list | tuple) else [losses or {}]:
        if not isinstance(loss, dict):
            raise InputError(f"{where}: must be a mapping, or a list of them; got {loss!r}")
        if not _positive(weight := loss.get("loss_weight", 1)):
            raise InputError(f"{where}.loss_weight: must be a number above 0; got {weight!r}")


def _check_padding(test: Any, where: str) -> None:
    """Refuse a padding of predictions that is none."""
    if not test and test in (None, {}):
        return
    if not isinstance(test, dict) or len(test) != 1 or not test.keys() < {"size", "size_divisor"}:
        raise InputError(f"{where}: must be a mapping with size or size_divisor; got {test!r}")
    ((key, value),) = test.items()
    sides = value if key == "size" and isinstance(value, list | tuple) else [value]
    if len(sides) != (2 if key == "size" else 1) or not all(
        type(side) is int and side > 0 for side in sides
    ):
        kind = "height and width, integers" if key == "size" else "an integer"
        raise InputError(f"{where}.{key}: must be {kind} of at least 1; got {value!r}")


def windows(value: Any) -> list:
    """Height and width of what `test_cfg` says of windows: one number is both."""
    return list(value) if isinstance(value, list | tuple) else [value, value]


def _check_windows(test: Any, where: str) -> None:
    """Refuse a mode of predictions that is none, and windows that leave pixels out."""
    if not test and test in (None, {}):
        return
    if not isinstance(test, dict):
        raise InputError(f"{where}: must be a mapping; got {test!r}")
    if (mode := test.get("mode", "whole")) not in ("whole", "slide"):
        raise InputError(f"{where}.mode: must be one of whole, slide; got {mode!r}")
    if mode == "whole":
        return
    sides = {}
    for key in ("crop_size", "stride"):
        sides[key] = value = windows(test.get(key))
        if len(value) != 2 or not all(type(side) is int and side > 0 for side in value):
            raise InputError(
                f"{where}.{key}: must be height and width, integers of at least 1 (or one for "
                f"both), with mode: slide; got {test.get(key)!r}"
            )
    if any(step > side for step, side in zip(sides["stride"], sides["crop_size"], strict=True)):
        raise InputError(
            f"{where}.stride: must be at most crop_size, or pixels are left out; got "
            f"{test['stride']!r} and {test['crop_size']!r}"
        )


def _positive(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and value > 0


def _check_training(content: dict[str, Any], path: str | Path) -> None:
    """Refuse what no training can use; names are looked up when it starts (torch is needed)."""

    def number(
        where: str, value: Any, least: float, *, whole: bool = True, most: float = math.inf
    ) -> None:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            kind = "an integer" if whole else "a number"
            bounds = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
            raise InputError(f"{path}: {where}: must be {kind} {bounds}; got {value!r}")

    loader, optim = content["train_dataloader"], content["optim_wrapper"]
    for where, value in (("train_dataloader", loader), ("optim_wrapper", optim)):
        if not isinstance(value, dict):
            raise InputError(f"{path}: {where}: must be a mapping; got {value!r}")
    for key in loader:
        if key not in LOADER:
            raise InputError(f"{path}: train_dataloader: {unknown('key', str(key), LOADER)}")
    number("train_dataloader.batch_size", loader.get("batch_size"), 1)
    number("train_dataloader.num_workers", loader.get("num_workers", 0), 0, most=256)
    number("optim_wrapper.accumulative_counts", optim.get("accumulative_counts", 1), 1, most=10**4)
    number("checkpoint_interval", content["checkpoint_interval"], 1)
    if (clip := optim.get("clip_grad")) is not None and not (
        isinstance(clip, dict) and _positive(clip.get("max_norm", clip.get("clip_value")))
    ):
        raise InputError(
            f"{path}: optim_wrapper.clip_grad: must be a mapping with a max_norm (or of type value "
            f"a clip_value) above 0; got {clip!r}"
        )
    if optim.get("type", "OptimWrapper") != "OptimWrapper":
        raise InputError(
            f"{path}: optim_wrapper.type: must be OptimWrapper; got {optim['type']} (precision: "
            "amp of the entry trains in mixed precision)"
        )
    for where in ("train_pipeline", "param_scheduler"):
        steps = content[where]
        if not isinstance(steps, list | tuple):
            raise InputError(f"{path}: {where}: must be a list; got {steps!r}")
        for place, value in enumerate(steps):
            if not isinstance(value, dict) or not isinstance(value.get("type"), str):
                raise InputError(
                    f"{path}: {where}.{place}: must be a mapping with a type; got {value!r}"
                )
    for place, value in enumerate(content["param_scheduler"]):
        where = f"param_scheduler.{place}"
        if value.get("by_epoch", False) is not False:
            raise InputError(f"{path}: {where}.by_epoch: updates are counted; remove it")
        if "step_size" in value:
            number(f"{where}.step_size", value["step_size"], 1, whole=False)
        milestones = value.get("milestones")
        for one in milestones if isinstance(milestones, list | tuple) else ():
            number(f"{where}.milestones", one, 0, whole=False)
    for where, step in _mappings({"train_pipeline": content["train_pipeline"]}):
        if (kind := step.get("type")) in _OWN_STEPS:
            raise InputError(f"{path}: {where}: {kind} is added by itself; remove it")
        if kind in _OF_BOTH:
            raise InputError(
                f"{path}: {where}: {kind} would change the images of the training and not those of "
                "predictions; remove it (model.data_preprocessor normalises both)"
            )
        filled = {key: step[key] for key in ("seg_pad_val", "seg_fill_in") if key in step}
        if isinstance(step.get("pad_val"), dict) and "seg" in step["pad_val"]:
            filled["pad_val.seg"] = step["pad_val"]["seg"]
        for key, value in filled.items():  # beyond a byte it would be read as a confidence
            if value is not None and not (type(value) is int and 0 <= value <= 255):
                raise InputError(
                    f"{path}: {where}.{key}: must be 255 (no label) or a class; got {value!r}"
                )
    optimizer = optim.get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("type"), str):
        raise InputError(
            f"{path}: optim_wrapper.optimizer: must be a mapping with a type; got {optimizer!r}"
        )
    if optimizer.get("lr") == 0:
        raise InputError(f"{path}: optim_wrapper.optimizer.lr: must be above 0; got 0")
    for key in ("lr", "weight_decay", "momentum"):
        if key in optimizer:
            number(f"optim_wrapper.optimizer.{key}", optimizer[key], 0, whole=False)


def _with_init(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The content with `pretrained` of MMSegmentation's configs turned into `init`."""
    model = dict(content["model"])
    found = {"init": content.get("init"), "model.pretrained": model.pop("pretrained", None)}
    if isinstance(backbone := model.get("backbone"), dict):
        model["backbone"] = backbone = dict(backbone)
        if backbone.get("pretrained") is not False:  # which TIMMBackbone must say
            found["model.backbone.pretrained"] = backbone.pop("pretrained", None)
        first = backbone.get("init_cfg")
        if isinstance(first, dict) and first.get("type") == "Pretrained":
            found["model.backbone.init_cfg"] = backbone.pop("init_cfg").get("checkpoint")
    said = {key: value for key, value in found.items() if value is not None}
    for key, value in said.items():
        if not isinstance(value, str):
            raise InputError(f"{path}: {key}: must name a file or an address; got {value!r}")
    if len(set(said.values())) > 1:
        raise InputError(f"{path}: {' and '.join(said)} name different initial weights; keep one")
    for where, value in _mappings({"model": model}):
        # Some backbones load `checkpoint` whatever the type of their `init_cfg`.
        if value.get("type") == "Pretrained" or value.get("checkpoint") or value.get("pretrained"):
            raise InputError(
                f"{path}: {where}: weights of a part cannot be loaded; remove it, and name those "
                "of the whole as init"
            )
    init = next(iter(said.values()), None)
    kept = {"init": init} if init is not None or "init" in content else {}
    return {**content, "model": model, **kept}
