"""Processes that train together as one process would.

Either they share the samples of each batch (sample i of rank r is number i * ranks + r), or each
has whole batches (batch j of rank r is number j * ranks + r). In the first case what a loss sums or
counts, and what dropout draws, is of the batch of all ranks.
"""

from collections.abc import Callable

import torch
from mmcv.cnn.bricks.drop import DropPath
from mmengine.dist import all_gather, all_reduce, get_dist_info
from torch import Tensor, nn

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, DropPath)
_whole_batches = False


def have_whole_batches(whole: bool) -> None:
    """Say whether each process of this training has batches of its own."""
    global _whole_batches
    _whole_batches = whole


def sharing() -> tuple[int, int]:
    """Rank and number of the processes that share a batch; 0 and 1 where none does."""
    return (0, 1) if _whole_batches else get_dist_info()


def batch_number(iteration: int) -> int:
    """The number that this rank's batch of an iteration has in a training by one process."""
    rank, ranks = get_dist_info()
    return iteration * ranks + rank if _whole_batches else iteration


def of_all(value: Tensor) -> Tensor:
    """A sum of the ranks that share a batch, without a gradient."""
    value = value.detach().clone()
    if sharing()[1] > 1:
        all_reduce(value)
    return value


def gather_batch(own: Tensor) -> Tensor:
    """The batches of the ranks that share one, rank by rank; only the own carries a gradient."""
    rank, ranks = sharing()
    if ranks == 1:
        return own
    parts = all_gather(own.detach())
    parts[rank] = own
    return torch.cat(parts)


def with_gradient(whole: Tensor, own: Tensor) -> Tensor:
    """The value of `whole`, with the gradient of `own` times the ranks that share a batch.

    MMEngine takes the mean of the gradients of all ranks, which then is the sum.
    """
    ranks = sharing()[1]
    return own if ranks == 1 else whole.detach() + ranks * (own - own.detach())


def share_dropout(model: nn.Module) -> None:
    """Let dropout draw for the samples of all ranks and take its own, as one process would draw.

    That is dropout by modules whose first axis is the sample; dropout within torch's own attention
    draws for each rank.
    """
    for module in model.modules():
        if isinstance(module, _DROPOUT):
            own = _drawn_for_all(module, module.forward)
            module.forward = own  # type: ignore[method-assign]  # of this module alone


def _drawn_for_all(module: nn.Module, own: Callable[[Tensor], Tensor]) -> Callable:
    def forward(x: Tensor) -> Tensor:
        if not module.training:
            return own(x)
        rank, ranks = sharing()
        ones = x.new_ones(len(x) * ranks, *x.shape[1:])
        return x * own(ones)[rank::ranks]

    return forward
