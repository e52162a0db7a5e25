"""Frozen CLIPs: any open_clip VisionTransformer, from a tag or a local file.

The vision tower is run in two parts. `trunk` takes the images up to the last block, without
gradients and with the attention maps that an affinity needs; `last_block` and `image_features`
are the differentiable rest, which GradCAM goes back through (docs/parity.md, facts 6, 7, 9).
"""

import math
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from clip_wsss.clip_weights import (
    Weights,
    infer_architecture,
    load_into,
    read_architecture,
    read_weights,
)
from clip_wsss.errors import InputError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TEXT_BATCH = 256  # texts in one forward pass


def load_clip(
    model: dict,
    *,
    precision: str = "float32",
    round_weights: str = "none",
    position_embedding: dict | None = None,
    device: str | torch.device = "cpu",
) -> "FrozenClip":
    """Load an entry of `models` (docs/parity.md, facts 1 and 3).

    Args:
        model: `architecture`, an open_clip name or the path of a model config (null: found
            beside a safetensors file, or inferred from OpenAI-format weights), and `weights`,
            an open_clip tag or a local file (OpenAI `.pt` as state dict or JIT archive,
            open_clip checkpoint, safetensors with the whole or a compact vocabulary).
        precision: of the vision tower's matrices and activations; texts, the image feature and
            the softmax are float32 in any case.
        round_weights: `float16` passes the matrices through float16 first, `none` does not.
        position_embedding: `resize` (bilinear, or bicubic as in open_clip) and `round` (none,
            or float16).
        device: cpu, cuda, or auto (CUDA where there is one).

    Raises:
        InputError: an unknown name, a file that does not fit, a tower without patch tokens, a
            precision that the device lacks, or weights that are neither here nor to be had.
    """
    device = _device(device)
    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision} is none of {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type != "cuda":
        raise InputError("precision: float16 needs CUDA; take float32 or bfloat16 on this device")
    if round_weights not in ("none", "float16"):
        raise InputError(f"round_weights: {round_weights} is none of none, float16")
    position = {"resize": "bilinear", "round": "none"} | (position_embedding or {})
    if position["resize"] not in ("bilinear", "bicubic"):
        raise InputError(f"position_embedding.resize: {position['resize']} is no known resize")
    if position["round"] not in ("none", "float16"):
        raise InputError(f"position_embedding.round: {position['round']} is none of none, float16")

    config, preprocess, name, weights = _resolve(model)
    network, tokenizer = _build(config, name, weights, PRECISIONS[precision])
    if round_weights == "float16":
        for matrix in _matrices(network):
            matrix.data = matrix.data.half().float()
    if precision != "float32":
        for matrix in _matrices(network.visual):
            matrix.data = matrix.data.to(PRECISIONS[precision])
    network.requires_grad_(False).eval().to(device)
    return FrozenClip(network, tokenizer, weights.rows, preprocess, position, PRECISIONS[precision])


class FrozenClip:
    """A CLIP without gradients in its weights.

    Attributes:
        patch: (height, width) of a patch in pixels.
        layers: number of blocks of the vision tower.
        heads: attention heads of a block.
        logit_scale: float, exp of the stored one.
        device: where the tensors live.
        dtype: of the vision tower's activations.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer,
        rows: Tensor | None,
        preprocess: dict,
        position: dict,
        dtype: torch.dtype,
    ):
        self.network, self.tokenizer, self.rows = network, tokenizer, rows
        self.visual = network.visual
        self.position, self.dtype = position, dtype
        self.patch = tuple(self.visual.patch_size)
        self.layers = len(self.visual.transformer.resblocks)
        self.heads = _heads(self.visual.transformer.resblocks[-1])
        self.device = self.visual.proj.device
        self.logit_scale = float(network.logit_scale.detach().exp())
        self.mean = np.array(preprocess["mean"], dtype=np.float32)
        self.std = np.array(preprocess["std"], dtype=np.float32)
        cfg = open_clip.transform.merge_preprocess_dict(
            open_clip.transform.PreprocessCfg(), {**preprocess, "size": self.visual.image_size}
        )
        self._ordinary = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**cfg), is_train=False
        )

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Patches (gh, gw) of an image of size (H, W): each side rounded up by itself."""
        return math.ceil(size[0] / self.patch[0]), math.ceil(size[1] / self.patch[1])

    def preprocess(self, rgb: np.ndarray) -> Tensor:
        """An image at its own size (docs/parity.md, fact 2).

        Args:
            rgb: (H, W, 3) uint8.

        Returns:
            (3, H', W') float32 on the CPU; sides are whole numbers of patches.
        """
        gh, gw = self.grid(rgb.shape[:2])
        size = (gw * self.patch[1], gh * self.patch[0])
        resized = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
        scaled = (resized.astype(np.float32) / np.float32(255) - self.mean) / self.std
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))

    def preprocess_ordinary(self, rgb: np.ndarray) -> Tensor:
        """CLIP's own square crop, for classification: (H, W, 3) uint8 -> (3, S, S) float32."""
        return self._ordinary(Image.fromarray(rgb))

    @torch.no_grad()
    def cls_features(self, batch: Tensor) -> Tensor:
        """CLIP's ordinary image features.

        Args:
            batch: (B, 3, S, S) float32 from `preprocess_ordinary`.

        Returns:
            (B, E) float32, normalised.
        """
        x = self._embed(batch.to(self.device))
        for block in self.visual.transformer.resblocks:
            x = self._rest(block, x, self._attend(block, block.ln_1(x), False)[0])
        pooled, _ = self.visual._pool(x)
        return F.normalize(pooled.float() @ self.visual.proj.float(), dim=-1)

    @torch.no_grad()
    def block_outputs(self, batch: Tensor) -> list[Tensor]:
        """Patch tokens after each block: (B, 3, H', W') -> a (B, N, D) of `dtype` for every one."""
        x = self._embed(batch.to(self.device))
        outputs = []
        for block in self.visual.transformer.resblocks:
            x = self._rest(block, x, self._attend(block, block.ln_1(x), False)[0])
            outputs.append(x[:, 1:])
        return outputs

    @torch.no_grad()
    def patch_features(self, batch: Tensor) -> Tensor:
        """The image feature that GradCAM scores: (B, 3, H', W') -> (B, E) float32, normalised."""
        x, _ = self.trunk(batch, 0)
        tokens, _ = self.last_block(x, self.visual.transformer.resblocks[-1].ln_1(x), False)
        return self.image_features(tokens.float())

    @torch.no_grad()
    def encode_texts(self, texts: list[list[str]]) -> Tensor:
        """Text features, averaged over the texts of each item (docs/parity.md, fact 4).

        Args:
            texts: for each of n items, its texts (one for each template).

        Returns:
            (n, E) float32 on the CPU: each text normalised, their mean normalised again.

        Raises:
            InputError: a text is too long, or has a word that a compact vocabulary lacks.
        """
        flat = list(dict.fromkeys(text for item in texts for text in item))
        features = torch.cat(
            [
                F.normalize(self.network.encode_text(self._tokens(part)), dim=-1).float().cpu()
                for part in (flat[i : i + TEXT_BATCH] for i in range(0, len(flat), TEXT_BATCH))
            ]
        )
        place = {text: i for i, text in enumerate(flat)}
        means = [features[[place[text] for text in item]].mean(dim=0) for item in texts]
        return F.normalize(torch.stack(means), dim=-1)

    @torch.no_grad()
    def trunk(self, batch: Tensor, maps: int) -> tuple[Tensor, Tensor]:
        """Everything before the last block (docs/parity.md, facts 3 and 9).

        Args:
            batch: (B, 3, H', W') float32.
            maps: how many attention maps, counted from the last block, are wanted in all.

        Returns:
            The residual stream (B, 1 + N, D) that enters the last block, and the head-averaged
            maps (B, min(maps, layers), N, N) float32 without the CLS row and column, not
            renormalised; the last of them is left for the last block's own.
        """
        x = self._embed(batch.to(self.device))
        count = min(maps, self.layers)
        N = x.shape[1] - 1
        attention = torch.empty(len(x), count, N, N, device=self.device)
        for index, block in enumerate(self.visual.transformer.resblocks[:-1]):
            slot = index - (self.layers - count)
            y, weights = self._attend(block, block.ln_1(x), slot >= 0)
            if weights is not None:
                attention[:, slot] = weights[:, 1:, 1:]
            x = self._rest(block, x, y)
        return x, attention

    def last_block(self, x: Tensor, a: Tensor, need_map: bool) -> tuple[Tensor, Tensor | None]:
        """The last block from its ln_1's output on.

        Args:
            x: (B, 1 + N, D), the residual stream from `trunk`.
            a: (B, 1 + N, D), ln_1(x); gradients flow back to it.
            need_map: whether the attention map is wanted.

        Returns:
            Output tokens (B, 1 + N, D), and the map (B, N, N) float32 as in `trunk` or None.
        """
        block = self.visual.transformer.resblocks[-1]
        y, weights = self._attend(block, a, need_map)
        tokens = self._rest(block, x, y)
        return tokens, None if weights is None else weights[:, 1:, 1:].detach().float()

    def image_features(self, tokens: Tensor) -> Tensor:
        """Mean over the patches, projected (docs/parity.md, fact 6).

        Args:
            tokens: (B, 1 + N, D) float32, the last block's output.

        Returns:
            (B, E) float32, normalised. CLS does not take part. A model that normalises after
            pooling (`final_ln_after_pool`) does so here too.
        """
        norm, patches = self.visual.ln_post, tokens[:, 1:]
        if self.visual.final_ln_after_pool:
            pooled = norm(patches.mean(dim=1))
        else:
            pooled = norm(patches).mean(dim=1)
        return F.normalize(pooled @ self.visual.proj.float(), dim=-1)

    def _embed(self, batch: Tensor) -> Tensor:
        visual = self.visual
        flags = {"benchmark": False, "deterministic": True, "allow_tf32": False}
        with torch.backends.cudnn.flags(enabled=True, **flags):
            patches = visual.conv1(batch.to(self.dtype))  # (B, D, gh, gw)
        positions = self._position_embedding(tuple(patches.shape[2:])).to(self.dtype)
        x = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        cls = visual.class_embedding.to(self.dtype).expand(len(x), 1, -1)
        return visual.ln_pre(torch.cat([cls, x], dim=1) + positions)

    def _position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """(1 + N, D) float32 for a grid: CLS row kept, the rest resized."""
        stored = self.visual.positional_embedding.float()
        rows, native = stored[1:], tuple(self.visual.grid_size)
        if grid != native:
            bicubic = self.position["resize"] == "bicubic"
            image = rows.T.reshape(1, -1, *native)  # (1, D, gh, gw)
            image = F.interpolate(
                image, grid, mode=self.position["resize"], antialias=bicubic, align_corners=False
            )
            rows = image.flatten(2)[0].T
        resized = torch.cat([stored[:1], rows])
        return resized.half().float() if self.position["round"] == "float16" else resized

    @staticmethod
    def _attend(block: nn.Module, a: Tensor, need_map: bool) -> tuple[Tensor, Tensor | None]:
        """The attention branch on ln_1's output, and its maps averaged over the heads."""
        if isinstance(block.attn, nn.MultiheadAttention):
            return block.attn(a, a, a, need_weights=need_map)
        weights = _custom_attention_map(block.attn, a) if need_map else None
        return block.ln_attn(block.attn(a)), weights

    @staticmethod
    def _rest(block: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x = x + block.ls_1(y)
        return x + block.ls_2(block.mlp(block.ln_2(x)))

    def _tokens(self, texts: list[str]) -> Tensor:
        """(n, context) int64; in a compact file, row numbers instead of vocabulary ids."""
        tokens = self.tokenizer(texts)
        if isinstance(self.tokenizer, open_clip.SimpleTokenizer):
            for text in texts:
                length = len(self.tokenizer.encode(text)) + 2
                if length > tokens.shape[1]:
                    raise InputError(
                        f"text '{text[:60]}...' has {length} tokens, the model takes "
                        f"{tokens.shape[1]}; shorten the template or the names"
                    )
        if self.rows is None:
            return tokens.to(self.device)
        known = torch.isin(tokens, self.rows)
        padding = tokens.cumsum(1) == tokens.sum(1, keepdim=True)  # what follows the last token
        padding &= tokens == 0
        missing = (~known & ~padding).any(dim=1).nonzero().flatten()
        if len(missing):
            text = texts[int(missing[0])]
            raise InputError(
                f"the model's compact vocabulary lacks '{self._unknown_word(text)}' of the text "
                f"'{text}'; use other words, or weights with the whole vocabulary"
            )
        places = torch.searchsorted(self.rows, tokens).clamp(max=len(self.rows) - 1)
        return places.to(self.device)

    def _unknown_word(self, text: str) -> str:
        stored = set(self.rows.tolist())
        words = text.replace(",", " ").split()
        return next((w for w in words if not stored.issuperset(self.tokenizer.encode(w))), text)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda is asked for, but this machine has none; set cpu or auto")
    return device


def _resolve(model: dict) -> tuple[dict, dict, str, Weights]:
    """Config, preprocessing, name of the architecture and weights of a `models` entry."""
    architecture, source = model.get("architecture"), str(model["weights"])
    local = Path(source).exists() or Path(source).suffix in (".pt", ".pth", ".bin", ".safetensors")
    if local:
        weights = read_weights(Path(source))
        tag = {}
    else:
        tag = _known_tag(architecture, source)
        weights = None
    if architecture is None and weights.kind == "safetensors":
        architecture = _config_beside(Path(source))
    if architecture is None:
        config, name = infer_architecture(weights), f"inferred from {source}"
    elif Path(architecture).suffix == ".json" or Path(architecture).is_file():
        config, name = read_architecture(Path(architecture)), str(architecture)
    else:
        config, name = open_clip.get_model_config(str(architecture)), str(architecture)
        if config is None:
            raise InputError(
                f"models: architecture {architecture} is neither a model of open_clip "
                "(`open_clip.list_models()`) nor the path of a model config"
            )
    _refuse_towers_without_patches(config, name)
    needs_quick_gelu = weights.kind == "openai" if local else tag.get("quick_gelu", False)
    if needs_quick_gelu and not config.get("quick_gelu", False):
        raise InputError(
            f"models: weights {source} are QuickGELU ones, architecture {name} is not; take the "
            '"-quickgelu" architecture or a config with "quick_gelu": true'
        )
    if weights is None:
        weights = _download(architecture, source, tag)
    default = open_clip.transform.PreprocessCfg()
    preprocess = {"mean": default.mean, "std": default.std}
    preprocess |= config.pop("preprocess_cfg", None) or {}
    return config, open_clip.transform.merge_preprocess_dict(preprocess, tag), name, weights


def _known_tag(architecture: str | None, tag: str) -> dict:
    known = open_clip.get_pretrained_cfg(str(architecture), tag)
    if known:
        return known
    tags = open_clip.list_pretrained_tags_by_model(str(architecture))
    plain = str(architecture).removesuffix("-quickgelu")
    for other in (f"{plain}-quickgelu", plain):
        if open_clip.get_pretrained_cfg(other, tag):
            raise InputError(
                f"models: open_clip knows the tag {tag} for {other}, not for {architecture}; the "
                "activation must match"
            )
    raise InputError(
        f"models: weights {tag} is no file and no tag of {architecture} "
        f"(open_clip's: {', '.join(tags) or 'none'})"
    )


def _download(architecture: str, tag: str, known: dict) -> Weights:
    try:
        return read_weights(Path(open_clip.pretrained.download_pretrained(known)))
    except InputError:
        raise
    except Exception as error:  # whatever the network stack below raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"models: weights {tag} of {architecture} are not here and cannot be downloaded "
            f"({reason}); a local file (.pt or .safetensors) can be given as `weights` instead"
        ) from None


