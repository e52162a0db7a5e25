"""Weight files: what is read from disk before a model exists.

Four kinds of file are told apart, since they differ in what they promise:

    safetensors   goes by the config beside it; may hold a compact vocabulary
    openai        a plain state dict or a JIT archive: OpenAI's models, which are QuickGELU
    checkpoint    an open_clip training checkpoint ({"state_dict": ...}), goes by its config
    binary        a `.bin` of the Hugging Face hub, goes by its config
"""

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clip_wsss.core.errors import InputError
from clip_wsss.core.memory import fitting, out_of_memory

ROWS = "token_embedding.rows"  # in a compact file: the vocabulary ids of the stored rows

NOTES = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # no weights: JIT's own


MOST_SCALE = 10  # logarithm of a logit scale: 22,026; CLIP trains with at most 100
SMALLER_TOWER = "close other programs, or name a smaller model"
# Of whole checkpoints: of torch.compile, of several GPUs, of Lightning.
PREFIXES = ("_orig_mod.", "module.", "model.", "clip.")
_Load = TypeVar("_Load", bound=Callable[..., Any])


def in_memory(load: _Load) -> _Load:
    """Say in one line that an entry of `models`, the first argument, does not fit into memory."""

    @wraps(load)
    def loaded(model: dict, *arguments: Any, **options: Any) -> Any:
        with fitting(f"models: weights {model['weights']}: the model", SMALLER_TOWER):
            return load(model, *arguments, **options)

    return loaded  # type: ignore[return-value]  # of the same parameters


@dataclass
class Weights:
    """A state dict in open_clip's names and where it is from."""

    state: dict[str, torch.Tensor]
    kind: str  # safetensors, openai, checkpoint, binary
    rows: torch.Tensor | None  # (n,) int64 sorted vocabulary ids of a compact file
    source: str


def read_weights(path: Path) -> Weights:
    """Read a local weight file; nothing in it is executed or unpickled freely.

    Args:
        path: safetensors, an OpenAI `.pt` (plain state dict or JIT archive), or an open_clip
            checkpoint.

    Raises:
        InputError: the file is missing, damaged, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weight file")
    state: Any  # a file of torch may hold anything
    try:
        if path.suffix == ".safetensors":
            state, kind = load_file(path), "safetensors"
        elif _is_jit_archive(path):
            state, kind = _read_jit_archive(path), "openai"
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            kind = "binary" if path.suffix == ".bin" else "openai"
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        if out_of_memory(error):
            raise
        ended = "the file ends early; get it again"  # an EOFError has no words
        reason = (str(error).strip().splitlines() or [ended])[0]
        with path.open("rb") as file:
            pointer = file.read(30).startswith(b"version https://git-lfs")
        if pointer:
            reason = "a pointer of Git LFS; get the file itself with `git lfs pull`"
        elif (other := _other_kind(path)) is not None:
            reason = other
        elif isinstance(error, pickle.UnpicklingError):  # torch would advise to run what is in it
            reason = "not a file of tensors alone; save a state dict or safetensors"
        raise InputError(f"{path}: the weights cannot be read ({reason})") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state, kind = state["state_dict"], "checkpoint"
    if not isinstance(state, dict) or not state:
        raise InputError(f"{path}: holds no state dict of a CLIP model")
    state = {str(name): value for name, value in state.items()}
    if inner := [name for name, value in state.items() if isinstance(value, dict)]:
        raise InputError(
            f"{path}: holds mappings ({', '.join(inner[:3])}) and no state dict of a CLIP model; "
            "save the state dict alone, or under the key state_dict"
        )
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    for name in NOTES:
        state.pop(name, None)
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state dict of a CLIP model")
    rows = next((state.pop(name) for name in list(state) if name.endswith(ROWS)), None)
    return Weights(state, kind, rows, str(path))


def read_architecture(path: Path) -> dict:
    """Read an open_clip model config; `open_clip_config.json` of a hub folder works too.

    Returns:
        The config with keys embed_dim, vision_cfg, text_cfg, ..., and under `preprocess_cfg`
        mean, std and so on where the file states them.

    Raises:
        InputError: the file is missing or no model config.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such model config") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a JSON model config ({error})") from None
    if isinstance(config, dict) and isinstance(config.get("model_cfg"), dict):
        config = {**config["model_cfg"], "preprocess_cfg": config.get("preprocess_cfg", {})}
    wanted = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or not all(key in config for key in wanted):
        raise InputError(f"{path}: an open_clip model config has the keys {', '.join(wanted)}")
    for key in wanted[1:]:
        if not isinstance(config[key], dict):
            raise InputError(f"{path}: {key} must be a mapping; correct it")
    return config


