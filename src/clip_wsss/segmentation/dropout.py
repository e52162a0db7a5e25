"""Dropout that several processes draw as one would (see `clip_wsss.core.ranks`)."""

from collections.abc import Callable

from mmcv.cnn.bricks.drop import DropPath
from torch import Tensor, nn

from clip_wsss.core.ranks import sharing

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, DropPath)


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
