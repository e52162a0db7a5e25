"""timm's ViT and EVA families as towers: DINO, DINOv2 with registers, DINOv3, EVA02, SigLIP, ….

timm's own modules compute everything. Only where an attention mixes values by queries and keys,
torch's function is replaced (`Mixing`); so rotary positions, norms and gates need no code here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.layers.attention import AttentionRope
from timm.models.eva import Eva, EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clip_wsss.core.devices import torch_device
from clip_wsss.core.errors import InputError
from clip_wsss.core.memory import out_of_memory
from clip_wsss.core.resources import find, is_file
from clip_wsss.core.spelling import unknown
from clip_wsss.models.frozen import Images
from clip_wsss.models.hub import in_hub_cache, reach_hub
from clip_wsss.models.layers import attend_head_by_head, mean_map
from clip_wsss.models.tower import MAX_PATCHES, Grid
from clip_wsss.models.weights import in_memory, no_floats, read_weights

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
FAMILIES = ("vision_transformer", "vision_transformer_hybrid", "deit", "eva")  # modules of timm
BLOCKS = (Block, ResPostBlock, EvaBlock, EvaBlockPostNorm)
ATTENTIONS = (Attention, AttentionRope, EvaAttention)


class Mixing(TorchFunctionMode):
    """Within it, attention gives what `mix` makes of queries, keys and values."""

    def __init__(self, mix: Mix):
        super().__init__()
        self.mix = mix

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch's protocol: called for every function of torch."""
        if func is F.scaled_dot_product_attention:
            return self.mix(*args[:3])
        return func(*args, **(kwargs or {}))


