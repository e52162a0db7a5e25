"""Which code an entry of `models` needs beside what all do, said without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.core.resources import find


def code_of(model: Mapping[str, Any]) -> tuple[str, ...]:
    """What loads and computes a tower beside what does so for open_clip's own networks.

    Args:
        model: an entry of `models`, whole.

    Returns:
        Functions as `package.module:function`, whose code its features depend on.

    Raises:
        InputError: the JSON of its architecture cannot be read.
    """
    if model["library"] == "timm":
        return ("clip_wsss.models.timm_tower:load_timm",)
    if model["library"] == "jina":
        return ("clip_wsss.models.jina:load_jina",)
    return ("clip_wsss.models.timm_clip:TimmClip",) if _is_timm_clip(model) else ()


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
    return config
