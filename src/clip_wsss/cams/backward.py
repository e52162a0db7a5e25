"""GradCAM and its refinement for a batch of images of one grid (paper, section 3.1 and 3.3).

One forward pass of an image serves all its classes, and every cam and affinity that is wanted of
it. Gradients flow through the last block only, and for each pair of texts and target only as often
as an image has classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from clip_wsss.cams.context import MapContext, finite, initial, look
from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import min_max
from clip_wsss.core.methods import in_one_line, method
from clip_wsss.models.tower import HELD, Clip, Grid, Tower

# What a batch holds at once. A CPU is fastest with what stays in its cache: one photograph.
BATCH_BYTES = {"cpu": 1 << 25, "cuda": 1 << 31}
TOGETHER = ("cuda",)  # devices where an affinity that can takes all images of a batch at once

Target = Callable[[Tensor, int, int], Tensor]
Making = Callable[[MapContext], Tensor]  # a method with its settings filled in


@dataclass(frozen=True)
class WantedCam:
    """Initial maps that are wanted of a pass, and refined maps made of them.

    Attributes:
        texts: name of the texts that are scored.
        cam: makes the maps of one image.
        target: what GradCAM differentiates; None for another cam, which is called image by image.
        affinities: output name -> affinity.
        names: what the texts call all C classes; empty if unknown.
        background_names: the background words.
        scales: of the views whose maps are averaged, see `MapContext.mean_maps`.
        flip: whether the mirror images count too.
    """

    texts: str
    cam: Making
    target: Target | None
    affinities: Mapping[str, Making]
    names: Sequence[str] = ()
    background_names: Sequence[str] = ()
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    @property
    def batched(self) -> bool:
        """Whether the maps come from the batch's own backward passes, not image by image."""
        return self.target is not None and not self.several

    @property
    def several(self) -> bool:
        """Whether other views than the image as it is are looked at."""
        return self.flip or list(self.scales) != [1.0]


@dataclass(frozen=True)
class PassImage:
    """An image of a pass: see `MapContext` for what its parts are."""

    id: str
    rgb: np.ndarray
    keys: Sequence[int]


def target_of(settings: Any) -> Target:
    """The target that settings of GradCAM name, with its own settings filled in."""
    found = method("target", settings.target)
    own = getattr(settings, found.short, None) if found.settings is not None else None
    bound = found.bound(None if own is None else own.model_dump())
    return partial(_guarded, found.name, bound) if ":" in found.name else bound


def _guarded(name: str, target: Target, logits: Tensor, position: int, count: int) -> Tensor:
    """Scores of a target of your own, or one line where GradCAM cannot differentiate them."""
    own = logits.clone()  # what the target changes of it is its own
    with in_one_line(f"{name}: target"):
        scores = target(own, position, count)
    wanted = f"must return {len(logits)} scores (B,) made of the logits"
    if not isinstance(scores, Tensor) or scores.shape != logits.shape[:1]:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"{name}: target: {wanted}; got {got}")
    if not scores.is_floating_point() or not scores.requires_grad:
        raise InputError(f"{name}: target: {wanted}, which a gradient goes through; got constants")
    (slope,) = torch.autograd.grad(scores.sum(), logits, retain_graph=True, allow_unused=True)
    if slope is None:
        raise InputError(f"{name}: target: {wanted}; they do not depend on them")
    if not (scores.isfinite().all() and slope.isfinite().all()):
        raise InputError(f"{name}: target: a score or its gradient is NaN or an infinity")
    return scores


