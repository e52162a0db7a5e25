"""timm's plain ViTs as towers: DINO, DINOv2 with registers, and what else has their shape.

They have no texts; an affinity uses their attention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from clip_wsss.core.devices import torch_device
from clip_wsss.core.errors import InputError
from clip_wsss.core.resources import find, is_file
from clip_wsss.models.frozen_clip import attend_head_by_head, mean_map
from clip_wsss.models.tower import MAX_PATCHES, capped
from clip_wsss.models.weights import read_weights


class TimmTower:
    """See `clip_wsss.models.tower.Tower`."""

    def __init__(self, network: Any, max_patches: int = MAX_PATCHES):
        self.network, self.max_patches = network, max_patches
        self.patch: tuple[int, int] = tuple(network.patch_embed.patch_size)
        self.layers = len(network.blocks)
        self.heads = network.blocks[-1].attn.num_heads
        self.width, self.prefix = network.embed_dim, network.num_prefix_tokens
        first = next(network.parameters())
        self.device, self.dtype = first.device, first.dtype
        known = network.pretrained_cfg
        self.mean, self.std = (np.array(known[key], np.float32) for key in ("mean", "std"))

    def grid(self, size: Sequence[float]) -> tuple[int, int]:
        """Patches (gh, gw) of an image of size (H, W): each side rounded up by itself."""
        return math.ceil(size[0] / self.patch[0]), math.ceil(size[1] / self.patch[1])

    def fitted(self, size: Sequence[float]) -> tuple[int, int]:
        """See `clip_wsss.models.tower.Tower`."""
        return capped(self.grid(size), self.max_patches)

    def preprocess(self, rgb: np.ndarray, scale: float = 1.0) -> Tensor:
        """(H, W, 3) uint8 -> (3, H', W') float32 on the CPU, whole patches, normalised."""
        gh, gw = self.fitted((rgb.shape[0] * scale, rgb.shape[1] * scale))
        size = (gw * self.patch[1], gh * self.patch[0])
        resized = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
        scaled = (resized.astype(np.float32) / np.float32(255) - self.mean) / self.std
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))

    @torch.no_grad()
    def passed(self, batch: Tensor, held: int, by_head: int) -> tuple[list[Tensor], Tensor]:
        """See `clip_wsss.models.tower.Tower`."""
        net = self.network
        x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(batch.to(self.device)))))
        count, N = min(held, self.layers), x.shape[1] - self.prefix
        maps = torch.empty(len(x), count, N, N, device=self.device)
        streams = [x]
        for index, block in enumerate(net.blocks[:-1]):
            slot = index - (self.layers - count)
            y, own = self._attend(block.attn, block.norm1(x))
            if slot >= 0:
                maps[:, slot] = own[:, self.prefix :, self.prefix :]
            x = _rest(block, x, y)
            streams.append(x)
        return streams, maps

    @torch.no_grad()
    def attention(self, block: int, x: Tensor, kind: str = "qk") -> Tensor:
        """See `clip_wsss.models.tower.Tower`."""
        own = self.network.blocks[block]
        q, k, v = _project(own.attn, own.norm1(x))
        one, other = {"qk": (q, k), "qq": (q, q), "kk": (k, k), "vv": (v, v)}[kind]
        return mean_map(one, other)[:, self.prefix :, self.prefix :]

    @torch.no_grad()
    def patches(self, x: Tensor) -> Tensor:
        """Patch features (B, N, E) float32, normalised, from what enters the last block."""
        return self.rebuilt_patches(x, _attended, residual=True, ffn=True)

    @torch.no_grad()
    def rebuilt_patches(
        self,
        x: Tensor,
        mix: Callable[[Tensor, Tensor, Tensor], Tensor],
        residual: bool,
        ffn: bool,
    ) -> Tensor:
        """See `clip_wsss.models.tower.Tower`."""
        block = self.network.blocks[-1]
        y = block.ls1(_joined(block.attn, mix(*_project(block.attn, block.norm1(x)))))
        x = x + y if residual else y
        tokens = self.network.norm(_feed_forward(block, x) if ffn else x)
        return F.normalize(tokens[:, self.prefix :].float(), dim=-1)

    @staticmethod
    def _attend(attn: Any, a: Tensor) -> tuple[Tensor, Tensor]:
        y, maps = attend_head_by_head(*_project(attn, a), True)
        assert maps is not None  # they were asked for
        return _joined(attn, y), maps


def _project(attn: Any, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values: (B, heads, L, d) each."""
    q, k, v = attn.qkv(a).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return attn.q_norm(q), attn.k_norm(k), v


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_head_by_head(q, k, v, False)[0]


