"""PLM, the pixel learning module: pixels that have no label get pseudo classes of their image."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from clip_wsss.core.errors import InputError
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.labels.teacher_settings import PlmSettings
from clip_wsss.segmentation.teacher.regions import pseudo_regions
from clip_wsss.segmentation.teacher.synthesiser import (
    Synthesiser,
    centroids_of,
    prototype_text_loss,
)
from clip_wsss.segmentation.text_head import LEAST_LENGTH


@dataclass(frozen=True)
class Filled:
    """What PLM makes of a batch.

    Attributes:
        logits: x, (B, C + P, h, w): those of the classes, then of pseudo classes.
        label: F, (B, H, W) int64, C + p for pseudo class p of the image, or 255.
        there: (B, C + P) bool: all classes, and as many pseudo classes as the image has.
        loss: L_bce times its weight, a scalar.
    """

    logits: Tensor
    label: Tensor
    there: Tensor
    loss: Tensor


@MODELS.register_module()
class PLMSampler(BaseModule):
    """Fills ignored pixels with pseudo classes, and gives these logits.

    Args:
        settings: see `PlmSettings`.
        width: E, of CLIP's features.
    """

    def __init__(self, settings: PlmSettings, width: int):
        super().__init__()
        self.settings = settings
        self.synthesiser = Synthesiser(settings, width)

    def forward(
        self,
        features: Tensor,
        logits: Tensor,
        label: Tensor,
        empty: Tensor,
        tokens: Tensor,
        inside: Tensor,
        cls: Tensor,
        texts: Tensor,
        classes: Tensor,
        scale: float | Tensor,
    ) -> Filled:
        """Steps 1 to 6 of the paper.

        Args:
            features: R, (B, E, h, w), the student's pixels.
            logits: of the classes, (B, C, h, w).
            label: (B, H, W) int64 in [0, C), or 255.
            empty: (B, H, W) bool, the pixels to be filled.
            tokens: D, (B, E, gh, gw) of the frozen CLIP.
            inside: (B, gh, gw) bool, tokens that are not padding.
            cls: S, (B, E) of the frozen CLIP.
            texts: T_s, (S, E) of the seen classes, normalised.
            classes: (S,) int64, the label of each of these.
            scale: of the cosines of pseudo classes, and of L_bce's.
        """
        settings, count = self.settings, logits.shape[1]
        with torch.no_grad():
            taking = inside
            if settings.clustered == "ignored":
                taking = inside & (F.adaptive_max_pool2d(empty.float(), inside.shape[1:]) > 0)
            regions = pseudo_regions(tokens, taking, settings)
            fused = fill(label, empty, regions, count)
        pseudo = int(regions.max()) + 1
        if count + pseudo > IGNORE:
            raise InputError(
                f"segmentation.teacher.plm: an image has {pseudo} pseudo classes, more than "
                f"labels below {IGNORE} leave room for beside {count} classes; lower fusion, or "
                "take larger windows"
            )
        there = torch.arange(pseudo, device=label.device) <= regions.flatten(1).amax(dim=1)[:, None]
        small = resized_label(fused, features.shape[2:])
        centroids, have = centroids_of(features.float(), small, count + pseudo)
        prototypes = self.synthesiser(centroids, have, cls)
        seen = prototypes[:, classes], have[:, classes]
        loss = prototype_text_loss(*seen, texts, scale, settings.bce_pairs)
        pixels = F.normalize(features.float(), dim=1, eps=LEAST_LENGTH).flatten(2)
        own = F.normalize(prototypes[:, count:], dim=2) @ pixels
        own = settings.beta * scale * own.unflatten(2, features.shape[2:])
        return Filled(
            torch.cat([settings.alpha * logits.float(), own], dim=1),
            fused,
            torch.cat([there.new_ones(len(there), count), there], dim=1),
            settings.bce_weight * loss,
        )


def fill(label: Tensor, empty: Tensor, regions: Tensor, count: int) -> Tensor:
    """F (step 3): labels where there are any, pseudo classes elsewhere.

    Args:
        label: (B, H, W) int64.
        empty: (B, H, W) bool, the pixels to be filled.
        regions: (B, gh, gw) int64, -1 for none, on a grid over the same crop.
        count: of the classes; pseudo class p becomes count + p.

    Returns:
        (B, H, W) int64; 255 for a pixel to be filled where no region is.
    """
    full = resized_label(regions, label.shape[1:])
    return torch.where(empty, torch.where(full < 0, IGNORE, count + full), label)


def resized_label(label: Tensor, size: tuple[int, ...]) -> Tensor:
    """Labels (B, H, W) at another size, taken at the centres of the new pixels."""
    small = F.interpolate(label[:, None].double(), size=tuple(size), mode="nearest-exact")[:, 0]
    return small.to(label.dtype)
