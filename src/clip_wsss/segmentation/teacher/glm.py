"""GLM, the global learning module: the pixels that CLS asks for make up CLIP's image feature."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor

from clip_wsss.core.ranks import gather_batch, of_all, sharing, with_gradient
from clip_wsss.labels.teacher_settings import GlmSettings
from clip_wsss.segmentation.text_head import LEAST_LENGTH


@MODELS.register_module()
class GLMHead(BaseModule):
    """An auxiliary head without parameters, whose target is the frozen CLIP's feature of the crop.

    Attributes:
        bank: (n, E) float32, earlier CLS features, the oldest first; a training that is resumed
            has those of an unbroken one, since they lie in the checkpoint.
        held: how many of the last rows of `bank` are there yet, a scalar of int64.

    Args:
        settings: see `GlmSettings`.
        width: E, of CLIP's features.
    """

    bank: Tensor
    held: Tensor

    def __init__(self, settings: GlmSettings, width: int):
        super().__init__()
        self.settings = settings
        self.register_buffer("bank", torch.zeros(settings.bank, width))
        self.register_buffer("held", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor, cls: Tensor, inside: Tensor | None = None) -> Tensor:
        """L_global of a batch, times its weight; the bank then holds the batch too.

        Args:
            features: R, (B, E, h, w), the student's pixels.
            cls: S, (B, E) float32, normalised.
            inside: (B, h, w) bool, pixels that are not padding; None: all.

        Returns:
            A scalar. Processes that share a batch have each other's CLS as negatives.
        """
        rank, ranks = sharing()
        every = gather_batch(cls).unflatten(0, (ranks, -1)).transpose(0, 1).flatten(0, 1)
        pooled = attend(
            features.float().flatten(2), cls, None if inside is None else inside.flatten(1)
        )[0]
        if self.settings.normalise:
            pooled = F.normalize(pooled, dim=1, eps=LEAST_LENGTH)
        own = torch.arange(len(cls), device=cls.device) * ranks + rank  # as sample i of rank r is
        losses = info_nce(pooled, every, own, self._earlier(), self.settings.tau)
        self._keep(every)
        count = len(every) if self.settings.reduction == "mean" else 1
        loss = losses.sum() / count
        return self.settings.weight * with_gradient(of_all(loss), loss)

    def _earlier(self) -> Tensor:
        """(held, E), a copy: the bank changes before the way back."""
        return self.bank[len(self.bank) - int(self.held) :].clone()

    def _keep(self, cls: Tensor) -> None:
        size = len(self.bank)
        self.bank.copy_(torch.cat([self.bank, cls])[len(cls) :][-size:] if size else self.bank)
        self.held.copy_((self.held + len(cls)).clamp(max=size))


def attend(features: Tensor, cls: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """S^ and W: CLS is the query, the student's pixels are keys and values.

    Args:
        features: R, (B, C, L).
        cls: S, (B, C).
        inside: (B, L) bool, pixels that may be asked for; None: all.

    Returns:
        W R^T (B, C), and W = softmax over L of S R / sqrt(C), (B, L).
    """
    asked = (cls[:, None] @ features)[:, 0] / features.shape[1] ** 0.5
    if inside is not None:
        asked = asked.masked_fill(~inside, -torch.inf)
    weights = asked.softmax(dim=1)
    return (features @ weights[..., None])[..., 0], weights


def info_nce(pooled: Tensor, cls: Tensor, own: Tensor, bank: Tensor, tau: float) -> Tensor:
    """-log of exp(s_i.s^_i / tau) over that sum with exp(s_j.s^_i / tau) of all others.

    Args:
        pooled: s^, (b, E).
        cls: s, (B, E) of the batch.
        own: (b,) int64, the row of `cls` that belongs to each of `pooled`.
        bank: (n, E), more of s; all are negatives, an earlier crop of the same image too.
        tau: temperature.

    Returns:
        (b,); 0 for one image without a bank, log(1 + exp(-1 / tau)) for each of two orthogonal
        images whose pixels are what they should be.
    """
    logits = pooled @ torch.cat([cls, bank]).T / tau
    return F.cross_entropy(logits, own, reduction="none")
