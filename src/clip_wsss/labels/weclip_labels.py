"""Pseudo labels made in every step from the pass of the frozen ViT that feeds the decoder.

A maker of labels (kind `labels` of `clip_wsss.core.names`) is made of the text features and its
settings; it says how many attention maps it reads (`layers`) and is called with a `Seen`. One that
can label whole images when the training is over has `final` too, as `WeCLIPLabels` has; a function
that returns such a maker says so by an attribute of that name.

A maker may learn with the decoder (`Learning`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_wsss.affinities.attention import mean_attention, propagate, selected_attention
from clip_wsss.affinities.box_rule import box_masks
from clip_wsss.cams.backward import gradcam_maps, target_of
from clip_wsss.core.maps import min_max
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.masks.refinements.par import spread
from clip_wsss.models.tower import Clip, Tower

if TYPE_CHECKING:
    from clip_wsss.labels.weclip import LabelSettings


@dataclass
class Seen:
    """A batch and what one pass of the frozen ViT has left of it.

    Attributes:
        clip: the model.
        images: (B, 3, h, w) float32, normalised.
        size: (H, W) of the labels that are wanted.
        grid: (gh, gw).
        streams: (B, 1 + N, D) after each block but the last.
        attention: (B, L, N, N) float32, the last maps; the last one's place is the last block's.
        keys: for each image, its classes, 0-based.
        affinity: (B, N, N) float32, the decoder's; it carries no gradient.
        padding: (B, H, W) bool, pixels that are not part of the image.
        update: 1, 2, ... of the training; None: it is over.
        statistics: (3, 1, 1) each, mean and deviation of RGB, 0 to 255, that `images` went through.
        numbers: of the images in the data set's list; none of images that are not of a batch.
        towers: that methods of the row name, by their entries of `models`.
        cams: (K, gh, gw) of each image, the initial CAMs, once the labels are made.
    """

    clip: Clip
    images: Tensor
    size: tuple[int, int]
    grid: tuple[int, int]
    streams: list[Tensor]
    attention: Tensor
    keys: Sequence[Sequence[int]]
    affinity: Tensor
    padding: Tensor
    update: int | None
    statistics: tuple[Tensor, Tensor] | None = None
    numbers: Sequence[int] = ()
    towers: Mapping[str, Tower] = field(default_factory=dict)
    cams: list[Tensor] = field(default_factory=list)

    def picture(self, place: int) -> np.ndarray:
        """The pixels of an image that are in the grid: (h, w, 3) uint8, RGB."""
        assert self.statistics is not None  # the segmentor has them
        mean, std = self.statistics
        height, width = (n * side for n, side in zip(self.grid, self.clip.patch, strict=True))
        pixels = (self.images[place] * std + mean)[:, :height, :width]
        return pixels.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()


class Learning(Protocol):
    """A maker that learns with the decoder, and looks at all images every now and then.

    Attributes:
        trained: its parameters and buffers, which are in the checkpoint.
        every: iterations from one look at all images to the next; the first is before update 1.
        kept: what else of the last look a resumed training needs, in the checkpoint too.
    """

    trained: nn.Module
    every: int
    kept: Tensor

    def sample(self, seen: Seen) -> Tensor:
        """What `learn` gets of each class of one whole image: (K, D) float32."""
        ...

    def learn(self, keys: Sequence[Sequence[int]], samples: Tensor) -> None:
        """Take in all images of the training: their classes, and all samples (S, D)."""
        ...

    def losses(self, seen: Seen, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """All losses of a batch whose labels were made, of those of labels and affinity."""
        ...


class WeCLIPLabels:
    """GradCAM, propagated along attention, refined by PAR, and the largest score's class.

    Args:
        settings: see `LabelSettings`.
        texts: features of the classes (C, E) and of the background words (M, E), float32.
    """

    def __init__(self, settings: LabelSettings, texts: tuple[Tensor, Tensor]):
        self.settings, (self.foreground, self.background) = settings, texts
        self.layers = max(settings.static_layers, settings.dynamic_layers)

    @torch.no_grad()
    def __call__(self, seen: Seen) -> Tensor:
        """Label maps, (B, H, W) int64: 0 background, key + 1 for a class, 255 ignored."""
        labels = []
        for keys, scores in zip(seen.keys, self.scored(seen), strict=True):
            best = scores.argmax(dim=0)
            labels.append(torch.tensor([0, *(key + 1 for key in keys)], device=best.device)[best])
        label = torch.stack(labels)
        if self.settings.padding == "ignored":
            label[seen.padding] = IGNORE
        return label

    @torch.no_grad()
    def final(self, seen: Seen) -> Tensor:
        """Scores of the one image of `seen`, (1 + K, H, W) in [0, 1]: its label is the largest's.

        PAR multiplies by 1 + `position_weight` a round, which is divided out.
        """
        (scores,), own = self.scored(seen), self.settings
        if own.refinement == "par":
            scores = scores / (1 + own.par.position_weight) ** own.par.iterations
        return scores.clamp(0, 1)

    def scored(self, seen: Seen) -> list[Tensor]:
        """The scores (1 + K, H, W) float32 of each image, after PAR."""
        seen.cams, last = self.cams(seen)
        seen.attention[:, -1] = last
        found = []
        for place, cam in enumerate(self.propagated(seen)):
            scores = self.scores(cam, seen.size)
            if self.settings.refinement == "par":
                scores = spread(scores, seen.images[place], self.settings.par)
            found.append(scores)
        return found

    def cams(self, seen: Seen) -> tuple[list[Tensor], Tensor]:
        """Initial CAMs (K, gh, gw) of each image, and the last block's maps (B, N, N).

        Gradients flow through the last block only, once a class; images with as many classes share
        every backward pass.
        """
        x = seen.streams[-1]
        cams: list[Tensor] = [x] * len(x)
        maps = torch.empty_like(seen.attention[:, -1])
        target = target_of(self.settings)
        clip, foreground, background = self.scored_by(seen)
        counts = [len(keys) for keys in seen.keys]
        for count in sorted(set(counts)):
            places = [place for place, other in enumerate(counts) if other == count]
            texts = torch.stack(
                [torch.cat([foreground[list(seen.keys[p])], background]) for p in places]
            )
            scored = [(texts.to(x.device), target)]
            (found,), own = gradcam_maps(clip, x[places], count, scored, True, seen.grid)
            assert own is not None  # it was asked for
            maps[places] = own
            found = min_max(min_max(found.unflatten(-1, seen.grid)))  # twice
            for place, cam in zip(places, found, strict=True):
                cams[place] = cam
        return cams, maps

    def scored_by(self, seen: Seen) -> tuple[Clip, Tensor, Tensor]:
        """What scores images, and its text features of all classes and of the background words."""
        return seen.clip, self.foreground, self.background

    def propagated(self, seen: Seen) -> list[Tensor]:
        """CAMs (K, gh, gw) of each image after what refines them on the grid, float64."""
        dynamic = self.settings.is_dynamic(seen.update)
        return [
            self.refined(cam, self.combined(seen, place, dynamic))
            for place, cam in enumerate(seen.cams)
        ]

    def combined(self, seen: Seen, place: int, dynamic: bool) -> Tensor:
        """The one attention map (N, N) of an image that its CAMs are propagated along."""
        maps = seen.attention[place]
        if not dynamic:
            return mean_attention(maps[-self.settings.static_layers :])
        maps = maps[-self.settings.dynamic_layers :]
        return selected_attention(maps, seen.affinity[place], self.settings.filter)

    def refined(self, cam: Tensor, attention: Tensor) -> Tensor:
        """CAMs (K, gh, gw) after the boxes and the propagation, float64, not scaled."""
        own = self.settings
        masks = box_masks(cam, own.threshold, own.box_edge)
        return propagate(cam, attention, masks, own.sinkhorn, own.power)

    def scores(self, refined: Tensor, size: tuple[int, int]) -> Tensor:
        """Refined CAMs at full size, background first: (1 + K, H, W) float32."""
        scaled = min_max(refined).float()
        full = F.interpolate(scaled[None], size, mode="bilinear", align_corners=False)[0]
        background = (1 - full.amax(dim=0, keepdim=True)) ** self.settings.background_power
        return torch.cat([background, full])
