"""CLIPs whose vision tower is timm's: EVA02, SigLIP, SigLIP 2, PE-Core, MobileCLIP-B, Jina CLIP.

The score that GradCAM differentiates goes through the model's own pool where it pools by attention,
since the mean of its patches is not in the space of the texts; else it is that of their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from clip_wsss.models.frozen import TextEncoder
from clip_wsss.models.last_block import Recorded, record
from clip_wsss.models.timm_tower import TimmTower, _into
from clip_wsss.models.tower import MAX_PATCHES, Grid


class TimmClip(TimmTower, TextEncoder):
    """See `clip_wsss.models.tower.Clip`.

    Args:
        trunk: timm's network, whose own head is part of the projection.
        head: what follows it, open_clip's.
        embedding: E.
        logit_scale: what a cosine is multiplied by.
        encode: texts -> features, see `clip_wsss.models.frozen.TextEncoder`.
        crop: CLIP's own square crop.
        statistics: mean and deviation of the pixels.
        dtype: of the blocks; norms after them, pool and heads stay float32.
        max_patches: of an image; a larger one is scaled down.
    """

    def __init__(
        self,
        trunk: Any,
        head: nn.Module,
        embedding: int,
        logit_scale: float,
        encode: Callable[[list[str]], Tensor],
        crop: Callable[[Image.Image], Tensor],
        statistics: tuple[Sequence[float], Sequence[float]],
        dtype: torch.dtype = torch.float32,
        max_patches: int = MAX_PATCHES,
    ):
        for part in (trunk.patch_embed, trunk.norm_pre, trunk.blocks):
            part.to(dtype)
        for name in ("cls_token", "reg_token", "pos_embed"):
            if getattr(trunk, name, None) is not None:
                own = getattr(trunk, name)
                own.data = own.data.to(dtype)
        super().__init__(trunk, max_patches, statistics)
        self.head, self.embedding, self.logit_scale = head, embedding, logit_scale
        self.encode, self.crop = encode, crop

    def normed(self, x: Tensor) -> Tensor:
        """What enters the last block's attention: (B, P + N, D)."""
        return _into(self.network.blocks[-1], x)

    def last_block(self, x: Tensor, a: Tensor, grid: Grid | None = None) -> Tensor:
        """See `clip_wsss.models.tower.Clip`."""
        y = self._attend(self.layers - 1, a, grid, None)
        return self._rest(self.network.blocks[-1], x, y)

    def through_last_block(self, x: Tensor, need_map: bool, grid: Grid | None = None) -> Recorded:
        """See `clip_wsss.models.tower.Clip`."""
        return record(self, x, need_map, grid)

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, D) float32 of the last block's output (B, P + N, D) float32.

        By the model's own attention pool where it has one, else the mean over the patches.
        """
        tokens = self.network.norm(tokens)
        if self.network.attn_pool is not None:
            return self.network.pool(tokens)
        return tokens[:, self.prefix :].mean(dim=1)

    def project(self, pooled: Tensor) -> Tensor:
        """The image feature of `pooled`: (B, D) -> (B, E) float32, normalised."""
        return F.normalize(self.head(self.network.head(self.network.fc_norm(pooled))), dim=-1)

    def image_features(self, tokens: Tensor) -> Tensor:
        """(B, E) float32, normalised: the feature that GradCAM scores."""
        return self.project(self.pooled(tokens))

    @torch.no_grad()
    def patch_features(self, batch: Tensor) -> Tensor:
        """The image feature that GradCAM scores: (B, 3, H', W') -> (B, E) float32, normalised."""
        return self.image_features(self._tokens(batch))

    @torch.no_grad()
    def cls_features(self, batch: Tensor) -> Tensor:
        """CLIP's ordinary image features: (B, 3, S, S) float32 -> (B, E) float32, normalised."""
        net = self.network
        return self.project(net.pool(net.norm(self._tokens(batch))))

    @torch.no_grad()
    def block_outputs(self, batch: Tensor) -> list[Tensor]:
        """Patch tokens after each block: (B, 3, H', W') -> a (B, N, D) of `dtype` for every one."""
        streams, _ = self.passed(batch, 0, 0)
        last = self.last_block(streams[-1], self.normed(streams[-1]), self.grid(batch.shape[2:]))
        return [x[:, self.prefix :] for x in (*streams[1:], last)]

    @torch.no_grad()
    def streams(self, batch: Tensor, maps: int) -> tuple[list[Tensor], Tensor]:
        """The stream after each block but the last, and attention maps as of `passed`."""
        streams, attention = self.passed(batch, maps, maps)
        return streams[1:], attention

    def _tokens(self, batch: Tensor) -> Tensor:
        """The last block's output: (B, P + N, D) float32."""
        x, grid = self.passed(batch, 0, 0)[0][-1], self.grid(batch.shape[2:])
        return self.last_block(x, self.normed(x), grid).float()

    def _patch_features(self, patches: Tensor) -> Tensor:
        """Features of (B, N, D): each patch projected, or pooled by itself alone."""
        pool = self.network.attn_pool
        if pool is not None:
            patches = pool(patches.flatten(0, 1)[:, None]).unflatten(0, patches.shape[:2])
        return self.project(patches)
