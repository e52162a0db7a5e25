"""Loading of frozen CLIPs: open_clip's ViTs, and timm's in them, by a tag or from a file."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_wsss.core.devices import torch_device
from clip_wsss.core.errors import InputError
from clip_wsss.core.memory import check_memory, out_of_memory
from clip_wsss.core.resources import find, is_file
from clip_wsss.models.cached import BY_ADDRESS, downloaded
from clip_wsss.models.code import open_clip_problem
from clip_wsss.models.frozen_clip import FrozenClip
from clip_wsss.models.hub import reach_hub
from clip_wsss.models.layers import fold_quick_gelu
from clip_wsss.models.sentences import Sentences
from clip_wsss.models.tower import MAX_PATCHES
from clip_wsss.models.weights import (
    SMALLER_TOWER,
    Weights,
    in_memory,
    infer_architecture,
    load_into,
    read_architecture,
    read_weights,
)

if TYPE_CHECKING:
    from clip_wsss.models.timm_clip import TimmClip

TEXT_BATCH = 256  # texts in one forward pass
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@in_memory
def load_clip(
    model: dict,
    *,
    precision: str = "float32",
    round_weights: str | None = None,
    position_embedding: dict | None = None,
    device: str | torch.device = "cpu",
) -> "FrozenClip | TimmClip":
    """Load an entry of `models` (docs/parity.md, facts 1 and 3).

    Args:
        model: `architecture`, an open_clip name or the path of a model config (null: found
            beside a safetensors file, or inferred from OpenAI-format weights), and `weights`,
            an open_clip tag or a local file (OpenAI `.pt` as state dict or JIT archive,
            open_clip checkpoint, safetensors with the whole or a compact vocabulary); and
            `round_weights` and `max_patches`, at their defaults if they are absent; `library`, jina
            for `clip_wsss.models.jina`; and `text_features`, a file of `clip_wsss.models.sentences`
            that is asked instead of the text tower.
        precision: of the vision tower's matrices and activations; texts, the image feature and
            the softmax are float32 in any case.
        round_weights: instead of the entry's: `float16` passes the matrices through float16
            first, `none` does not.
        position_embedding: `resize` (bilinear, or bicubic as in open_clip) and `round` (none,
            or float16).
        device: cpu, cuda, or auto (CUDA where there is one).

    Raises:
        InputError: an unknown name, a file that does not fit, a tower without patch tokens, a
            precision that the device lacks, or weights that are neither here nor to be had.
    """
    device = torch_device(device)
    if precision not in PRECISIONS:
        raise InputError(f"precision: must be one of {', '.join(PRECISIONS)}; got {precision}")
    if precision == "float16" and device.type != "cuda":
        raise InputError("precision: float16 needs CUDA; use float32 or bfloat16 on this device")
    round_weights = round_weights or model.get("round_weights", "none")
    if round_weights not in ("none", "float16"):
        raise InputError(f"round_weights: must be one of none, float16; got {round_weights}")
    position = {"resize": "bilinear", "round": "none"} | (position_embedding or {})
    if position["resize"] not in ("bilinear", "bicubic"):
        raise InputError(
            f"position_embedding.resize: must be one of bilinear, bicubic; got {position['resize']}"
        )
    if position["round"] not in ("none", "float16"):
        raise InputError(
            f"position_embedding.round: must be one of none, float16; got {position['round']}"
        )

    # By name: the code of another vision tower counts for those alone that name it (`runs`).
    if model.get("library") == "jina":
        _check_position(position, "jina")
        load = import_module("clip_wsss.models.jina").load_jina
        return load(model, PRECISIONS[precision], device)

    config, preprocess, name, weights = _resolve(model)
    sentences, size = _sentences(model, config), config["embed_dim"]
    trunk = config["vision_cfg"].get("timm_model_name")
    if trunk:
        _check_position(position, trunk)
    network, encode = _build(config, name, weights, PRECISIONS[precision], sentences)
    visual: Any = network.visual
    if round_weights == "float16":
        for matrix in _matrices(network):
            matrix.data = matrix.data.half().float()
    if not trunk:
        for block in visual.transformer.resblocks:
            fold_quick_gelu(block.mlp)
    if precision != "float32" and not trunk:
        for matrix in _matrices(visual):
            matrix.data = matrix.data.to(PRECISIONS[precision])
    network.requires_grad_(False).eval().to(device)
    options = open_clip.transform.PreprocessCfg(**{**preprocess, "size": visual.image_size})
    crop = open_clip.transform.image_transform_v2(options, is_train=False)
    statistics = (options.mean, options.std)
    most = model.get("max_patches", MAX_PATCHES)
    dtype = PRECISIONS[precision]
    if trunk:
        kind = import_module("clip_wsss.models.timm_clip").TimmClip
        scale = float(network.logit_scale.exp())
        return kind(visual.trunk, visual.head, size, scale, encode, crop, statistics, dtype, most)
    return FrozenClip(network, encode, crop, statistics, position, dtype, most)


@in_memory
def check_clip(model: dict, texts: Mapping[str, Sequence[str]] | None = None) -> int | None:
    """Look whether an entry of `models` can be loaded, downloading no weights.

    Args:
        model: see `load_clip`.
        texts: where they are asked for -> texts that it will have to encode.

    Returns:
        The blocks of its vision tower; None where they are not known without its weights.

    Raises:
        InputError: as `load_clip`; of weights that a tag names, what is known before they are here.
            Or a text that is too long, or has a word that the model does not know.
    """
    read: Callable[[list[str]], Any]
    if model.get("library") == "jina":
        clip = load_clip(model)  # of local files alone
        _check_texts(clip.encode, texts or {})
        return clip.layers
    config, _, name, weights = _resolve(model, download=False)
    sentences = _sentences(model, config)
    if sentences is None:
        _check_transformers(config["text_cfg"], name, "hf_tokenizer_name")
    if weights is None:
        by_hub = config["text_cfg"].get("hf_tokenizer_name")  # whose files may not be here
        if texts and (sentences is not None or not by_hub):
            read = sentences or _Tokenizer(_tokenizer(name, config["text_cfg"]), None)
            _check_texts(read, texts)
    else:
        network, encode = _build(config, name, weights, torch.float32, sentences)
        if texts:
            _check_texts(encode.tokenize if isinstance(encode, _TextTower) else encode, texts)
        if hasattr(network.visual, "trunk"):
            return len(network.visual.trunk.blocks)
    return None if "timm_model_name" in config["vision_cfg"] else config["vision_cfg"]["layers"]


def _check_texts(read: Callable[[list[str]], Any], texts: Mapping[str, Sequence[str]]) -> None:
    for where, own in texts.items():
        try:
            read(list(own))
        except InputError as error:
            raise InputError(f"{where}: {str(error).removeprefix('models: ')}") from None


def _sentences(model: dict, config: dict) -> Sentences | None:
    file = model.get("text_features")
    return None if file is None else Sentences(find(file), config["embed_dim"])


def _check_position(position: dict, tower: str) -> None:
    if position != {"resize": "bilinear", "round": "none"}:
        raise InputError(
            f"position_embedding: must be left out; timm resizes that of {tower} itself"
        )


def load_for(
    entry: dict, model: dict, device: str | torch.device = "cpu"
) -> "FrozenClip | TimmClip":
    """Load the CLIP of a cam entry: a `models` entry at the precision that the CAMs want.

    Raises:
        InputError: as `load_clip`; a tower without texts.
    """
    if model.get("library") == "timm":
        raise InputError("cam.model: a tower of timm has no texts; name a CLIP")
    return load_clip(
        model,
        precision=entry["precision"],
        position_embedding=entry["position_embedding"],
        device=device,
    )


def _resolve(model: dict, download: bool = True) -> tuple[dict, dict, str, Any]:
    """Config, preprocessing, name of the architecture and `Weights` of a `models` entry.

    The weights are None where they would have to be downloaded and shall not be.
    """
    architecture, source = model.get("architecture"), str(model["weights"])
    file = find(source)
    local = file.is_file() or file.suffix in (".pt", ".pth", ".bin", ".safetensors")
    weights: Any  # None until what a tag names is downloaded, once its architecture is known
    tag: dict
    if local:
        weights, tag = read_weights(file), {}
    elif architecture is None:
        raise InputError(
            f"models: weights {source} are not a local file, so `architecture` is needed"
        )
    else:
        weights, tag = None, _known_tag(architecture, source)
    if architecture is None and weights.kind == "safetensors":
        architecture = _config_beside(file)
    if architecture is None:
        config, name = infer_architecture(weights), f"inferred from {source}"
    elif Path(architecture).suffix == ".json" or is_file(architecture):
        config, name = read_architecture(find(architecture)), str(architecture)
    else:
        config, name = open_clip.get_model_config(str(architecture)), str(architecture)
        if config is None:
            raise _unknown(architecture)
    _refuse_what_cannot_run(config, name)
    if model.get("text_features") is None:
        _check_transformers(config["text_cfg"], name, "hf_model_name")
    needs_quick_gelu = weights.kind == "openai" if local else tag.get("quick_gelu", False)
    if needs_quick_gelu and not config.get("quick_gelu", False):
        raise InputError(
            f"models: weights {source} need QuickGELU, which architecture {name} does not have; "
            'use the "-quickgelu" architecture or a config with "quick_gelu": true'
        )
    if weights is None and download:
        if model.get("text_features") is None:  # before what is large
            _check_transformers(config["text_cfg"], name, "hf_tokenizer_name")
            _tokenizer(
                name, config["text_cfg"]
            )  # whose files may have to be fetched, and are small
        weights = _download(str(architecture), source, tag)
    preprocess = asdict(open_clip.transform.PreprocessCfg())
    if trunk := config["vision_cfg"].get("timm_model_name"):
        known = timm.get_pretrained_cfg(trunk)
        assert known is not None  # each network of timm has one
        preprocess |= {"mean": known.mean, "std": known.std}
    for stated in (config.pop("preprocess_cfg", None), tag):
        preprocess = open_clip.transform.merge_preprocess_dict(preprocess, stated or {})
    return config, preprocess, name, weights


def _unknown(architecture: str) -> InputError:
    return InputError(
        f"models: architecture {architecture} is neither a model of open_clip "
        "(`open_clip.list_models()`) nor the path of a model config"
    )


def _known_tag(architecture: str, tag: str) -> dict:
    if problem := open_clip_problem(architecture):
        raise InputError(f"models: architecture {problem}")
    known = open_clip.get_pretrained_cfg(architecture, tag)
    if known:
        return known
    if Path(architecture).suffix != ".json" and open_clip.get_model_config(architecture) is None:
        raise _unknown(architecture)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    plain = architecture.removesuffix("-quickgelu")
    for other in (f"{plain}-quickgelu", plain):
        if open_clip.get_pretrained_cfg(other, tag):
            raise InputError(
                f"models: open_clip knows the tag {tag} for {other}, not for {architecture}; the "
                "activation must match"
            )
    raise InputError(
        f"models: weights {tag} is neither a file nor a tag of {architecture} "
        f"(open_clip's: {', '.join(tags) or 'none'})"
    )


def _download(architecture: str, tag: str, known: dict) -> Weights:
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # else it tells twice of each of ten tries
    try:
        where = downloaded(architecture, tag)
        if where is None and known.get("hf_hub"):
            reach_hub()
        from_hub = where != BY_ADDRESS  # else the hub is asked for what is here
        found = open_clip.pretrained.download_pretrained(known, prefer_hf_hub=from_hub)
        return read_weights(Path(found))
    except InputError:
        raise
    except Exception as error:  # whatever the network stack below raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"models: weights {tag} of {architecture} are not here and cannot be downloaded "
            f"({reason.rstrip('.')}); a local file (.pt or .safetensors) can be given as "
            "`weights` instead"
        ) from None
    finally:
        hub.setLevel(level)


def _config_beside(weights: Path) -> str:
    for name in (f"{weights.stem}.json", "model.json", "open_clip_config.json"):
        if (weights.parent / name).is_file():
            return str(weights.parent / name)
    raise InputError(f"{weights}: needs `architecture`: an open_clip name or a model config")


def _refuse_what_cannot_run(config: dict, name: str) -> None:
    vision = config["vision_cfg"]
    if trunk := vision.get("timm_model_name"):
        module = import_module("clip_wsss.models.timm_tower")
        module.check_family(trunk, f"models: architecture {name}")
        reason = None
    elif isinstance(vision.get("layers"), list | tuple):
        reason = "is a ResNet"
    elif vision.get("attentional_pool"):
        reason = "pools by attention"
    elif vision.get("scaled_cosine_attn"):
        reason = "uses scaled cosine attention, which open_clip itself cannot run"
    else:
        reason = None
    if reason is not None:
        raise InputError(
            f"models: architecture {name} {reason}; CAMs need the patch tokens of an open_clip "
            "VisionTransformer, such as ViT-B-16-quickgelu"
        )


def _check_transformers(text: dict, name: str, key: str) -> None:
    """Refuse texts that need a package which is not here."""
    if text.get(key) and find_spec("transformers") is None:
        raise InputError(
            f"models: architecture {name}: text_cfg.{key}, {text[key]}, needs the package "
            "transformers, which is not installed; install it, name a file of the texts' features "
            "as text_features (docs/towers.md), or name another CLIP, such as ViT-B-16-quickgelu"
        )


def _build(
    config: dict, name: str, weights: Weights, dtype: torch.dtype, sentences: Sentences | None
) -> tuple[Any, Callable[[list[str]], Tensor]]:
    """The network with its weights (float32) and what encodes texts.

    With `sentences` the text tower is not built, and whatever is said of it is not looked at.
    """
    text = dict(config["text_cfg"])
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if weights.rows is not None:
        _check_rows(weights)
        text["vocab_size"] = len(weights.rows)
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    cast = None if dtype == torch.float32 else dtype  # LayerNorms that compute in float32
    kind: Any = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    check_memory(
        sum(map(_least_bytes, (config["vision_cfg"], text))),
        f"models: architecture {name}",
        SMALLER_TOWER,
    )
    try:
        with _any_size():
            if sentences is not None:
                network: Any = _Vision(config, cast)
            else:
                network = kind(**{**config, "text_cfg": text}, cast_dtype=cast)
        state = open_clip.convert.convert_state_dict(network, weights.state)
    except Exception as error:  # whatever a library below says about the config
        if out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"models: architecture {name} cannot be built ({reason})") from None
    if config["vision_cfg"].get("timm_model_name"):
        module = import_module("clip_wsss.models.timm_tower")
        module.check_network(network.visual.trunk, f"models: architecture {name}")
    if sentences is not None:
        state = {key: one for key, one in state.items() if key in network.state_dict()}
    elif custom:
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    load_into(network, replace(weights, state=state), name)
    if sentences is not None:
        return network, sentences
    return network, _TextTower(network, partial(_tokenizer, name, text), weights.rows, name)


def _least_bytes(part: dict) -> int:
    """Bytes of the matrices of a tower's blocks, by its config; 0 where it does not say."""
    sizes = part.get("layers", 0), part.get("width", 0)
    layers, width = (size if type(size) is int else 0 for size in sizes)
    return 4 * 12 * layers * width**2