def fitting_batch(clip: Clip, grid: tuple[int, int], wanted: int) -> int:
    """How many images of a grid fit into `BATCH_BYTES`, at least 1 and at most `wanted`.

    An image holds its attention maps, `HELD` of them whatever is asked for and those of the last
    block's heads, what enters each block, and in a block's MLP some 16 times its tokens.
    """
    return max(1, min(wanted, BATCH_BYTES[clip.device.type] // _held(clip, grid)))


def _held(clip: Clip, grid: tuple[int, int]) -> int:
    tokens, maps = clip.prefix + grid[0] * grid[1], min(HELD, clip.layers) + 3 + clip.heads
    return 4 * (tokens**2 * maps + tokens * clip.width * (16 + clip.layers))


def pass_bytes(clip: Clip, grid: tuple[int, int], affinities: bool) -> int:
    """What an image takes of memory at the most; an affinity has some attention maps in float64."""
    return _held(clip, grid) + 8 * (grid[0] * grid[1]) ** 2 * 5 * affinities


def class_maps(
    clip: Clip,
    batch: Tensor,
    images: Sequence[PassImage],
    texts: Mapping[str, tuple[Tensor, Tensor]],
    wanted: Mapping[str, WantedCam],
    towers: Mapping[str, Tower] | None = None,
) -> list[dict[str, Tensor]]:
    """All wanted maps of all classes of some images, from one pass over the trunk.

    Args:
        clip: the model.
        batch: (B, 3, H', W') float32 from `clip.preprocess`.
        images: the B images, K >= 1 classes each.
        texts: name of texts -> features of all classes (C, E) and of the background words (M, E).
        wanted: output name -> cam; no two outputs, initial or refined, have the same name.
        towers: further towers that methods ask for, by their names in `models`.

    Returns:
        For each image output name -> (K, gh, gw) float32 in [0, 1]. The bytes of an output do not
        depend on the other outputs.
    """
    held = any(cam.affinities or not cam.batched for cam in wanted.values())
    looks = look(clip, batch, HELD if held else 0)
    contexts: dict[str, list[MapContext]] = {name: [] for name in wanted}
    for name, cam in wanted.items():
        foreground, background = (part.to(clip.device) for part in texts[cam.texts])
        for image, looked in zip(images, looks, strict=True):
            own = MapContext(
                id=image.id,
                image=image.rgb,
                keys=tuple(image.keys),
                texts=foreground[list(image.keys)],
                background=background,
                looked=looked,
                towers=MappingProxyType(towers or {}),
                names=tuple(cam.names[key] for key in image.keys) if cam.names else (),
                background_names=tuple(cam.background_names),
                cam=partial(_checked, cam.cam, name=name),
            )
            contexts[name].append(own)

    maps: list[dict[str, Tensor]] = [{} for _ in images]
    scored = {name: cast("Target", cam.target) for name, cam in wanted.items() if cam.batched}
    counts = [len(image.keys) for image in images]
    for count in sorted(set(counts)) if scored else ():
        # Images with as many classes share every backward pass.
        places = [place for place, other in enumerate(counts) if other == count]
        own_maps = gradcams(
            [[contexts[name][p] for p in places] for name in scored], [*scored.values()]
        )
        for name, raw in zip(scored, own_maps, strict=True):
            for place, image in zip(places, initial(raw), strict=True):
                maps[place][name] = image
    if clip.device.type in TOGETHER:
        _refine_together(maps, contexts, wanted)
    for place, found in enumerate(maps):
        for name, cam in wanted.items():
            context = contexts[name][place]
            if cam.several:
                found[name] = initial(context.mean_maps(cam.scales, cam.flip))
            elif not cam.batched:
                found[name] = context.initial_maps()
            for output, affinity in cam.affinities.items():
                if output in found:
                    continue
                refined = _checked(affinity, replace(context, maps=found[name].clone()), output)
                found[output] = min_max(finite(refined)).float()
        looks[place].forget()
    return maps


def _refine_together(
    maps: Sequence[dict[str, Tensor]],
    contexts: Mapping[str, Sequence[MapContext]],
    wanted: Mapping[str, WantedCam],
) -> None:
    """Add the maps of affinities of the suite that have a `batch`, of cams that are there."""
    for name, cam in wanted.items():
        for output, affinity in cam.affinities.items() if cam.batched else ():
            batch = getattr(getattr(affinity, "func", None), "batch", None)
            if batch is None:
                continue
            own = [
                replace(one, maps=found[name])
                for one, found in zip(contexts[name], maps, strict=True)
            ]
            refined = min_max(finite(batch(own, **affinity.keywords))).float()  # type: ignore[attr-defined]
            parts = refined.split([len(one.keys) for one in own])
            for found, part in zip(maps, parts, strict=True):
                found[output] = part


def _checked(making: Making, context: MapContext, name: str) -> Tensor:
    """What a method makes of a context, or one line where a method of your own gives no maps."""
    parts = (context.texts, context.background)
    texts, background = (None if part is None else part.clone() for part in parts)
    image = context.image.view()
    image.flags.writeable = False  # the views of other methods are made of it
    own = replace(context, image=image, texts=texts, background=background)
    maps = making(own)  # what it changes of them, no other method sees
    wanted = (len(context.keys), *context.grid)
    if not isinstance(maps, Tensor) or tuple(maps.shape) != wanted:
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"{name}: must return a tensor {wanted} of maps; got {got}")
    return maps


def gradcams(contexts: Sequence[Sequence[MapContext]], targets: Sequence[Target]) -> list[Tensor]:
    """GradCAM of some images with as many classes, for several texts and targets.

    Args:
        contexts: for each target the B images, the same for all but for their texts.
        targets: what is differentiated.

    Returns:
        For each target (B, K, gh, gw) float32, >= 0 and finite.
    """
    first = contexts[0]
    x = torch.cat([one.looked.streams[-1] for one in first])
    scored = [
        (torch.stack([_all_texts(one) for one in own]), target)
        for own, target in zip(contexts, targets, strict=True)
    ]
    need_map = first[0].looked.holds > 0
    found, last = gradcam_maps(
        cast("Clip", first[0].tower), x, len(first[0].keys), scored, need_map, first[0].grid
    )
    if last is not None:
        for one, own in zip(first, last, strict=True):
            one.looked.complete(own)
    return [own.unflatten(-1, first[0].grid) for own in found]


def _all_texts(context: MapContext) -> Tensor:
    assert context.texts is not None  # a CLIP has them
    assert context.background is not None
    return torch.cat([context.texts, context.background])


def gradcam_maps(
    clip: Clip,
    x: Tensor,
    count: int,
    scored: Sequence[tuple[Tensor, Target]],
    need_map: bool = False,
    grid: Grid | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """ReLU(sum_k w_k A_k) at the output A of the last block's ln_1 (docs/parity.md, fact 7).

    Args:
        clip: the model.
        x: (B, P + N, D), the residual stream that enters the last block.
        count: K.
        scored: texts (B, K + M, E), the K classes of each image first, and what is differentiated.
        need_map: whether the last block's attention is wanted.
        grid: (gh, gw) of the N patches.

    Returns:
        For each of `scored` (B, K, N) float32, >= 0 and finite; and the attention (B, N, N).
    """
    passed = clip.through_last_block(x, need_map, grid)
    patches = passed.inputs[:, clip.prefix :].detach().float()
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
            cams.append(finite(torch.stack(own, dim=1)).relu())
    return cams, passed.attention
