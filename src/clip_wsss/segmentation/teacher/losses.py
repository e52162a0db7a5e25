"""L_nel, ZegCLIP's loss of classes that do not exclude each other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_wsss.core.ranks import of_all, with_gradient
from clip_wsss.labels.teacher_settings import NonExclusiveSettings


def non_exclusive_loss(
    logits: Tensor, label: Tensor, there: Tensor, settings: NonExclusiveSettings
) -> Tensor:
    """Sigmoid focal and dice loss, both divided by the masks that the batch of all ranks has.

    The focal loss is the mean over an image's pixels, summed over all classes, absent ones too;
    the dice loss is of the classes that an image has (ZegCLIP's code, `SegPlusCriterion`).

    Args:
        logits: x, (B, C, H, W).
        label: F, (B, H, W) int64; what is not in [0, C) is ignored.
        there: (B, C) bool, the logits that an image has at all: pseudo classes are as many as the
            image with most of them has. The others do not count.
        settings: weights and the focal loss's own.

    Returns:
        A scalar, times the settings' weight.
    """
    logits, count = logits.float().flatten(2), logits.shape[1]
    known = (label >= 0) & (label < count)  # (B, H, W)
    classes = torch.arange(count, device=label.device)[:, None]
    target = (label.flatten(1)[:, None] == classes).to(logits)  # (B, C, L)
    present = target.any(dim=2)
    masks = of_all(present.sum()).clamp(min=1)
    part = settings.focal_weight * _focal(logits, target, known.flatten(1), there, settings)
    loss = settings.weight * (part + settings.dice_weight * _dice(logits, target, present))
    return with_gradient(of_all(loss) / masks, loss / masks)


def _focal(
    logits: Tensor, target: Tensor, known: Tensor, there: Tensor, settings: NonExclusiveSettings
) -> Tensor:
    """The sum over classes and images of the focal loss's mean over the pixels."""
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    losses = losses * (logits.sigmoid() - target).abs() ** settings.gamma
    if settings.balance is not None:
        losses = losses * torch.where(target > 0, settings.balance, 1 - settings.balance)
    losses = losses.where(there[..., None], 0)
    if settings.ignored == "negative":
        return losses.mean(dim=2).sum()
    sizes = known.sum(dim=1)[:, None].clamp(min=1)
    return (losses.where(known[:, None], 0).sum(dim=2) / sizes).sum()


def _dice(logits: Tensor, target: Tensor, present: Tensor) -> Tensor:
    """The sum of 1 - (2 |x y| + 1) / (|x| + |y| + 1) over the classes that the images have."""
    probability = logits.sigmoid()
    both = 2 * (probability * target).sum(dim=2) + 1
    ratio = both / (probability.sum(dim=2) + target.sum(dim=2) + 1)
    return (1 - ratio).where(present, 0).sum()
