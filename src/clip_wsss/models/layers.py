"""Attention and activations of a ViT's blocks, which the towers share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 1.702  # of QuickGELU's sigmoid
# What PyTorch's compiler uses for frozen weights; it has no public name.
_OPS = torch.ops.mkldnn
_NEEDED = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")

# A network, block or attention is `Any` here: torch types what a module holds as Tensor | Module.


def by_heads(packed: Tensor, heads: int) -> Tensor:
    """Queries, keys and values beside each other, by head: (B, L, 3 D) -> (3, B, heads, L, d)."""
    return packed.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)


def packed_heads(attn: Any, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of ln_1's output: (B, L, D) -> three (B, heads, L, d)."""
    q, k, v = by_heads(F.linear(a, attn.in_proj_weight, attn.in_proj_bias), attn.num_heads)
    if not isinstance(attn, nn.MultiheadAttention):  # open_clip's own Attention
        q, k = attn.ln_q(q), attn.ln_k(k)
    return q, k, v


def mean_map(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of (B, heads, L, d) tensors, averaged: (B, L, L) float32.

    The same sums in the same order as `attend_head_by_head`.
    """
    B, heads, L, d = q.shape
    q, maps = q * d**-0.5, torch.zeros(B, L, L, device=q.device)
    for part in range(B) if q.device.type == "cpu" else [slice(None)]:
        for head in range(heads):
            scores = q[part, head] @ k[part, head].transpose(-1, -2)
            maps[part] += scores.softmax(dim=-1).float()
    return maps.div_(heads)


def attend_head_by_head(
    q: Tensor, k: Tensor, v: Tensor, need_map: bool, kept: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Attention that keeps its maps; one L x L map at a time stays in a CPU's cache.

    Args:
        q: (B, heads, L, d).
        k: the same.
        v: the same.
        need_map: whether the mean map is wanted.
        kept: (B, heads, L, L), filled with the maps of the heads; None where nobody wants them.

    Returns:
        (B, heads, L, d), and the mean map (B, L, L) float32 or None.
    """
    B, heads, L, d = q.shape
    q = q * d**-0.5
    y = q.new_empty(B, L, heads, d).transpose(1, 2)
    mean = torch.zeros(B, L, L, device=q.device) if need_map else None
    parts = range(B) if q.device.type == "cpu" else [slice(None)]
    shape = (L, L) if q.device.type == "cpu" else (B, L, L)
    scores, own = q.new_empty(shape), q.new_empty(shape)
    for part in parts:
        for head in range(heads):
            if kept is not None:
                own = kept[part, head]
            torch.matmul(q[part, head], k[part, head].transpose(-1, -2), out=scores)
            torch.softmax(scores, dim=-1, out=own)
            if mean is not None:
                mean[part] += own.float()
            y[part, head] = own @ v[part, head]
    return y, None if mean is None else mean.div_(heads)


def fold_quick_gelu(mlp: Any) -> None:
    """Make the QuickGELU of a block's MLP a SiLU, its factors in the matrices beside it.

    h sigmoid(1.702 h) is SiLU(1.702 h) / 1.702. Whoever rounds matrices does it afterwards, so that
    each is rounded once.
    """
    if len(mlp) == 3 and type(mlp[1]).__name__ == "QuickGELU":  # nothing is imported for it
        mlp[0].weight.data *= SLOPE
        mlp[0].bias.data *= SLOPE
        mlp[1] = nn.SiLU()
        mlp[2].weight.data /= SLOPE


def activate(activation: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """An MLP's activation of any (...), and its derivative there."""
    with torch.enable_grad():
        hidden = hidden.detach().requires_grad_()
        active = activation(hidden)
        (slopes,) = torch.autograd.grad(active, hidden, torch.ones_like(active))
    return active.detach(), slopes


def is_ordinary(block: Any) -> bool:
    """Whether a block is as CLIP has it: no scales of branches, no norm between its matrices."""
    return (
        isinstance(block.attn, nn.MultiheadAttention)
        and isinstance(block.ls_1, nn.Identity)
        and isinstance(block.ls_2, nn.Identity)
        and len(block.mlp) == 3
    )


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN can lay out a matrix, and this build of PyTorch has what it needs."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and all(hasattr(_OPS, name) for name in _NEEDED)
        and (weight.dtype == torch.float32 or _OPS._is_mkldnn_bf16_supported())
    )


class FrozenLinear:
    """x W^T + b of frozen tensors, without gradients: (..., in) -> (..., out).

    On a CPU the matrix lies as oneDNN wants it on this processor: no product lays it out again, and
    bias, activation and residual are added inside of it. That is a tenth faster in float32, for
    twice the memory of the matrix, and has other last bits.

    Args:
        weight: (out, in).
        bias: (out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self.weight, self.bias, self.packed = weight, bias, None
        if can_pack(weight):
            self.packed = _OPS._reorder_linear_weight(weight.contiguous())

    def __call__(self, x: Tensor, silu: bool = False) -> Tensor:
        """The product, with `silu` SiLU of it."""
        if self.packed is None:
            y = F.linear(x, self.weight, self.bias)
            return F.silu(y, inplace=True) if silu else y
        kind = "swish" if silu else "none"
        return _OPS._linear_pointwise(x, self.packed, self.bias, kind, [], "")

    def added(self, residual: Tensor, x: Tensor) -> Tensor:
        """residual (..., out) + the product of x (..., in)."""
        if self.packed is None:
            return residual + F.linear(x, self.weight, self.bias)
        return _OPS._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")


class FrozenBlock:
    """A frozen block as CLIP has it (`is_ordinary`), without gradients.

    Args:
        block: open_clip's.
    """

    def __init__(self, block: Any):
        attn, (first, activation, second) = block.attn, block.mlp
        self.ln_1, self.ln_2, self.heads = block.ln_1, block.ln_2, attn.num_heads
        self.activation = activation
        self.projected = FrozenLinear(attn.in_proj_weight, attn.in_proj_bias)
        self.joined = FrozenLinear(attn.out_proj.weight, attn.out_proj.bias)
        self.first = FrozenLinear(first.weight, first.bias)
        self.second = FrozenLinear(second.weight, second.bias)

    def qkv(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `packed_heads`."""
        q, k, v = by_heads(self.projected(a), self.heads)
        return q, k, v

    def with_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """The stream x (B, L, D) with what the heads give: (B, heads, L, d)."""
        return self.joined.added(x, y.transpose(1, 2).flatten(2))

    def rest(self, x: Tensor, y: Tensor) -> Tensor:
        """The stream after the block, of `with_attention`'s arguments."""
        x = self.with_attention(x, y)
        silu = isinstance(self.activation, nn.SiLU)
        hidden = self.first(self.ln_2(x), silu)
        return self.second.added(x, hidden if silu else self.activation(hidden))