def _config_beside(weights: Path) -> str:
    for name in (f"{weights.stem}.json", "model.json", "open_clip_config.json"):
        if (weights.parent / name).is_file():
            return str(weights.parent / name)
    raise InputError(f"{weights}: needs `architecture`: an open_clip name or a model config")


def _refuse_towers_without_patches(config: dict, name: str) -> None:
    vision = config["vision_cfg"]
    if vision.get("timm_model_name"):
        reason = f"is a timm tower ({vision['timm_model_name']})"
    elif isinstance(vision.get("layers"), list | tuple):
        reason = "is a ResNet"
    elif vision.get("attentional_pool"):
        reason = "pools by attention"
    elif vision.get("scaled_cosine_attn"):
        reason = "uses scaled cosine attention, which open_clip itself cannot run"
    elif vision.get("patch_dropout"):
        return
    else:
        return
    raise InputError(
        f"models: architecture {name} {reason}; CAMs need the patch tokens of an open_clip "
        "VisionTransformer, as ViT-B-16-quickgelu"
    )


def _build(config: dict, name: str, weights: Weights, dtype: torch.dtype):
    """The network with its weights (float32) and its tokenizer."""
    text = dict(config["text_cfg"])
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if weights.rows is not None:
        _check_rows(weights)
        text["vocab_size"] = len(weights.rows)
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    cast = None if dtype == torch.float32 else dtype  # LayerNorms that compute in float32
    state = weights.state
    try:
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        network = kind(**{**config, "text_cfg": text}, cast_dtype=cast)
        tokenizer = _tokenizer(name, text)
        state = open_clip.convert.convert_state_dict(network, state)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"models: architecture {name} cannot be built ({reason})") from None
    if custom:
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    load_into(network, Weights(state, weights.kind, weights.rows, weights.source), name)
    return network, tokenizer