class TimmTower(Images):
    """See `clip_wsss.models.tower.Tower`.

    Args:
        network: from `timm.create_model(…, dynamic_img_size=True)`, one that `refusal` lets pass.
        max_patches: of an image; a larger one is scaled down.
        statistics: mean and deviation of the pixels; None: the network's own.
    """

    def __init__(
        self,
        network: Any,
        max_patches: int = MAX_PATCHES,
        statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    ):
        self.network, self.max_patches = network, max_patches
        self.patch: tuple[int, int] = tuple(network.patch_embed.feat_ratio(as_scalar=False))
        self.layers = len(network.blocks)
        self.heads = network.blocks[-1].attn.num_heads
        self.width, self.prefix = network.embed_dim, network.num_prefix_tokens
        first = network.blocks[0].attn.proj.weight
        self.device, self.dtype = first.device, first.dtype
        known = network.pretrained_cfg
        self.mean, self.std = (
            np.array(values, np.float32) for values in statistics or (known["mean"], known["std"])
        )
        for block in network.blocks:
            block.attn.fused_attn = True  # by the function that `Mixing` replaces
        self._ropes: tuple[Grid | None, Any] = (None, None)  # those of the last grid

    @torch.no_grad()
    def passed(self, batch: Tensor, held: int, by_head: int) -> tuple[list[Tensor], Tensor]:
        """See `clip_wsss.models.tower.Tower`."""
        x, grid = self._embed(batch), self.grid(batch.shape[2:])
        count, N = min(held, self.layers), x.shape[1] - self.prefix
        maps = torch.empty(len(x), count, N, N, device=self.device)
        streams = [x]
        for index, block in enumerate(self.network.blocks[:-1]):
            slot = index - (self.layers - count)

            def mix(q: Tensor, k: Tensor, v: Tensor, slot: int = slot) -> Tensor:
                y, own = attend_head_by_head(q, k, v, slot >= 0)
                if own is not None:
                    maps[:, slot] = own[:, self.prefix :, self.prefix :]
                return y

            x = self._rest(block, x, self._attend(index, _into(block, x), grid, mix))
            streams.append(x)
        return streams, maps

    @torch.no_grad()
    def attention(
        self, block: int, x: Tensor, kind: str = "qk", grid: Grid | None = None
    ) -> Tensor:
        """See `clip_wsss.models.tower.Tower`."""
        found: list[Tensor] = []

        def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            found.extend((q, k, v))
            return v

        index = block % self.layers
        self._attend(index, _into(self.network.blocks[index], x), grid, mix)
        q, k, v = found
        one, other = {"qk": (q, k), "qq": (q, q), "kk": (k, k), "vv": (v, v)}[kind]
        return mean_map(one, other)[:, self.prefix :, self.prefix :]

    @torch.no_grad()
    def patches(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Patch features (B, N, E) float32, normalised, from what enters the last block."""
        return self.rebuilt_patches(x, _attended, residual=True, ffn=True, grid=grid)

    @torch.no_grad()
    def rebuilt_patches(
        self, x: Tensor, mix: Mix, residual: bool, ffn: bool, grid: Grid | None = None
    ) -> Tensor:
        """See `clip_wsss.models.tower.Tower`."""
        block = self.network.blocks[-1]
        y = _out_of(block, self._attend(self.layers - 1, _into(block, x), grid, mix))
        x = x + y if residual else y
        x = _feed_forward(block, x) if ffn else x
        return self._patch_features(self.network.norm(x.float())[:, self.prefix :])

    def _patch_features(self, patches: Tensor) -> Tensor:
        """Features of (B, N, D) float32, which the last norm has been applied to."""
        return F.normalize(patches, dim=-1)

    def _embed(self, batch: Tensor) -> Tensor:
        """What enters the first block: (B, 3, H', W') -> (B, P + N, D)."""
        net = self.network
        flags = {"benchmark": False, "deterministic": True, "allow_tf32": False}
        with torch.backends.cudnn.flags(enabled=True, **flags):
            x = net.patch_embed(batch.to(self.device, self.dtype))
        x = net._pos_embed(x)
        return net.norm_pre(x[0] if isinstance(net, Eva) else x)

    def _attend(self, index: int, a: Tensor, grid: Grid | None, mix: Mix | None) -> Tensor:
        """A block's attention on what enters it, (B, P + N, D), by `mix` or as it is."""
        attn, rope = self.network.blocks[index].attn, self._rope(index, grid)
        options = {} if rope is None else {"rope": rope}
        if mix is None:
            return attn(a, **options)
        with Mixing(mix):
            return attn(a, **options)

    def _rope(self, index: int, grid: Grid | None) -> Tensor | None:
        """A block's rotary positions on a grid; None where the network has none."""
        net = self.network
        if getattr(net, "rope", None) is None:
            return None
        assert grid is not None  # which rotary positions are of
        if self._ropes[0] != grid:
            self._ropes = grid, net.rope.get_embed(shape=grid)
        return self._ropes[1][index] if net.rope_mixed else self._ropes[1]

    @staticmethod
    def _rest(block: Any, x: Tensor, y: Tensor) -> Tensor:
        return _feed_forward(block, x + _out_of(block, y))


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attend_head_by_head(q, k, v, False)[0]


def _into(block: Any, x: Tensor) -> Tensor:
    """What enters a block's attention."""
    return x if isinstance(block, ResPostBlock | EvaBlockPostNorm) else block.norm1(x)


def _out_of(block: Any, y: Tensor) -> Tensor:
    """What is added to the stream of what the attention gives."""
    if isinstance(block, ResPostBlock | EvaBlockPostNorm):
        return block.norm1(y)
    if isinstance(block, EvaBlock):
        return y if block.gamma_1 is None else block.gamma_1 * y
    return block.ls1(y)


def _feed_forward(block: Any, x: Tensor) -> Tensor:
    if isinstance(block, ResPostBlock | EvaBlockPostNorm):
        return x + block.norm2(block.mlp(x))
    y = block.mlp(block.norm2(x))
    if isinstance(block, EvaBlock):
        return x + (y if block.gamma_2 is None else block.gamma_2 * y)
    return x + block.ls2(y)


@in_memory
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
        InputError: an unknown name, a network of another family, or weights that are not there or
            do not fit.
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
    check_family(name, f"models: architecture {name}")
    options: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    try:
        if pretrained and download:
            known: Any = timm.get_pretrained_cfg(name)
            if known.hf_hub_id and not in_hub_cache(known.hf_hub_id):
                reach_hub()
        network: Any = timm.create_model(name, pretrained=pretrained and download, **options)
    except Exception as error:  # whatever the library says, of a download too
        if out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"models: architecture {name} cannot be made by timm ({reason})") from None
    check_network(network, f"models: architecture {name}")
    if not pretrained:
        _load(network, weights)
    network = network.requires_grad_(False).eval().to(torch_device(device))
    return TimmTower(network, model.get("max_patches", MAX_PATCHES))


def check_family(name: str, where: str) -> None:
    """Refuse a network of timm by its name, before it is built.

    Raises:
        InputError: timm does not have it, or it is of another family than ViT and EVA.
    """
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"{where}: {unknown('model of timm', name, timm.list_models())}")
    family = timm.model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2]
    if family not in FAMILIES:
        raise InputError(
            f"{where}: {name} must be of timm's ViT or EVA family, such as "
            f"vit_small_patch16_224.dino; it is of {family}"
        )


def check_network(network: nn.Module, where: str) -> None:
    """Refuse a network that `TimmTower` does not compute.

    Raises:
        InputError: it, its blocks or their attention are of another build.
    """
    kinds = [type(network)]
    if type(network) in (VisionTransformer, Eva):
        blocks: Any = network.blocks
        kinds = [type(block) for block in blocks if type(block) not in BLOCKS]
        kinds += [type(b.attn) for b in blocks if not kinds and type(b.attn) not in ATTENTIONS]
    if kinds:
        raise InputError(
            f"{where}: must be a plain VisionTransformer or Eva of timm, such as "
            f"vit_small_patch16_224.dino; it has a {kinds[0].__name__}"
        )


def _load(network: nn.Module, weights: str) -> None:
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
    if (other := no_floats(state, own)) is not None:
        raise InputError(f"{weights}: {other}")
    if not all(torch.isfinite(state[key]).all() for key in own):
        raise InputError(f"{weights}: holds a weight that is not finite")
    network.load_state_dict({key: state[key] for key in own})
