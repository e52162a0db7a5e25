"""Processes that train together as one process would.

Either they share the samples of each batch (sample i of rank r is number i * ranks + r), or each
has whole batches (batch j of rank r is number j * ranks + r). In the first case what a loss sums or
counts, and what dropout draws, is of the batch of all ranks.
"""

import torch
from torch import Tensor
from torch import distributed as dist

_whole_batches = False


def have_whole_batches(whole: bool) -> None:
    """Say whether each process of this training has batches of its own."""
    global _whole_batches
    _whole_batches = whole


def _ranks() -> tuple[int, int]:
    """Rank and number of all processes of this training."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def sharing() -> tuple[int, int]:
    """Rank and number of the processes that share a batch; 0 and 1 where none does."""
    return (0, 1) if _whole_batches else _ranks()


def batch_number(iteration: int) -> int:
    """The number that this rank's batch of an iteration has in a training by one process."""
    rank, ranks = _ranks()
    return iteration * ranks + rank if _whole_batches else iteration


def of_all(value: Tensor) -> Tensor:
    """A sum of the ranks that share a batch, without a gradient."""
    value = value.detach().clone()
    if sharing()[1] > 1:
        dist.all_reduce(value)
    return value


def gather_batch(own: Tensor) -> Tensor:
    """The batches of the ranks that share one, rank by rank; only the own carries a gradient."""
    rank, ranks = sharing()
    if ranks == 1:
        return own
    parts = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(parts, own.detach().contiguous())
    parts[rank] = own
    return torch.cat(parts)


def with_gradient(whole: Tensor, own: Tensor) -> Tensor:
    """The value of `whole`, with the gradient of `own` times the ranks that share a batch.

    MMEngine takes the mean of the gradients of all ranks, which then is the sum.
    """
    ranks = sharing()[1]
    return own if ranks == 1 else whole.detach() + ranks * (own - own.detach())
