"""GradCAM and its refinement for a batch of images of one grid (paper, section 3.1 and 3.3).

One forward pass of an image serves all its classes, and every cam and affinity that is wanted of
it. Only the last block is gone back through, and for each pair of texts and target only as often
as an image has classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clip_wsss.affinities.caa import min_max
from clip_wsss.models.frozen_clip import FrozenClip

MAX_BATCH_BYTES = 1 << 29  # that a batch holds at once, which bounds that of large images
# The attention maps that CLIP-ES averages. Batches are sized for them, and the last blocks attend
# head by head, whichever maps are wanted: so a variant's bytes depend on no other variant.
USUAL_LAYERS = 8

Target = Callable[[Tensor, int, int], Tensor]  # see clip_wsss.cams.passes.TARGETS
Affinity = Callable[[Tensor, Tensor, dict], Tensor]  # see clip_wsss.affinities.caa.AFFINITIES


@dataclass(frozen=True)
class WantedCam:
    """Initial maps that are wanted of a pass, and refined maps made of them.

    Attributes:
        texts: name of the texts that are scored.
        target: what is differentiated.
        affinities: output name -> affinity and its settings; it reads the last `layers` attention
            maps (all of them where the settings do not say).
    """

    texts: str
    target: Target
    affinities: Mapping[str, tuple[Affinity, dict]]


def fitting_batch(clip: FrozenClip, grid: tuple[int, int], wanted: int) -> int:
    """How many images of a grid fit into `MAX_BATCH_BYTES`, at least 1 and at most `wanted`.

    An image holds its attention maps, `USUAL_LAYERS` of them whatever is asked for, and in a
    block's MLP some 16 times its tokens.
    """
    tokens, width = 1 + grid[0] * grid[1], clip.visual.positional_embedding.shape[1]
    held = 4 * (tokens**2 * (min(USUAL_LAYERS, clip.layers) + 3) + tokens * width * 16)
    return max(1, min(wanted, MAX_BATCH_BYTES // held))


def class_maps(
    clip: FrozenClip,
    batch: Tensor,
    foreground: Mapping[str, Sequence[Tensor]],
    background: Mapping[str, Tensor],
    wanted: Mapping[str, WantedCam],
) -> list[dict[str, Tensor]]:
    """All wanted maps of all classes of some images, from one pass over the trunk.

    Args:
        clip: the model.
        batch: (B, 3, H', W') float32 from `clip.preprocess`.
        foreground: name of texts -> for each image, (K, E) features of the classes it contains,
            K >= 1 and the same for all texts.
        background: name of texts -> (M, E) features of the background words.
        wanted: output name -> cam; no two outputs, initial or refined, have the same name.

    Returns:
        For each image output name -> (K, gh, gw) float32 in [0, 1]. The bytes of an output do not
        depend on the other outputs.
    """
    grid = clip.grid(batch.shape[2:])
    layers = {
        name: min(settings.get("layers", clip.layers), clip.layers)
        for cam in wanted.values()
        for name, (_, settings) in cam.affinities.items()
    }
    most = max(layers.values(), default=0)
    x, attention = clip.trunk(batch, most, USUAL_LAYERS)
    maps: list[dict[str, Tensor]] = [{} for _ in batch]
    counts = [len(features) for features in next(iter(foreground.values()))]
    for count in sorted(set(counts)):  # images with as many classes share every backward pass
        places = [place for place, other in enumerate(counts) if other == count]
        texts = {
            name: torch.stack([torch.cat([own[p], background[name]]) for p in places]).to(x.device)
            for name, own in foreground.items()
        }
        scored = [(texts[cam.texts], cam.target) for cam in wanted.values()]
        cams, last = _gradcam(clip, x[places], count, scored, most > 0)
        if last is not None:
            attention[places, -1] = last
        for (name, cam), own in zip(wanted.items(), cams, strict=True):
            initial = min_max(min_max(own.unflatten(-1, grid)))  # twice (docs/parity.md, fact 7)
            for place, image in zip(places, initial, strict=True):
                maps[place][name] = image
                for output, (affinity, settings) in cam.affinities.items():
                    read = attention[place, most - layers[output] :]
                    refined = affinity(image, read, settings)
                    maps[place][output] = min_max(_finite(refined)).float()
    return maps


def _gradcam(
    clip: FrozenClip,
    x: Tensor,
    count: int,
    scored: Sequence[tuple[Tensor, Target]],
    need_map: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """ReLU(sum_k w_k A_k) at the output A of the last block's ln_1 (docs/parity.md, fact 7).

    Args:
        clip: the model.
        x: (B, 1 + N, D), the residual stream that enters the last block.
        count: K.
        scored: texts (B, K + M, E), the K classes of each image first, and what is differentiated.
        need_map: whether the last block's attention is wanted.

    Returns:
        For each of `scored` (B, K, N) float32, >= 0 and finite; and the attention (B, N, N).
    """
    cams = []
    with torch.enable_grad():
        a = clip.visual.transformer.resblocks[-1].ln_1(x).detach().requires_grad_()
        tokens, attention = clip.last_block(x, a, need_map)
        leaf = tokens.detach().float().requires_grad_()
        features = clip.image_features(leaf)  # (B, E)
        for texts, target in scored:
            logits = clip.logit_scale * torch.einsum("be,bte->bt", features, texts)
            own = []
            for position in range(count):
                score = target(logits, position, count).sum()
                (slope,) = torch.autograd.grad(score, leaf, retain_graph=True)
                # Half precision would lose small slopes on the way back. A power of 2 is exact.
                scale = _power_of_two(slope.abs().amax(dim=(1, 2), keepdim=True))
                (gradient,) = torch.autograd.grad(
                    tokens, a, (slope / scale).to(tokens.dtype), retain_graph=True
                )
                patches = gradient[:, 1:].float()
                weights = patches.mean(dim=1, keepdim=True) * scale  # (B, 1, D)
                own.append((a[:, 1:].detach().float() * weights).sum(dim=-1))
            cams.append(_finite(torch.stack(own, dim=1)).relu())
    return cams, attention


def _finite(maps: Tensor) -> Tensor:
    """Zero where the precision at hand lost the answer (docs/parity.md, last section)."""
    return torch.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)


def _power_of_two(size: Tensor) -> Tensor:
    """The power of 2 next above a positive number; 1 for what is 0 or not finite."""
    size = torch.where(torch.isfinite(size), size, torch.zeros_like(size))
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent)