def infer_architecture(weights: Weights) -> dict:
    """The config of OpenAI-format weights, from their shapes (head width 64, QuickGELU).

    Raises:
        InputError: the file states no architecture in its shapes: it is not in OpenAI's format,
            or its vision tower is a ResNet.
    """
    state = weights.state
    if weights.kind != "openai":
        raise InputError(f"{weights.source}: these weights need `architecture`: a name or a JSON")
    if any(name.startswith("visual.layer1.") for name in state):
        raise InputError(f"{weights.source}: a ResNet tower has no patch tokens; use a ViT")
    try:
        patch = state["visual.conv1.weight"]  # (D, 3, p, p)
        positions = state["visual.positional_embedding"].shape[0] - 1
        width = state["ln_final.weight"].shape[0]
        return {
            "embed_dim": state["text_projection"].shape[1],
            "quick_gelu": True,
            "vision_cfg": {
                "image_size": patch.shape[-1] * round(positions**0.5),
                "layers": _count_blocks(state, "visual.transformer.resblocks."),
                "width": patch.shape[0],
                "patch_size": patch.shape[-1],
            },
            "text_cfg": {
                "context_length": state["positional_embedding"].shape[0],
                "vocab_size": state["token_embedding.weight"].shape[0],
                "width": width,
                "heads": max(1, width // 64),
                "layers": _count_blocks(state, "transformer.resblocks."),
            },
        }
    except (KeyError, IndexError) as error:
        raise InputError(
            f"{weights.source}: no CLIP in OpenAI's format ({error} missing)"
        ) from None


def no_floats(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str | None:
    """What is wrong with tensors whose numbers are of another kind than a model's own.

    A cast would take quantised weights for the weights, and the real part of complex ones.
    """
    for name, value in own.items():
        if name in state and state[name].is_floating_point() != value.is_floating_point():
            kinds = [str(one.dtype).removeprefix("torch.") for one in (state[name], value)]
            return f"{name} is {kinds[0]} where {kinds[1]} is wanted; save it as floating point"
    return None


def check_scale(stored: torch.Tensor, source: str) -> None:
    """Refuse a logit scale that is not stored as a logarithm: a softmax of it is 0 or 1."""
    if float(stored) > MOST_SCALE:
        raise InputError(
            f"{source}: logit_scale must be a logarithm, at most {MOST_SCALE} (CLIP's is 4.6); got "
            f"{float(stored):g}; store its logarithm"
        )


def load_into(model: torch.nn.Module, weights: Weights, architecture: str) -> None:
    """Copy a state dict into a model, every tensor of it and nothing else.

    Raises:
        InputError: a tensor is missing, left over, of another shape, or holds NaN, infinity or
            zeros alone, of which every map would be zero; one line names the first and counts
            the rest.
    """
    state = dict(weights.state)
    wanted = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # a scalar in some files, (1,) in others
        if name in state and name in wanted and state[name].numel() == 1:
            state[name] = state[name].reshape(wanted[name].shape)
    problems = [
        f"{name} is {_shape(state[name])} where {_shape(wanted[name])} is wanted"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if any(name.startswith(("text_model.encoder.", "vision_model.encoder.")) for name in state):
        raise InputError(
            f"{weights.source}: in the names of Hugging Face's transformers; get the weights in "
            "open_clip's, such as the repository's open_clip_model.safetensors"
        )
    problems += [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} has no place" for name in state if name not in wanted]
    if not problems and (other := no_floats(state, wanted)) is not None:
        raise InputError(f"{weights.source}: {other}")
    # As the model holds them: float64 may be too large for it.
    kept = {name: one.to(wanted[name].dtype) for name, one in state.items() if name in wanted}
    broken = [name for name, value in kept.items() if not value.isfinite().all()]
    empty = [name for name, value in kept.items() if value.ndim > 1 and not value.any()]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(
            f"{weights.source}: does not fit the architecture {architecture}: {problems[0]}{more}"
        )
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise InputError(
            f"{weights.source}: {broken[0]} holds NaN or infinity{more}; get the file again"
        )
    if empty:
        more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise InputError(f"{weights.source}: {empty[0]} is all zero{more}; get the file again")
    if "logit_scale" in kept:
        check_scale(kept["logit_scale"], weights.source)
    model.load_state_dict(state)


def _other_kind(path: Path) -> str | None:
    """What a file is that is called otherwise."""
    if path.suffix == ".json":
        return "JSON, such as an index of weights in parts; name a file of all weights"
    with path.open("rb") as file:
        first = file.read(9)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return "arrays of NumPy; save a state dict or safetensors"
        torchs = any(name.endswith("/data.pkl") or name == "data.pkl" for name in names)
        if torchs and path.suffix == ".safetensors":
            return "a file of PyTorch; call it .pt"
    if first[8:] == b"{" and path.suffix != ".safetensors":
        return "a file of safetensors; call it .safetensors"
    return None


def _is_jit_archive(path: Path) -> bool:
    """Torch's archives are zip files; only a JIT one carries code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_jit_archive(path: Path) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():  # torch wants no new archives; OpenAI's are what they are
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(path, map_location="cpu").state_dict()


def _count_blocks(state: dict[str, torch.Tensor], prefix: str) -> int:
    names = (name for name in state if name.startswith(prefix))
    return len({name.removeprefix(prefix).split(".")[0] for name in names})


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
