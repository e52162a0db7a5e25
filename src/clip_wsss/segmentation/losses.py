"""Losses on pseudo masks, and how a confidence reaches them through MMSegmentation.

A decode head hands a loss only logits, label, weight and ignore index, and its transforms know
only a label map. So label and confidence travel as the two parts of one integer map: whatever
resizes, crops, flips or pads the labels does the same to the confidences. `ConfidenceSampler`,
in the place of a head's pixel sampler, takes the map apart again: the confidence becomes the
weight. The losses themselves are methods (`clip_wsss.losses`).
"""

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.registry import MODELS, TASK_UTILS
from mmseg.structures.sampler import BasePixelSampler
from torch import Tensor, nn

from clip_wsss.core import methods
from clip_wsss.core.confidence import EDGES, check_mu
from clip_wsss.core.errors import InputError
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.losses.pixels import Pixels


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


@MODELS.register_module()
class PixelLoss(nn.Module):
    """A loss of `clip_wsss.losses`, or of your own, as MMSegmentation's heads call it.

    Args:
        method: the loss's name in the config.
        settings: of the method.
        mu: threshold on the confidence, an edge of its codes.
        loss_weight: factor, as in MMSegmentation.
        loss_name: key in the log; it must begin with `loss_` to be minimised.
    """

    def __init__(
        self,
        method: str,
        settings: dict | None = None,
        mu: float = 0.0,
        loss_weight: float = 1.0,
        loss_name: str = "loss_seg",
    ):
        super().__init__()
        check_mu(mu, "segmentation.mu")
        if method == "cross-entropy" and mu != 0:
            raise InputError(
                f"segmentation.mu: {mu} does nothing with loss: cross-entropy, which counts all "
                "pixels; set mu to 0, or loss to confidence-guided"
            )
        mu = float(np.float32(mu))  # the edge itself: both sides of >= are then exact
        self.mu, self.loss_weight, self.loss_name = mu, loss_weight, loss_name
        self._name, self._loss = method, methods.method("loss", method).bound(settings)
        self.pixels: Tensor | int = 0  # of this rank that counted, since `LogHook` looked
        self.all = 0  # of this rank

    def of(self, pixels: Pixels) -> Tensor:
        """The loss of a batch; the module's `pixels` go up by those that count, `all` by all.

        Raises:
            InputError: what goes wrong in the loss, or that it gives no scalar with a gradient.
        """
        self.pixels = self.pixels + pixels.counts.sum()
        self.all += pixels.counts.numel()
        with methods.in_one_line(f"{self._name}: loss"):
            loss = self._loss(pixels)
        # MMEngine would average any other shape over pixels that do not count, too.
        is_scalar = isinstance(loss, Tensor) and loss.ndim == 0 and loss.is_floating_point()
        if not is_scalar or (pixels.losses.requires_grad and not loss.requires_grad):
            got = type(loss).__name__
            if isinstance(loss, Tensor):
                got = f"{tuple(loss.shape)} {loss.dtype}, gradient {loss.requires_grad}"
            raise InputError(
                f"{self._name}: loss: must return a tensor () of floats with a gradient, such as "
                f"pixels.mean of losses; got {got}"
            )
        return self.loss_weight * loss

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
        weight = torch.ones_like(losses) if weight is None else weight
        counts = (label != ignore_index) & (weight >= self.mu)
        return self.of(Pixels(losses, label, counts, cls_score, weight))


def loss_config(
    name: str, mu: float, loss_weight: float = 1.0, settings: dict | None = None
) -> dict:
    """What MMSegmentation builds the loss of a run from.

    Raises:
        InputError: an unknown loss, or a mu that is not an edge of the codes, or without effect.
    """
    PixelLoss(name, settings, mu)  # says now what is wrong
    return {
        "type": "PixelLoss",
        "method": name,
        "settings": settings,
        "mu": mu,
        "loss_weight": loss_weight,
    }