class _Vision(nn.Module):
    """An open_clip model without its text tower."""

    def __init__(self, config: dict, cast: torch.dtype | None):
        super().__init__()
        quick = config.get("quick_gelu", False)
        vision = config["vision_cfg"]
        self.visual = open_clip.model._build_vision_tower(config["embed_dim"], vision, quick, cast)
        self.logit_scale = nn.Parameter(torch.zeros(()))


@contextmanager
def _any_size() -> Iterator[None]:
    """Within it, timm builds networks for images of any size, which open_clip does not ask for."""
    own = timm.create_model
    try:
        timm.create_model = partial(own, dynamic_img_size=True)
        yield
    finally:
        timm.create_model = own


class _TextTower:
    """Different texts -> (n, E) float32 on the CPU, normalised, by a network's text tower."""

    def __init__(self, network: Any, make: Callable[[], Any], rows: Tensor | None, name: str):
        self.network, self._make, self._rows, self._name = network, make, rows, name

    @cached_property
    def tokenize(self) -> "_Tokenizer":
        """Made when the first text comes: a tokenizer may need files that images do not."""
        try:
            return _Tokenizer(self._make(), self._rows)
        except Exception as error:  # whatever a library below says, of a download too
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"models: architecture {self._name}: its tokenizer cannot be made ({reason}); name "
                "a file of the texts' features as `text_features` (docs/towers.md)"
            ) from None

    def __call__(self, texts: list[str]) -> Tensor:
        device = self.network.logit_scale.device
        parts = (texts[i : i + TEXT_BATCH] for i in range(0, len(texts), TEXT_BATCH))
        return torch.cat(
            [
                F.normalize(self.network.encode_text(self.tokenize(part).to(device)), dim=-1)
                .float()
                .cpu()
                for part in parts
            ]
        )


