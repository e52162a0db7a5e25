"""Jina CLIP v1 and v2: the published vision tower in timm's EVA; texts come from a file.

The tower is EVA02's with separate projections, at widths and depths that its config.json states.
Its rotary positions are those of its pre-training's grid, which timm's own default is not: every
weight fits either way, and only the features would be wrong.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from timm.models.eva import checkpoint_filter_fn
from torch import nn

from clip_wsss.core.devices import torch_device
from clip_wsss.core.errors import InputError
from clip_wsss.core.resources import find
from clip_wsss.models.sentences import Sentences
from clip_wsss.models.timm_clip import TimmClip
from clip_wsss.models.tower import MAX_PATCHES
from clip_wsss.models.weights import Weights, check_scale, load_into, read_weights

PREFIX = "vision_model."


def load_jina(model: dict[str, Any], dtype: torch.dtype, device: str | torch.device) -> TimmClip:
    """Load an entry of `models` with `library: jina`.

    Args:
        model: architecture, the path of the published config.json; weights, the published file;
            text_features, see `clip_wsss.models.sentences`.
        dtype: of the blocks.
        device: cpu, cuda or auto.

    Raises:
        InputError: a file is missing, is not Jina CLIP's, or a weight of the tower has no place.
    """
    if model.get("architecture") is None or model.get("text_features") is None:
        raise InputError(
            "models: library: jina needs architecture (its config.json) and text_features (a file "
            "of docs/towers.md)"
        )
    if model.get("round_weights", "none") != "none":
        raise InputError("models: round_weights: must be left out with library: jina")
    path = find(model["architecture"])
    network = vision_network(_vision(path), str(path))
    weights = read_weights(find(model["weights"]))
    scale = weights.state.get("logit_scale")
    state = {
        key.removeprefix(PREFIX): one
        for key, one in weights.state.items()
        if key.startswith(PREFIX)
    }
    if not state or scale is None:
        raise InputError(f"{weights.source}: must hold {PREFIX}* and logit_scale, as Jina CLIP's")
    check_scale(scale, weights.source)
    own = network.state_dict()
    for key in ("pos_embed", "patch_embed.proj.weight"):  # timm's filter would resize them
        if key not in state or state[key].shape != own[key].shape:
            raise InputError(
                f"{weights.source}: {PREFIX}{key} must be {tuple(own[key].shape)}, as {path} says"
            )
    state = checkpoint_filter_fn(state, network)
    load_into(network, Weights(state, weights.kind, None, weights.source), str(path))
    network.requires_grad_(False).eval().to(torch_device(device))
    options = open_clip.transform.PreprocessCfg(size=network.patch_embed.img_size)  # CLIP's
    crop = open_clip.transform.image_transform_v2(options, is_train=False)
    return TimmClip(
        network,
        nn.Identity(),
        network.embed_dim,
        float(scale.float().exp()),
        Sentences(find(model["text_features"]), network.embed_dim),
        crop,
        (options.mean, options.std),
        dtype,
        model.get("max_patches", MAX_PATCHES),
    )


def vision_network(vision: dict[str, Any], where: str) -> Any:
    """timm's network of a published `vision_config`, with random weights.

    Raises:
        InputError: a part of it is not as Jina CLIP v1 and v2 have it.
    """
    for key, wanted in (("rope_embeddings", True), ("naive_swiglu", True), ("subln", True)):
        if vision.get(key, False) is not wanted:
            raise InputError(f"{where}: vision_config.{key} must be true; got {vision.get(key)}")
    try:
        size, patch, width = vision["image_size"], vision["patch_size"], vision["width"]
        shape = {
            "img_size": size,
            "patch_size": patch,
            "embed_dim": width,
            "depth": vision["layers"],
            "num_heads": width // vision["head_width"],
            "mlp_ratio": vision["mlp_ratio"],
        }
    except KeyError as error:
        raise InputError(f"{where}: vision_config lacks {error}; get the file again") from None
    # Positions go up to the side of the grid, or are scaled to the side that it was pre-trained on.
    side = vision.get("pt_hw_seq_len", 16) if vision.get("intp_freq", False) else size // patch
    return timm.create_model(
        "eva02_base_patch16_clip_224",
        num_classes=0,
        dynamic_img_size=True,
        ref_feat_shape=(side, side),
        **shape,
    )


def _vision(path: Path) -> dict[str, Any]:
    try:
        vision = json.loads(path.read_text(encoding="utf-8"))["vision_config"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: must be Jina CLIP's config.json, with vision_config") from None
    if not isinstance(vision, dict):
        raise InputError(f"{path}: vision_config must be a mapping")
    return vision
