"""One map of a tower's attention maps, and the propagation of CAMs along it.

`caa` is `propagate` along `mean_attention`. Torch is not imported here: the functions work on what
they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def sinkhorn(attention: Tensor, rounds: int) -> Tensor:
    """Symmetric affinity of attention maps (paper, equations 5 and 6; docs/parity.md, fact 10).

    Args:
        attention: (N, N), the mean map.
        rounds: of dividing by the column sums, then by the row sums.

    Returns:
        (N, N), (D + D^T) / 2. A row or column without attention, all of which goes to CLS, stays 0.
    """
    rows = attention.new_ones(len(attention))
    columns = attention.new_ones(len(attention))
    for _ in range(rounds):  # what D's rows and columns are multiplied by, not D itself
        columns = columns / _or_one((rows @ attention) * columns)
        rows = rows / _or_one((attention @ columns) * rows)
    affinity = rows[:, None] * attention
    affinity *= columns
    return (affinity + affinity.T).div_(2)


def _or_one(sums: Tensor) -> Tensor:
    """Sums, with 1 for those of nothing: 0 divided by it stays 0."""
    return sums.masked_fill(sums == 0, 1)


def mean_attention(attention: Tensor) -> Tensor:
    """The mean of (L, N, N) maps: (N, N)."""
    return attention.mean(dim=0)


def selected_attention(
    attention: Tensor, affinity: Tensor, distance: Literal["signed", "absolute"]
) -> Tensor:
    """The maps that are near a decoder's affinity A, averaged and multiplied by A.

    `signed` is WeCLIP's public code: S_l = sum(A - A_l), and S_l <= mean S keeps the blocks with
    much attention between patches, whatever A. `absolute` is the paper's S_l = sum |A - A_l| and
    S_l < mean S (docs/weclip.md); where no block is below the mean, all are kept.

    Args:
        attention: (L, N, N) float32, the maps to choose from.
        affinity: (N, N) float32 in [0, 1]; it carries no gradient on.
        distance: which S.

    Returns:
        (N, N) float32: the sum of the n maps kept, over n + 1e-5, times A.
    """
    affinity = affinity.detach()
    kept = attention[kept_layers(attention, affinity, distance)]
    return kept.sum(dim=0) / (len(kept) + 1e-5) * affinity


def kept_layers(
    attention: Tensor, affinity: Tensor, distance: Literal["signed", "absolute"]
) -> Tensor:
    """Which of the maps `selected_attention` keeps: (L,) bool, at least one."""
    apart = affinity - attention
    if distance == "signed":
        sums = apart.double().sum(dim=(1, 2))
        return sums <= sums.mean()
    sums = apart.abs().double().sum(dim=(1, 2))
    near = sums < sums.mean()
    return near if near.any() else ~near


def propagate(cam: Tensor, attention: Tensor, masks: np.ndarray, rounds: int, power: int) -> Tensor:
    """Masked CAMs spread along an attention map (CLIP-ES, equations 5 to 7).

    Args:
        cam: (K, gh, gw) float32 in [0, 1].
        attention: (N, N), one map; N = gh * gw.
        masks: (K, gh, gw) uint8, or anything else that multiplies the CAMs.
        rounds: of the normalisation, see `sinkhorn`.
        power: how often the affinity is applied.

    Returns:
        (K, gh, gw) float64 >= 0, not scaled.
    """
    # Where attention is nearly even, the map hardly differs from patch to patch, and min-max would
    # blow up what float32 rounds off.
    affinity = sinkhorn(attention.double(), rounds)
    refined = (cam * cam.new_tensor(masks)).double().flatten(1).T  # (N, K)
    for _ in range(power):  # A^t x, without the N x N x N product
        refined = affinity @ refined
    return refined.T.reshape(cam.shape)


def propagate_all(
    cams: Tensor,
    attention: Tensor,
    masks: np.ndarray,
    counts: Sequence[int],
    rounds: int,
    power: int,
) -> Tensor:
    """`propagate` of several images of one grid in few operations; only the last bits differ.

    Args:
        cams: (M, gh, gw) float32 in [0, 1], image after image.
        attention: (B, N, N), a map each.
        masks: (M, gh, gw).
        counts: how many CAMs each image has; their sum is M.
        rounds: as of `propagate`.
        power: likewise.

    Returns:
        (M, gh, gw) float64 >= 0, not scaled.
    """
    attention = attention.double()
    rows = attention.new_ones(*attention.shape[:2], 1)  # (B, N, 1), as in `sinkhorn`
    columns, turned = rows, attention.transpose(1, 2)
    for _ in range(rounds):
        columns = columns / _or_one((turned @ rows) * columns)
        rows = rows / _or_one((attention @ columns) * rows)
    image = np.repeat(np.arange(len(counts)), counts)
    own = np.concatenate([np.arange(count) for count in counts])
    x = attention.new_zeros(len(attention), attention.shape[1], max(counts))  # (B, N, K)
    x[image, :, own] = (cams * cams.new_tensor(masks)).double().flatten(1)
    for _ in range(power):  # (D + D^T) / 2 x, without D
        x = (rows * (attention @ (columns * x)) + columns * (turned @ (rows * x))) / 2
    return x[image, :, own].reshape(cams.shape)
