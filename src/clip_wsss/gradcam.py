"""GradCAM and its refinement for a batch of images of one grid (paper, section 3.1 and 3.3).

One forward pass of an image serves all its classes. Only the last block is gone back through,
and only as often as an image has classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_wsss.affinity import min_max
from clip_wsss.frozen_clip import FrozenClip

MAX_BATCH_BYTES = 1 << 29  # that a batch holds at once, which bounds that of large images


@dataclass(frozen=True)
class Refinement:
    """An affinity with its settings; `layers` is the number of attention maps it reads."""

    affinity: Callable[[Tensor, Tensor, dict], Tensor]
    settings: dict
    layers: int


def fitting_batch(clip: FrozenClip, grid: tuple[int, int], wanted: int, layers: int) -> int:
    """How many images of a grid fit into `MAX_BATCH_BYTES`, at least 1 and at most `wanted`.

    An image holds its attention maps, and in a block's MLP some 16 times its tokens.
    """
    tokens, width = 1 + grid[0] * grid[1], clip.visual.positional_embedding.shape[1]
    held = 4 * (tokens**2 * (min(layers, clip.layers) + 3) + tokens * width * 16)
    return max(1, min(wanted, MAX_BATCH_BYTES // held))


def class_maps(
    clip: FrozenClip,
    batch: Tensor,
    foreground: Sequence[Tensor],
    background: Tensor,
    target: Callable[[Tensor, int, int], Tensor],
    refinement: Refinement | None,
) -> list[tuple[Tensor, Tensor | None]]:
    """Initial and refined maps of all classes of some images.

    Args:
        clip: the model.
        batch: (B, 3, H', W') float32 from `clip.preprocess`.
        foreground: for each image, (K, E) features of the classes it contains, K >= 1.
        background: (M, E) features of the background words.
        target: what is differentiated, see `clip_wsss.cam.TARGETS`.
        refinement: of the maps on the grid; None leaves them out.

    Returns:
        For each image (K, gh, gw) float32 in [0, 1] twice, the second None without refinement.
    """
    grid = clip.grid(batch.shape[2:])
    x, attention = clip.trunk(batch, refinement.layers if refinement else 0)
    maps: list = [None] * len(batch)
    counts = [len(features) for features in foreground]
    for count in sorted(set(counts)):  # images with as many classes share every backward pass
        places = [place for place, other in enumerate(counts) if other == count]
        texts = torch.stack([torch.cat([foreground[p], background]) for p in places])
        cams, last = _gradcam(
            clip, x[places], texts.to(x.device), count, target, refinement is not None
        )
        cams = min_max(min_max(cams.unflatten(-1, grid)))  # twice (docs/parity.md, fact 7)
        for place, cam, own in zip(places, cams, last or [None] * len(places), strict=True):
            maps[place] = (cam, None)
            if refinement is not None:
                attention[place, -1] = own
                refined = refinement.affinity(cam, attention[place], refinement.settings)
                maps[place] = (cam, min_max(_finite(refined)).float())
    return maps


def _gradcam(
    clip: FrozenClip,
    x: Tensor,
    texts: Tensor,
    count: int,
    target: Callable[[Tensor, int, int], Tensor],
    need_map: bool,
) -> tuple[Tensor, list[Tensor] | None]:
    """ReLU(sum_k w_k A_k) at the output A of the last block's ln_1 (docs/parity.md, fact 7).

    Args:
        clip: the model.
        x: (B, 1 + N, D), the residual stream that enters the last block.
        texts: (B, K + M, E), the K classes of each image first.
        count: K.
        target: what is differentiated.
        need_map: whether the last block's attention is wanted.

    Returns:
        (B, K, N) float32, >= 0 and finite, and the attention (N, N) of each image.
    """
    with torch.enable_grad():
        a = clip.visual.transformer.resblocks[-1].ln_1(x).detach().requires_grad_()
        tokens, attention = clip.last_block(x, a, need_map)
        leaf = tokens.detach().float().requires_grad_()
        features = clip.image_features(leaf)  # (B, E)
        logits = clip.logit_scale * torch.einsum("be,bte->bt", features, texts)
        cams = []
        for position in range(count):
            more = position < count - 1
            score = target(logits, position, count).sum()
            (slope,) = torch.autograd.grad(score, leaf, retain_graph=more)
            # Half precision would lose small slopes on the way back. A power of 2 costs nothing.
            scale = _power_of_two(slope.abs().amax(dim=(1, 2), keepdim=True))
            (gradient,) = torch.autograd.grad(
                tokens, a, (slope / scale).to(tokens.dtype), retain_graph=more
            )
            patches = gradient[:, 1:].float()
            weights = patches.mean(dim=1, keepdim=True) * scale  # (B, 1, D)
            cams.append((a[:, 1:].detach().float() * weights).sum(dim=-1))
    return _finite(torch.stack(cams, dim=1)).relu(), None if attention is None else list(attention)


def _finite(maps: Tensor) -> Tensor:
    """Zero where the precision at hand lost the answer (docs/parity.md, last section)."""
    return torch.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)


def _power_of_two(size: Tensor) -> Tensor:
    """The power of 2 next above a positive number; 1 for what is 0 or not finite."""
    size = torch.where(torch.isfinite(size), size, torch.zeros_like(size))
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent)
