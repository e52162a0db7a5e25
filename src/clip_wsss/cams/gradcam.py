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
from clip_wsss.cams.last_block import through_last_block
from clip_wsss.models.frozen_clip import FrozenClip

# What a batch holds at once. A CPU is fastest with what stays in its cache: one photograph.
BATCH_BYTES = {"cpu": 1 << 25, "cuda": 1 << 31}
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
    """How many images of a grid fit into `BATCH_BYTES`, at least 1 and at most `wanted`.

    An image holds its attention maps, `USUAL_LAYERS` of them whatever is asked for and those of
    the last block's heads, and in a block's MLP some 16 times its tokens.
    """
    tokens, width = 1 + grid[0] * grid[1], clip.visual.positional_embedding.shape[1]
    maps = min(USUAL_LAYERS, clip.layers) + 3 + clip.heads
    held = 4 * (tokens**2 * maps + tokens * width * 16)
    return max(1, min(wanted, BATCH_BYTES[clip.device.type] // held))


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
    passed = through_last_block(clip, x, need_map)
    patches = passed.inputs[:, 1:].detach().float()
    cams = []
    with torch.enable_grad():
        pooled = passed.pooled.detach().requires_grad_()
        features = clip.project(pooled)  # (B, E)
        for texts, target in scored:
            logits = clip.logit_scale * torch.einsum("be,bte->bt", features, texts)
            own = []
            for position in range(count):
                score = target(logits, position, count).sum()
                (slope,) = torch.autograd.grad(score, pooled, retain_graph=True)
                own.append((patches @ passed.weights(slope)[..., None])[..., 0])
            cams.append(_finite(torch.stack(own, dim=1)).relu())
    return cams, passed.attention


def _finite(maps: Tensor) -> Tensor:
    """Zero where the precision at hand lost the answer (docs/parity.md, last section)."""
    return torch.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
