"""PLM's synthesiser (steps 4 and 5 of the paper): prototypes of classes and pseudo classes."""

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from clip_wsss.core.errors import InputError
from clip_wsss.core.ranks import of_all, with_gradient
from clip_wsss.labels.teacher_settings import PlmSettings


class Synthesiser(BaseModule):
    """A transformer decoder that asks CLS with the centroids of labels; without dropout.

    Args:
        settings: depth, heads and ffn count.
        width: E.

    Raises:
        InputError: heads do not divide the width.
    """

    def __init__(self, settings: PlmSettings, width: int):
        super().__init__()
        if width % settings.heads:
            raise InputError(
                f"segmentation.teacher.plm.heads: must divide {width}, the width of CLIP's "
                f"features; got {settings.heads}"
            )
        layer = nn.TransformerDecoderLayer(
            width, settings.heads, settings.ffn * width, dropout=0.0, batch_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, settings.depth)

    def forward(self, centroids: Tensor, there: Tensor, cls: Tensor) -> Tensor:
        """Prototypes (B, M, E).

        Args:
            centroids: (B, M, E), of the labels of each image.
            there: (B, M) bool; a label that is not there is not seen by the others, and its
                prototype means nothing.
            cls: (B, E) of the frozen CLIP.
        """
        hidden = ~there & there.any(dim=1, keepdim=True)  # attention to nothing at all is NaN
        return self.decoder(centroids, cls[:, None], tgt_key_padding_mask=hidden)


def centroids_of(features: Tensor, label: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """p_l, the mean of the features of each label.

    Args:
        features: R, (B, E, h, w).
        label: (B, h, w) int64; what is not in [0, count) belongs to none.
        count: of labels, M.

    Returns:
        (B, M, E), 0 for a label without a pixel, and (B, M) bool, whether it has one.
    """
    values = torch.arange(count, device=label.device)[:, None]
    member = label.flatten(1)[:, None] == values  # (B, M, h * w)
    sizes = member.sum(dim=2)  # (B, M)
    sums = member.to(features) @ features.flatten(2).transpose(1, 2)
    return sums / sizes.clamp(min=1)[..., None], sizes > 0


def prototype_text_loss(
    prototypes: Tensor, there: Tensor, texts: Tensor, scale: float | Tensor, pairs: str
) -> Tensor:
    """L_bce: sigmoid cross entropy of scale x cosine of prototypes and texts.

    Args:
        prototypes: P_seen, (B, S, E), of the classes in the order of the texts.
        there: (B, S) bool, classes that the images have; the others do not count.
        texts: T_s, (S, E), normalised.
        scale: of the cosines.
        pairs: all: a class is compared with all texts; positives: with its own alone, as printed.

    Returns:
        A scalar, the mean over the pairs of the batch of all ranks; 0 without one.
    """
    logits = scale * F.normalize(prototypes, dim=2) @ texts.T  # (B, S, S)
    own = torch.eye(len(texts), dtype=torch.bool, device=texts.device)
    counted = there[..., None] & (own if pairs == "positives" else torch.ones_like(own))
    target = own.expand_as(logits).to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = losses.where(counted, 0).sum()
    count = of_all(counted.sum()).clamp(min=1)
    return with_gradient(of_all(loss) / count, loss / count)