def _tokenizer(name: str, text: dict):
    if open_clip.get_model_config(name) is not None:
        return open_clip.get_tokenizer(name)
    options = dict(
        text.get("tokenizer_kwargs") or {}, context_length=text.get("context_length", 77)
    )
    if text.get("hf_tokenizer_name"):
        return open_clip.HFTokenizer(text["hf_tokenizer_name"], **options)
    return open_clip.SimpleTokenizer(**options)


class _Tokenizer:
    """Texts -> (n, context) int64 tokens; for a compact vocabulary, row numbers instead of ids."""

    def __init__(self, inner, rows: Tensor | None):
        self.inner, self.rows = inner, rows

    def __call__(self, texts: list[str]) -> Tensor:
        tokens = self.inner(texts)
        if isinstance(self.inner, open_clip.SimpleTokenizer):
            for text in texts:  # the library cuts what is too long
                length = len(self.inner.encode(text)) + 2
                if length > tokens.shape[1]:
                    raise InputError(
                        f"text '{text[:60]}...' has {length} tokens, the model takes "
                        f"{tokens.shape[1]}; shorten the template or the names"
                    )
        if self.rows is None:
            return tokens
        after_end = tokens.cumsum(dim=1) == tokens.sum(dim=1, keepdim=True)
        padding = after_end & (tokens == 0)  # whose row a causal text tower never looks at
        missing = (~torch.isin(tokens, self.rows) & ~padding).any(dim=1)
        if missing.any():
            text = texts[int(missing.nonzero()[0])]
            raise InputError(
                f"the model's compact vocabulary lacks '{self._unknown_word(text)}' of the text "
                f"'{text}'; use other words, or weights with the whole vocabulary"
            )
        return torch.searchsorted(self.rows, tokens).clamp(max=len(self.rows) - 1)

    def _unknown_word(self, text: str) -> str:
        assert self.rows is not None  # else no word is unknown
        stored = set(self.rows.tolist())
        words = text.replace(",", " ").split()
        return next((w for w in words if not stored.issuperset(self.inner.encode(w))), text)


def _check_rows(weights: Weights) -> None:
    rows = weights.rows
    assert rows is not None  # of a compact vocabulary
    if rows.ndim != 1 or rows.dtype != torch.int64 or bool((rows.diff() <= 0).any()):
        raise InputError(f"{weights.source}: token_embedding.rows must be sorted vocabulary ids")


def _matrices(network: nn.Module) -> Iterator[nn.Parameter]:
    """What OpenAI stored as float16: convolutions, linear maps, attention and projections."""
    attention = (nn.MultiheadAttention, open_clip.transformer.Attention)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            names = ("weight", "bias")
        elif isinstance(module, attention):
            names = ("in_proj_weight", "in_proj_bias")
        else:
            names = ("proj", "text_projection")
        for name in names:
            value = getattr(module, name, None)
            if isinstance(value, nn.Parameter):
                yield value
