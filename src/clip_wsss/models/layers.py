"""Attention and activations of a ViT's blocks, which the towers share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 1.702  # of QuickGELU's sigmoid
# What PyTorch's compiler uses for frozen weights; it has no public name.
_OPS = torch.ops.mkldnn

# A network, block or attention is `Any` here: torch types what a module holds as Tensor | Module.


def packed_heads(attn: Any, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of ln_1's output: (B, L, D) -> three (B, heads, L, d)."""
    packed = F.linear(a, attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = packed.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
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


def is_quick_gelu(activation: nn.Module) -> bool:
    """By its name, so that nothing is imported for it."""
    return type(activation).__name__ == "QuickGELU"


def activate(activation: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """An MLP's activation of any (...), and its derivative there."""
    with torch.enable_grad():
        hidden = hidden.detach().requires_grad_()
        quick = is_quick_gelu(activation)
        active = F.silu(SLOPE * hidden) / SLOPE if quick else activation(hidden)
        (slopes,) = torch.autograd.grad(active, hidden, torch.ones_like(active))
    return active.detach(), slopes


def run_mlp(mlp: Any, x: Tensor) -> Tensor:
    """A block's MLP: (B, L, D) -> (B, L, D).

    Where no gradient is wanted, QuickGELU h sigmoid(1.702 h) is SiLU(1.702 h) / 1.702 in place,
    with both factors in the matrix products.
    """
    if torch.is_grad_enabled() or len(mlp) != 3 or not is_quick_gelu(mlp[1]):
        return mlp(x)
    first, _, second = mlp
    rows = x.flatten(0, 1)
    hidden = torch.addmm(first.bias, rows, first.weight.T, beta=SLOPE, alpha=SLOPE)
    F.silu(hidden, inplace=True)
    return torch.addmm(second.bias, hidden, second.weight.T, alpha=1 / SLOPE).view_as(x)


def is_ordinary(block: Any) -> bool:
    """Whether a block is as CLIP has it: no scales of branches, no norm between its matrices."""
    return (
        isinstance(block.attn, nn.MultiheadAttention)
        and isinstance(block.ls_1, nn.Identity)
        and isinstance(block.ls_2, nn.Identity)
        and len(block.mlp) == 3
    )


def can_pack(block: Any) -> bool:
    """Whether `PackedBlock` knows a block, and this build of PyTorch has what it needs."""
    return (
        is_ordinary(block)
        and is_quick_gelu(block.mlp[1])
        and block.attn.in_proj_weight.device.type == "cpu"
        and block.attn.in_proj_weight.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(_OPS, "_linear_pointwise")
        and hasattr(_OPS, "_reorder_linear_weight")
    )


class PackedBlock:
    """A frozen block whose matrices lie as oneDNN wants them on this processor.

    No product lays them out again, and bias, activation and residual are added inside of it: in
    float32 a tenth faster, for twice the memory of the matrices, and with other last bits. In
    bfloat16 the MLP stays as it is, since its scaled matrices would be rounded once more.

    Args:
        block: which `can_pack`.
    """

    def __init__(self, block: Any):
        self.ln_2, self.mlp, attn = block.ln_2, block.mlp, block.attn
        self.heads, pack = attn.num_heads, _OPS._reorder_linear_weight
        self.packed = (pack(attn.in_proj_weight), attn.in_proj_bias)
        self.joined = (pack(attn.out_proj.weight), attn.out_proj.bias)
        self.first = self.second = None
        if attn.in_proj_weight.dtype == torch.float32:  # see `run_mlp`
            first, _, second = block.mlp
            self.first = (pack(SLOPE * first.weight), SLOPE * first.bias)
            self.second = (pack(second.weight / SLOPE), second.bias)

    def qkv(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `packed_heads`."""
        packed = _OPS._linear_pointwise(a, *self.packed, "none", [], "")
        q, k, v = packed.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def rest(self, x: Tensor, y: Tensor) -> Tensor:
        """The stream after the block: of (B, L, D) and what its heads give (B, heads, L, d)."""
        x = _OPS._linear_pointwise.binary(y.transpose(1, 2).flatten(2), x, *self.joined, "add")
        if self.first is None or self.second is None:
            return x + run_mlp(self.mlp, self.ln_2(x)).to(x.dtype)
        hidden = _OPS._linear_pointwise(self.ln_2(x), *self.first, "swish", [], "")
        return _OPS._linear_pointwise.binary(hidden, x, *self.second, "add")