def _joined(attn: Any, y: Tensor) -> Tensor:
    """The attention's output of what its heads give: (B, heads, L, d) -> (B, L, D)."""
    return attn.proj(attn.norm(y.transpose(1, 2).flatten(2)))


def _rest(block: Any, x: Tensor, y: Tensor) -> Tensor:
    return _feed_forward(block, x + block.ls1(y))


def _feed_forward(block: Any, x: Tensor) -> Tensor:
    return x + block.ls2(block.mlp(block.norm2(x)))


def load_timm(
    model: dict[str, Any], device: str | torch.device = "cpu", *, download: bool = True
) -> TimmTower:
    """Load an entry of `models` with `library: timm`.

    Args:
        model: architecture, a name of timm; weights, `pretrained` (timm downloads them) or a local
            file (safetensors, or a checkpoint that holds tensors alone).
        device: cpu, cuda or auto.
        download: whether `pretrained` weights are got; without them the network is random.

    Raises:
        InputError: an unknown name, another kind of network than a plain ViT, or weights that are
            not there or do not fit.
    """
    name, weights = model.get("architecture"), str(model["weights"])
    if name is None or not timm.is_model(name):
        raise InputError(f"models: architecture {name}: timm has no network of this name")
    if weights != "pretrained" and not is_file(weights):
        raise InputError(f"models: weights {weights}: no such file; name a file, or `pretrained`")
    pretrained = weights == "pretrained"
    if pretrained and not timm.is_model_pretrained(name):
        raise InputError(
            f"models: architecture {name}: timm has no weights of this name; choose one of "
            f"`timm.list_pretrained('{name.partition('.')[0]}*')`, or name a file as weights"
        )
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    try:
        network: Any = timm.create_model(name, pretrained=pretrained and download, **options)
    except Exception as error:  # whatever the library says, of a download too
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"models: architecture {name} cannot be made by timm ({reason})") from None
    if not _is_plain(network):
        raise InputError(
            f"models: architecture {name}: must be a plain VisionTransformer of timm, such as "
            f"vit_small_patch16_224.dino; it is a {type(network).__name__} of another build"
        )
    if not pretrained:
        _load(network, weights)
    network = network.requires_grad_(False).eval().to(torch_device(device))
    return TimmTower(network, model.get("max_patches", MAX_PATCHES))


def _is_plain(network: nn.Module) -> bool:
    """Whether a network is what `TimmTower` computes: no other blocks, gates or pooling."""
    return (
        type(network) is VisionTransformer
        and network.attn_pool is None
        and all(type(b) is Block and type(b.attn) is Attention for b in network.blocks)
        and all(getattr(b.attn, "gate", None) is None for b in network.blocks)
    )


def _load(network: VisionTransformer, weights: str) -> None:
    """Load a file; what only a classifier has may be there too, all else must fit."""
    state = read_weights(find(weights)).state
    own = network.state_dict()
    for key in sorted(own):
        if key not in state:
            raise InputError(f"{weights}: lacks {key}; is it of another architecture?")
        if own[key].shape != state[key].shape:
            raise InputError(
                f"{weights}: {key} is {tuple(state[key].shape)}, the architecture's is "
                f"{tuple(own[key].shape)}"
            )
    if not all(torch.isfinite(state[key]).all() for key in own):
        raise InputError(f"{weights}: holds a weight that is not finite")
    network.load_state_dict({key: state[key] for key in own})
