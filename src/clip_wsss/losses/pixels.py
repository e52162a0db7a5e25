"""What a loss gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """The pixels of a batch.

    A loss is `fn(pixels)` or `fn(pixels, settings)` and returns a scalar; where no pixel counts it
    is 0 and still in the graph, as that of `mean` is.

    Attributes:
        losses: (N, H, W) float32, cross entropy.
        label: (N, H, W) int64, 0 background.
        counts: (N, H, W) bool, whether the label is not ignored and the confidence at least mu.
        logits: (N, C, H, W) float32.
        confidence: (N, H, W) float32 in [0, 1].
    """

    losses: Tensor
    label: Tensor
    counts: Tensor
    logits: Tensor
    confidence: Tensor

    def mean(self, values: Tensor, where: Tensor) -> Tensor:
        """Mean of some values (N, H, W) where a mask (N, H, W) holds, over the batch of all ranks.

        0 where it holds nowhere.
        """
        from clip_wsss.core.ranks import of_all, with_gradient

        # `where`, not a product: an infinite loss of a pixel that does not count must not make NaN.
        own = values.where(where, values.new_zeros(())).sum()
        number = of_all(where.sum()).clamp(min=1)
        return with_gradient(of_all(own) / number, own / number)
