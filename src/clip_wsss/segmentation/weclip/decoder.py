"""WeCLIP's decoder: one MLP a block of the frozen ViT, a fusion, a small transformer."""

import torch
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn

from clip_wsss.data.vocabulary import IGNORE


@MODELS.register_module()
class WeCLIPHead(BaseModule):
    """Logits and fused features of a frozen ViT's patch tokens, block by block.

    Initialised as PyTorch does by default. The features are what the affinity is made of.

    Args:
        in_channels: width of each block's tokens.
        num_classes: with the background.
        channels: width of the decoder.
        layers: of its transformer.
        heads: of its attention.
        dropout_ratio: of whole channels of the fused features.
        loss_decode: MMEngine config of the loss on the pseudo labels, one of
            `clip_wsss.segmentation.losses`.
        sampler: MMSegmentation's; not used, since online labels have no confidences.
        ignore_index: of the labels; must be 255.
    """

    def __init__(
        self,
        in_channels: list[int],
        num_classes: int,
        channels: int = 256,
        layers: int = 3,
        heads: int = 8,
        dropout_ratio: float = 0.1,
        loss_decode: dict | None = None,
        sampler: dict | None = None,
        ignore_index: int = IGNORE,
    ):
        super().__init__()
        self.channels, self.dropout_ratio = channels, dropout_ratio
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(width, channels), nn.ReLU(), nn.Linear(channels, channels))
            for width in in_channels
        )
        self.fuse = nn.Conv2d(len(in_channels) * channels, channels, 1)
        self.blocks = nn.ModuleList(_Block(channels, heads) for _ in range(layers))
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.loss_decode = MODELS.build(loss_decode or {"type": "PixelLoss", "method": "balanced"})

    def forward(
        self, tokens: list[Tensor], grid: tuple[int, int], keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and fused features.

        Args:
            tokens: for each block (B, N, D) float32, without CLS and not normalised.
            grid: (gh, gw), N = gh * gw.
            keep: (B, channels), what the fused features are multiplied by, see `draw`; None: no
                dropout.

        Returns:
            (B, num_classes, gh, gw), and (B, channels, gh, gw) after the dropout.
        """
        joined = torch.cat([own(x) for own, x in zip(self.projections, tokens, strict=True)], -1)
        features = self.fuse(joined.transpose(1, 2).unflatten(2, grid))
        if keep is not None:
            features = features * keep[:, :, None, None]
        x = features.flatten(2).transpose(1, 2)  # (B, N, channels)
        for block in self.blocks:
            x = block(x)
        return self.classify(x.transpose(1, 2).unflatten(2, grid)), features

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Dropout of whole channels for some images: (count, channels), 0 or 1 / (1 - ratio)."""
        kept = torch.rand(count, self.channels, generator=generator) >= self.dropout_ratio
        return kept / (1 - self.dropout_ratio)


def affinity(features: Tensor) -> Tensor:
    """sigmoid(F^T F) of (B, channels, gh, gw): (B, N, N) float32, no scaling."""
    own = features.float().flatten(2)
    return (own.transpose(1, 2) @ own).sigmoid()


class _Block(nn.Module):
    """A pre-norm transformer block with QuickGELU, and neither dropout nor a final norm."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.expand, self.shrink = (
            nn.Linear(channels, 4 * channels),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        own = self.norm1(x)
        x = x + self.attention(own, own, own, need_weights=False)[0]
        own = self.expand(self.norm2(x))
        return x + self.shrink(own * torch.sigmoid(1.702 * own))
