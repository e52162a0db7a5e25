"""What the suite asks of a frozen tower, whichever library its network is from.

A `Tower` sees images: it gives attention and patch features. A `Clip` has texts as well, and the
differentiable end that GradCAM goes back through. `clip_wsss.models.frozen_clip`
(open_clip) and `clip_wsss.models.timm_tower` are those that there are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from clip_wsss.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import torch
    from torch import Tensor


# The attention maps that CLIP-ES averages. They come with the pass, whichever are wanted; others
# are made of the blocks' inputs. So a variant's bytes depend on no other variant.
HELD = 8
MAX_PATCHES = 8192  # of an image: 2048 x 1024 pixels of a patch of 16


def capped(grid: tuple[int, int], most: int) -> tuple[int, int]:
    """A grid of at most `most` patches, with about the shape of the one that is given."""
    gh, gw = grid
    if gh * gw <= most:
        return grid
    scale = math.sqrt(most / (gh * gw))
    gh = min(most, max(1, int(gh * scale)))
    return gh, min(max(1, int(gw * scale)), most // gh)


def check_layers(layers: int, own: int) -> None:
    """Refuse an average over more of the last blocks than a tower has, or over none.

    Up to `HELD` may be asked for, and are all where it has fewer.

    Raises:
        InputError: one line that names `layers`.
    """
    if not isinstance(layers, int) or layers < 1:
        raise InputError(f"attention: layers must be an integer of at least 1; got {layers}")
    if layers > max(HELD, own):
        raise InputError(
            f"attention of {layers} blocks is asked for, and the tower has {own}; set layers to "
            f"{own} or fewer"
        )


def check_block(block: int, own: int) -> None:
    """Refuse a block that a tower of so many does not have: 0 the first, -1 the last."""
    if not isinstance(block, int) or not -own <= block < own:
        raise InputError(
            f"attention: block {block} must be from {-own}, the first, to {own - 1}, the last"
        )


Grid = tuple[int, int]  # (gh, gw) patches


class Tower(Protocol):
    """A frozen ViT.

    What takes x, tokens on their way through the blocks, takes their grid as well: rotary positions
    are not in the tokens. A tower without them does not look at it.

    Attributes:
        patch: (height, width) of a patch in pixels.
        layers: number of blocks.
        heads: attention heads of a block.
        width: D, of the tokens.
        prefix: P, tokens before the patches: CLS, and registers.
        mean: (3,) float32, of the pixels in [0, 1] that it was trained on.
        std: (3,) float32, their deviation.
        max_patches: of an image; a larger one is scaled down.
        device: where the tensors live.
        dtype: of the activations.
    """

    patch: tuple[int, int]
    layers: int
    heads: int
    width: int
    prefix: int
    mean: np.ndarray
    std: np.ndarray
    max_patches: int
    device: torch.device
    dtype: torch.dtype

    def grid(self, size: Sequence[float]) -> tuple[int, int]:
        """Patches (gh, gw) of an image of size (H, W): each side rounded up by itself."""
        ...

    def fitted(self, size: Sequence[float]) -> tuple[int, int]:
        """Patches of an image as it is seen: `grid`, at most `max_patches` of them."""
        ...

    def preprocess(self, rgb: np.ndarray, scale: float = 1.0) -> Tensor:
        """(H, W, 3) uint8 -> (3, H', W') float32 on the CPU, `fitted`, normalised."""
        ...

    def passed(self, batch: Tensor, held: int, by_head: int) -> tuple[list[Tensor], Tensor]:
        """One pass up to the last block.

        Args:
            batch: (B, 3, H', W') float32.
            held: how many attention maps are kept, counted from the last block.
            by_head: how many blocks attend head by head; it decides the last bits, `held` does not.

        Returns:
            What enters each block, (B, P + N, D) each; and the maps (B, min(held, layers), N, N)
            float32, whose last place is left for the last block's own.
        """
        ...

    def attention(self, block: int, x: Tensor, kind: str, grid: Grid | None = None) -> Tensor:
        """A map of a block, averaged over its heads.

        Args:
            block: counted from the end, -1 the last.
            x: (B, P + N, D), what enters it.
            kind: qk, qq, kk or vv.
            grid: (gh, gw) of the N patches.

        Returns:
            (B, N, N) float32, without the prefix tokens, not normalised again.
        """
        ...

    def patches(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """Patch features (B, N, E) float32, normalised, from what enters the last block."""
        ...

    def rebuilt_patches(
        self,
        x: Tensor,
        mix: Callable[[Tensor, Tensor, Tensor], Tensor],
        residual: bool,
        ffn: bool,
        grid: Grid | None = None,
    ) -> Tensor:
        """Patch features as of `patches`, of a last block whose attention is another.

        Args:
            x: (B, P + N, D), what enters the last block.
            mix: queries, keys and values (B, heads, P + N, d), as the block attends with them, ->
                what its heads give, of the same shape.
            residual: whether x is added to the attention's output.
            ffn: whether the MLP follows, with its own residual.
            grid: (gh, gw) of the N patches.
        """
        ...


class Passed(Protocol):
    """The last block's pass, ready for the way back that GradCAM needs."""

    @property
    def inputs(self) -> Tensor:
        """(B, P + N, D), ln_1's output."""
        ...

    @property
    def pooled(self) -> Tensor:
        """(B, D) float32, what `Clip.project` takes."""
        ...

    @property
    def attention(self) -> Tensor | None:
        """(B, N, N) float32 as of `Tower.attention`, or None."""
        ...

    def weights(self, slope: Tensor) -> Tensor:
        """Mean over the patches of the gradient at ln_1's output: (B, D) float32.

        Args:
            slope: (B, D) float32, the gradient at `pooled`.
        """
        ...


class Clip(Tower, Protocol):
    """A tower with texts.

    Attributes:
        embedding: E, width of the features that images and texts share.
        logit_scale: what a cosine is multiplied by.
    """

    embedding: int
    logit_scale: float

    def project(self, pooled: Tensor) -> Tensor:
        """(B, D) float32, what `pooled` gives -> (B, E) float32, normalised; differentiable."""
        ...

    def through_last_block(self, x: Tensor, need_map: bool, grid: Grid | None = None) -> Passed:
        """Run the last block, so that one can go back through it.

        Args:
            x: (B, P + N, D), the residual stream that enters it.
            need_map: whether its attention map is wanted; it changes nothing else.
            grid: (gh, gw) of the N patches.
        """
        ...

    def normed(self, x: Tensor) -> Tensor:
        """(B, P + N, D): what enters the last block after its first LayerNorm."""
        ...

    def last_block(self, x: Tensor, a: Tensor, grid: Grid | None = None) -> Tensor:
        """Tokens (B, P + N, D) after the last block, differentiable in `a` = `normed(x)`."""
        ...

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, D) float32 of the last block's output (B, P + N, D) float32, for `project`."""
        ...

    def image_features(self, tokens: Tensor) -> Tensor:
        """(B, E) float32, normalised: the feature that GradCAM scores."""
        ...

    def encode_texts(self, texts: list[list[str]]) -> Tensor:
        """(n, E) float32 on the CPU: the mean over the sentences of each of n items."""
        ...
