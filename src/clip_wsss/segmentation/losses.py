"""Losses on pseudo masks, and how a confidence reaches them through MMSegmentation.

A decode head hands a loss only logits, label, weight and ignore index, and its transforms know
only a label map. So label and confidence travel as the two parts of one integer map: whatever
resizes, crops, flips or pads the labels does the same to the confidences. `ConfidenceSampler`,
in the place of a head's pixel sampler, takes the map apart again: the confidence becomes the
weight. A new loss is a subclass of `PixelLoss` in the registry LOSSES.
"""

from abc import abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS, TASK_UTILS
from mmseg.structures.sampler import BasePixelSampler
from torch import Tensor, nn

from clip_wsss.core.confidence import EDGES, check_mu
from clip_wsss.core.errors import InputError
from clip_wsss.core.registry import unknown
from clip_wsss.segmentation.ranks import of_all, with_gradient

IGNORE = 255

LOSSES: dict[str, type["PixelLoss"]] = {}  # name in the config -> class


def pack(label: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Join labels and confidences into one map.

    Args:
        label: (H, W) uint8.
        codes: (H, W) uint8, of the confidences (`clip_wsss.core.confidence`).

    Returns:
        (H, W) int32 below 2^16, so that float32 holds it exactly as well. A padding of 255 reads
        as label 255, confidence 0.
    """
    return label.astype(np.int32) | codes.astype(np.int32) << 8


@TASK_UTILS.register_module()
class ConfidenceSampler(BasePixelSampler):
    """Gives a head's losses the confidences as their weight, and leaves the head the labels."""

    def __init__(self, context: nn.Module | None = None):
        super().__init__()

    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        """Take a packed map apart.

        Args:
            seg_logit: not looked at.
            seg_label: (N, 1, H, W) int64 from `pack`; becomes the labels IN PLACE, because the
                head goes on with this very tensor.

        Returns:
            (N, H, W) float32 confidences in [0, 1], each the edge of its code.
        """
        edges = torch.tensor(EDGES, device=seg_label.device)
        confidence = edges[(seg_label >> 8).squeeze(1)]
        seg_label &= 0xFF
        return confidence


class PixelLoss(nn.Module):
    """Cross entropy of the pixels whose confidence is at least mu, averaged by a subclass.

    Args:
        mu: threshold on the confidence, an edge of its codes.
        loss_weight: factor, as in MMSegmentation.
        loss_name: key in the log; it must begin with `loss_` to be minimised.
    """

    def __init__(self, mu: float = 0.0, loss_weight: float = 1.0, loss_name: str = "loss_seg"):
        super().__init__()
        check_mu(mu, "segmentation.mu")
        mu = float(np.float32(mu))  # the edge itself: both sides of >= are then exact
        self.mu, self.loss_weight, self.loss_name = mu, loss_weight, loss_name
        self.pixels: Tensor | int = 0  # of this rank that counted, since `LogHook` looked

    @abstractmethod
    def average(self, losses: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        """Average the losses of the pixels that count; 0, still in the graph, if none does.

        Args:
            losses: (N, H, W) float32 cross entropy.
            label: (N, H, W) int64.
            counts: (N, H, W) bool, never true where the label is ignored.
        """

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = IGNORE,
        **_,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            cls_score: logits, (N, C, H, W).
            label: (N, H, W) int64 in [0, C) or ignore_index.
            weight: confidences, (N, H, W) in [0, 1]; None: all of them 1.
            ignore_index: the label of pixels that never count.

        Returns:
            A scalar.
        """
        losses = F.cross_entropy(cls_score, label, reduction="none", ignore_index=ignore_index)
        counts = label != ignore_index
        if weight is not None:
            counts &= weight >= self.mu
        return self.mean(losses, label, counts)

    def mean(self, losses: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        """The average as it is minimised; `pixels` goes up by those that count."""
        self.pixels = self.pixels + counts.sum()
        return self.loss_weight * self.average(losses, label, counts)


def _register(name: str):
    def add(loss: type[PixelLoss]) -> type[PixelLoss]:
        LOSSES[name] = MODELS.register_module()(loss)
        return loss

    return add


def _mean(losses: Tensor, counts: Tensor) -> Tensor:
    """The mean of the losses that count, over the batch of all ranks."""
    # `where`, not a product: an infinite loss of a pixel that does not count must not make NaN.
    own = torch.where(counts, losses, 0).sum()
    number = of_all(counts.sum()).clamp(min=1)
    return with_gradient(of_all(own) / number, own / number)


@_register("confidence-guided")
class ConfidenceGuidedLoss(PixelLoss):
    """The paper's confidence-guided loss: the mean over the pixels that count."""

    def average(self, losses: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        """See PixelLoss."""
        return _mean(losses, counts)


@_register("cross-entropy")
class AllPixelsLoss(PixelLoss):
    """The mean over all labelled pixels, whatever their confidence: mu must be 0."""

    def __init__(self, mu: float = 0.0, **kwargs):
        super().__init__(mu, **kwargs)
        if mu != 0:
            raise InputError(
                f"segmentation.mu: {mu} does nothing with loss: cross-entropy, which counts all "
                "pixels; set mu to 0, or loss to confidence-guided"
            )

    def average(self, losses: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        """See PixelLoss."""
        return _mean(losses, counts)


@_register("balanced")
class BalancedLoss(PixelLoss):
    """Half the mean over foreground pixels and half the mean over background pixels that count.

    Some trainings from ImageNet weights became NaN with the plain mean.
    """

    def average(self, losses: Tensor, label: Tensor, counts: Tensor) -> Tensor:
        """See PixelLoss."""
        foreground = label > 0
        return (_mean(losses, counts & foreground) + _mean(losses, counts & ~foreground)) / 2


def loss_config(name: str, mu: float, loss_weight: float = 1.0) -> dict:
    """What MMSegmentation builds the loss of a run from.

    Raises:
        InputError: an unknown loss, or a mu that is not an edge of the codes, or without effect.
    """
    if name not in LOSSES:
        raise InputError(f"segmentation.loss: {unknown('loss', name, LOSSES)}")
    LOSSES[name](mu=mu)  # says now what is wrong with mu
    return {"type": LOSSES[name].__name__, "mu": mu, "loss_weight": loss_weight}
