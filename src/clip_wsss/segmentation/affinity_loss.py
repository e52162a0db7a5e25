"""The affinity loss of single-stage systems, and their pixel loss, over the batch of all ranks."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_wsss.core.ranks import gather_batch, with_gradient
from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.losses.pixels import Pixels
from clip_wsss.segmentation.losses import PixelLoss


def pixel_loss(loss: PixelLoss, logits: Tensor, label: Tensor) -> Tensor:
    """A loss of the pixels of all ranks, each with full confidence.

    Args:
        loss: how it averages.
        logits: (B, C, H, W) of this rank.
        label: (B, H, W) int64, 255 ignored.
    """
    losses = F.cross_entropy(logits.float(), label, reduction="none", ignore_index=IGNORE)
    counts = label != IGNORE
    return loss.of(Pixels(losses, label, counts, logits, torch.ones_like(losses)))


def radius_mask(grid: tuple[int, int], radius: int) -> Tensor:
    """Pairs of patches at most `radius` rows and columns apart: (N, N) bool, N = gh * gw."""
    near = [(torch.arange(n)[:, None] - torch.arange(n)).abs() <= radius for n in grid]
    return torch.kron(near[0].byte(), near[1].byte()).bool()


def affinity_label(label: Tensor, grid: tuple[int, int], radius: int) -> Tensor:
    """Whether two patches have the same label, background pairs included.

    Args:
        label: (B, H, W) int64, 255 ignored.
        grid: (gh, gw), to which the labels are brought by the nearest pixel (the first of each).
        radius: pairs further apart are ignored.

    Returns:
        (B, N, N) uint8: 1 same, 0 other, 255 ignored.
    """
    small = F.interpolate(label[:, None].float(), grid, mode="nearest").flatten(1)  # (B, N)
    same = (small[:, :, None] == small[:, None, :]).byte()
    known = small != IGNORE
    counts = known[:, :, None] & known[:, None, :] & radius_mask(grid, radius).to(label.device)
    return same.masked_fill(~counts, IGNORE)


def affinity_loss(affinity: Tensor, label: Tensor) -> Tensor:
    """sum over same pairs of (1 - A) / 2 (n1 + 1), plus sum over others of A / 2 (n0 + 1).

    The sums run over the batches of all ranks, the diagonal included. A batch without pairs of
    one kind leaves that part 0.

    Args:
        affinity: (B, N, N) float32 in [0, 1].
        label: (B, N, N) from `affinity_label`.
    """
    affinity, label = gather_batch(affinity.float()), gather_batch(label)
    same, other = label == 1, label == 0
    value = torch.where(same, 1 - affinity, 0).sum() / (same.sum() + 1)
    value = value + torch.where(other, affinity, 0).sum() / (other.sum() + 1)
    return with_gradient(value / 2, value / 2)
