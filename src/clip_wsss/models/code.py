"""What a plan asks of the library of an entry of `models`, said without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.core.resources import find, is_file, missing

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.IGNORECASE)


def has_texts(model: Mapping[str, Any]) -> bool:
    """Whether an entry of `models`, whole, is a CLIP, whose texts a cam can score."""
    return _LIBRARIES[model["library"]].texts


def code_of(model: Mapping[str, Any]) -> tuple[str, ...]:
    """What loads and computes a tower beside what does so for open_clip's own networks.

    Args:
        model: an entry of `models`, whole.

    Returns:
        Functions as `package.module:function`, whose code its features depend on.

    Raises:
        InputError: the JSON of its architecture cannot be read.
    """
    return _LIBRARIES[model["library"]].code(model)


def check_files(model: Mapping[str, Any], where: str) -> None:
    """Refuse an entry of `models` whose files are missing; the job `check` looks into them.

    Raises:
        InputError: one line that begins with `where`, the entry's key.
    """
    weights, shape = model["weights"], model["architecture"] or ""
    of_file = find(weights).suffix in (".pt", ".pth", ".bin", ".safetensors")
    if (of_file or _LIBRARIES[model["library"]].is_file(model)) and not is_file(weights):
        raise InputError(f"{where}.weights: {missing(weights)}")
    if problem := _LIBRARIES[model["library"]].problem(shape):
        raise InputError(f"{where}.architecture: {problem}")
    if shape.endswith(".json") and not is_file(shape):
        raise InputError(f"{where}.architecture: {missing(shape)}")


@dataclass(frozen=True)
class _Library:
    """What differs from library to library.

    Attributes:
        texts: whether its towers have them.
        code: see `code_of`.
        is_file: whether an entry's weights must be a file, whatever they are called.
        problem: what is wrong with an architecture's name, or empty.
    """

    texts: bool
    code: Callable[[Mapping[str, Any]], tuple[str, ...]]
    is_file: Callable[[Mapping[str, Any]], bool]
    problem: Callable[[str], str]


def _timm_problem(shape: str) -> str:
    return "" if shape else "is missing; give a name of timm"


def open_clip_problem(shape: str) -> str:
    """What is wrong with an architecture's name for open_clip, or nothing."""
    if shape.partition(":")[0] not in ("hf-hub", "local-dir"):
        return ""
    return (
        f"{shape} must be a name of open_clip or a model config; download the model, and name its "
        "open_clip_config.json here and its weights in weights"
    )


def _is_timm_clip(model: Mapping[str, Any]) -> bool:
    """Whether a CLIP's vision tower is timm's, by its config; open_clip's own lie beside it."""
    if model["architecture"] is None:
        return False
    spec, path = find_spec("open_clip"), find(model["architecture"])
    assert spec is not None  # a dependency
    assert spec.origin is not None
    own = Path(spec.origin).parent / "model_configs" / f"{model['architecture']}.json"
    path = path if path.is_file() else own
    config = architecture_json(str(path)) if path.is_file() else {}
    config = config.get("model_cfg", config) if isinstance(config, dict) else {}
    return bool(config.get("vision_cfg", {}).get("timm_model_name"))


def architecture_json(path: str) -> Any:
    """The JSON of an architecture. Raises InputError if it cannot be read, or is not one."""
    try:
        config = json.loads(find(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"models.architecture: {path}: must be JSON ({error})") from None
    inner = config.get("model_cfg", config) if isinstance(config, dict) else {}
    for key in ("vision_cfg", "text_cfg", "vision_config"):
        if not isinstance(inner, dict) or not isinstance(inner.get(key, {}), dict):
            raise InputError(f"models.architecture: {path}: {key} must be a mapping; correct it")
        for name, value in {"embed_dim": inner.get("embed_dim"), **inner.get(key, {})}.items():
            if isinstance(value, str) and _NUMBER.fullmatch(value):
                raise InputError(
                    f"models.architecture: {path}: {name} must be a number; got the text "
                    f'"{value}"; take its quotes away'
                )
    return config


_LIBRARIES = {
    "open_clip": _Library(
        texts=True,
        code=lambda model: ("clip_wsss.models.timm_clip:TimmClip",) if _is_timm_clip(model) else (),
        is_file=lambda model: model["architecture"] is None,
        problem=open_clip_problem,
    ),
    "timm": _Library(
        texts=False,
        code=lambda model: ("clip_wsss.models.timm_tower:load_timm",),
        is_file=lambda model: model["weights"] != "pretrained",
        problem=_timm_problem,
    ),
    "jina": _Library(
        texts=True,
        code=lambda model: ("clip_wsss.models.jina:load_jina",),
        is_file=lambda model: model["architecture"] is None,
        problem=lambda shape: "",
    ),
}