def _tokenizer(name: str, text: dict):
    if open_clip.get_model_config(name) is not None:
        return open_clip.get_tokenizer(name)
    options = {"context_length": text.get("context_length", 77)} | (
        text.get("tokenizer_kwargs") or {}
    )
    if text.get("hf_tokenizer_name"):
        return open_clip.HFTokenizer(text["hf_tokenizer_name"], **options)
    return open_clip.SimpleTokenizer(**options)


def _check_rows(weights: Weights) -> None:
    rows = weights.rows
    if rows.ndim != 1 or rows.dtype != torch.int64 or bool((rows.diff() <= 0).any()):
        raise InputError(f"{weights.source}: token_embedding.rows must be sorted vocabulary ids")


def _matrices(network: nn.Module):
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


def _heads(block: nn.Module) -> int:
    return block.attn.num_heads


def _custom_attention_map(attn: nn.Module, a: Tensor) -> Tensor:
    """Softmax maps of open_clip's own Attention, averaged over the heads: (B, L, L)."""
    B, L, _ = a.shape
    q, k, _ = F.linear(a, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
    q = attn.ln_q(q.reshape(B, L, attn.num_heads, -1).transpose(1, 2)) * attn.scale
    k = attn.ln_k(k.reshape(B, L, attn.num_heads, -1).transpose(1, 2))
    return (q @ k.transpose(-1, -2)).softmax(dim=-1).mean(dim=1)
