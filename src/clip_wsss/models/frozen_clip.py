"""A frozen CLIP's image and text features, and the parts of its vision tower that CAMs need.

The tower is run in two parts. `trunk` takes the images up to the last block, without gradients
and with the attention maps that an affinity needs; `last_block` and `image_features` are the
differentiable rest, which GradCAM goes back through (docs/parity.md, facts 6, 7 and 9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from clip_wsss.models.frozen import Images, TextEncoder
from clip_wsss.models.last_block import LastBlock, record
from clip_wsss.models.layers import (
    FrozenBlock,
    attend_head_by_head,
    is_ordinary,
    mean_map,
    packed_heads,
)
from clip_wsss.models.tower import MAX_PATCHES

if TYPE_CHECKING:
    from clip_wsss.models.tower import Grid, Passed

# A network, block or attention is `Any` here: torch types what a module holds as Tensor | Module.


class FrozenClip(Images, TextEncoder):
    """A CLIP without gradients in its weights.

    Attributes:
        patch: (height, width) of a patch in pixels.
        layers: number of blocks of the vision tower.
        heads: attention heads of a block.
        width: D, of the tokens.
        prefix: 1, CLS.
        embedding: E, of the features that images and texts share.
        logit_scale: float, exp of the stored one.
        device: where the tensors live.
        dtype: of the vision tower's activations.
        max_patches: of an image; a larger one is scaled down.
        native: (gh, gw) patches of the size that it was trained on.
    """

    def __init__(
        self,
        network: Any,
        encode: Callable[[list[str]], Tensor],
        crop: Callable[[Image.Image], Tensor],
        statistics: tuple[Sequence[float], Sequence[float]],
        position: dict,
        dtype: torch.dtype,
        max_patches: int = MAX_PATCHES,
    ):
        self.network, self.visual = network, network.visual
        self.encode, self.crop = encode, crop
        self.position, self.dtype = position, dtype
        self.patch: tuple[int, int] = tuple(self.visual.patch_size)
        self.native: tuple[int, int] = tuple(self.visual.grid_size)
        self.layers = len(self.visual.transformer.resblocks)
        self.heads = self.visual.transformer.resblocks[-1].attn.num_heads
        self.width, self.embedding = self.visual.proj.shape
        self.prefix, self.max_patches = 1, max_patches
        self.device = self.visual.proj.device
        self.logit_scale = float(network.logit_scale.detach().exp())
        self.mean, self.std = (np.array(values, dtype=np.float32) for values in statistics)

    @torch.no_grad()
    def cls_features(self, batch: Tensor, seen: Tensor | None = None) -> Tensor:
        """CLIP's ordinary image features.

        Args:
            batch: (B, 3, S, S) float32 from `preprocess_ordinary`.
            seen: (B, N) bool, the patches that CLS attends to, beside itself; None: all.

        Returns:
            (B, E) float32, normalised.
        """
        x, mask = self._embed(batch.to(self.device)), None
        if seen is not None:
            mask = torch.ones(len(x), 1, x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
            mask[:, 0, 0, 1:] = seen.to(x.device)
        for block in self.visual.transformer.resblocks:
            x = self._rest(block, x, self._attend(block, block.ln_1(x), False, mask=mask)[0])
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
        return self.image_features(self.last_block(x, self.normed(x)).float())

    @torch.no_grad()
    def patches(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Patch features (B, N, E) float32, normalised, from what enters the last block."""
        return self.rebuilt_patches(x, F.scaled_dot_product_attention, residual=True, ffn=True)

    @torch.no_grad()
    def rebuilt_patches(
        self,
        x: Tensor,
        mix: Callable[[Tensor, Tensor, Tensor], Tensor],
        residual: bool,
        ffn: bool,
        grid: Grid | None = None,
    ) -> Tensor:
        """See `clip_wsss.models.tower.Tower`."""
        block = self.visual.transformer.resblocks[-1]
        heads = mix(*packed_heads(block.attn, block.ln_1(x)))
        y = block.ls_1(self._joined(block, heads)).to(x.dtype)
        x = x + y if residual else y
        tokens = (self._feed_forward(block, x) if ffn else x).float()[:, 1:]
        return F.normalize(self.visual.ln_post(tokens) @ self.visual.proj.float(), dim=-1)

    @torch.no_grad()
    def trunk(self, batch: Tensor, maps: int, by_head: int = 0) -> tuple[Tensor, Tensor]:
        """Everything before the last block (docs/parity.md, facts 3 and 9).

        Args:
            batch: (B, 3, H', W') float32.
            maps: how many attention maps, counted from the last block, are wanted in all; they do
                not change the stream.
            by_head: how many blocks, counted from the last, attend head by head, which gives
                their maps at no cost and other last bits than torch's fused attention.

        Returns:
            The residual stream (B, 1 + N, D) that enters the last block, and the head-averaged
            maps (B, min(maps, layers), N, N) float32 without the CLS row and column, not
            renormalised; the last of them is left for the last block's own.
        """
        streams, attention = self._before_last(batch, maps, by_head, last_only=True)
        return streams[-1], attention

    @torch.no_grad()
    def passed(self, batch: Tensor, held: int, by_head: int) -> tuple[list[Tensor], Tensor]:
        """See `clip_wsss.models.tower.Tower`."""
        return self._before_last(batch, held, by_head, last_only=False)

    @torch.no_grad()
    def streams(self, batch: Tensor, maps: int) -> tuple[list[Tensor], Tensor]:
        """As `trunk`, with the residual stream after each block but the last.

        Args:
            batch: (B, 3, H', W') float32; the patch convolution drops less than a patch.
            maps: see `trunk`.

        Returns:
            (B, 1 + N, D) after each block but the last, and the attention maps of `trunk`.
        """
        streams, attention = self._before_last(batch, maps, maps, last_only=False)
        return streams[1:], attention

    @cached_property
    def _ordinary(self) -> list[FrozenBlock | None]:
        """The blocks before the last one that are as CLIP has them."""
        blocks = self.visual.transformer.resblocks[:-1]
        return [FrozenBlock(block) if is_ordinary(block) else None for block in blocks]

    @cached_property
    def _last(self) -> LastBlock | None:
        """The last block, if it is as CLIP has it."""
        visual, block = self.visual, self.visual.transformer.resblocks[-1]
        if not is_ordinary(block) or visual.ln_post.weight is None:
            return None
        return LastBlock(block, None if visual.final_ln_after_pool else visual.ln_post)

    def _before_last(
        self, batch: Tensor, maps: int, by_head: int, last_only: bool
    ) -> tuple[list[Tensor], Tensor]:
        """What enters each block (or the last alone), and the maps."""
        x = self._embed(batch.to(self.device))
        count = min(maps, self.layers)
        N = x.shape[1] - 1
        # In bfloat16 a CPU's fused attention takes 1.7 times the time.
        if self.dtype == torch.bfloat16 and self.device.type == "cpu":
            by_head = self.layers
        attention = torch.empty(len(x), count, N, N, device=self.device)
        streams = [x]
        for index, block in enumerate(self.visual.transformer.resblocks[:-1]):
            slot = index - (self.layers - count)
            own, ordinary = index >= self.layers - by_head, self._ordinary[index]
            a = block.ln_1(x)
            heads = packed_heads(block.attn, a) if ordinary is None else ordinary.qkv(a)
            y, weights = self._mixed(*heads, slot >= 0, own)
            if weights is not None:
                attention[:, slot] = weights[:, 1:, 1:]
            if ordinary is None:
                x = self._rest(block, x, self._joined(block, y))
            else:
                x = ordinary.rest(x, y)
            streams = [x] if last_only else [*streams, x]
        return streams, attention

    def normed(self, x: Tensor) -> Tensor:
        """The last block's ln_1 of what enters it: (B, 1 + N, D)."""
        return self.visual.transformer.resblocks[-1].ln_1(x)

    def last_block(self, x: Tensor, a: Tensor, grid: Grid | None = None) -> Tensor:
        """The last block from its ln_1's output on.

        Args:
            x: (B, 1 + N, D), the residual stream from `trunk`.
            a: (B, 1 + N, D), `normed(x)`; gradients flow back to it.
            grid: not needed.

        Returns:
            Output tokens (B, 1 + N, D).
        """
        block = self.visual.transformer.resblocks[-1]
        return self._rest(block, x, self._attend(block, a, False)[0])

    def through_last_block(self, x: Tensor, need_map: bool, grid: Grid | None = None) -> Passed:
        """See `clip_wsss.models.tower.Clip`."""
        return record(self, x, need_map) if self._last is None else self._last(x, need_map)

    @torch.no_grad()
    def attention(
        self, block: int, x: Tensor, kind: str = "qk", grid: Grid | None = None
    ) -> Tensor:
        """See `clip_wsss.models.tower.Tower`."""
        own = self.visual.transformer.resblocks[block]
        q, k, v = packed_heads(own.attn, own.ln_1(x))
        one, other = {"qk": (q, k), "qq": (q, q), "kk": (k, k), "vv": (v, v)}[kind]
        return mean_map(one, other)[:, 1:, 1:]

    def image_features(self, tokens: Tensor) -> Tensor:
        """Mean over the patches, projected (docs/parity.md, fact 6).

        Args:
            tokens: (B, 1 + N, D) float32, the last block's output.

        Returns:
            (B, E) float32, normalised. CLS does not take part. A model that normalises after
            pooling (`final_ln_after_pool`) does so here too.
        """
        return self.project(self.pooled(tokens))

    def pooled(self, tokens: Tensor) -> Tensor:
        """Mean over the patches of (B, 1 + N, D) float32: (B, D), of what ln_post makes of them.

        A model that normalises after pooling (`final_ln_after_pool`) does so in `project`.
        """
        patches = tokens[:, 1:]
        if not self.visual.final_ln_after_pool:
            patches = self.visual.ln_post(patches)
        return patches.mean(dim=1)

    def project(self, pooled: Tensor) -> Tensor:
        """The image feature of `pooled`: (B, D) -> (B, E) float32, normalised."""
        if self.visual.final_ln_after_pool:
            pooled = self.visual.ln_post(pooled)
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
        rows, native = stored[1:], self.native
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
    def _attend(
        block: Any,
        a: Tensor,
        need_map: bool,
        by_head: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The attention branch on ln_1's output, and its map (B, L, L) averaged over the heads.

        Without maps a `mask` (B, 1, L, L) bool may say which tokens see which.
        Only `by_head` (without gradients) decides the last bits of the branch, not `need_map`.
        """
        y, maps = FrozenClip._mixed(*packed_heads(block.attn, a), need_map, by_head, mask)
        return FrozenClip._joined(block, y), maps

    @staticmethod
    def _mixed(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        need_map: bool,
        by_head: bool,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the heads make of queries, keys and values; see `_attend`."""
        maps = None
        if need_map or by_head:
            with torch.no_grad():
                y, maps = attend_head_by_head(q, k, v, need_map)
        if not by_head:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y, maps

    @staticmethod
    def _joined(block: Any, y: Tensor) -> Tensor:
        """The attention branch of what its heads give: (B, heads, L, d) -> (B, L, D)."""
        attn = block.attn
        custom = not isinstance(attn, nn.MultiheadAttention)  # open_clip's own Attention
        if custom and attn.head_scale is not None:
            y = y * attn.head_scale.to(y.dtype)
        y = y.transpose(1, 2).flatten(2)
        return block.ln_attn(attn.out_proj(attn.ln_inner(y))) if custom else attn.out_proj(y)

    @staticmethod
    def _rest(block: Any, x: Tensor, y: Tensor) -> Tensor:
        # Layer scales are float32 at every precision.
        return FrozenClip._feed_forward(block, x + block.ls_1(y).to(x.dtype))

    @staticmethod
    def _feed_forward(block: Any, x: Tensor) -> Tensor:
        return x + block.ls_2(block.mlp(block.ln_2(x))).to(x.dtype)
