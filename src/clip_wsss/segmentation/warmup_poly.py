"""The schedule of WeCLIP's public code."""

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupPolyLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up from `ratio` of the rate, then polynomial decay that has run since the start.

    The factor of update i of n, from 0, is 1 - (1 - i / warmup) (1 - ratio) below `warmup`, and
    (1 - i / n)^power from then on.

    Args:
        optimizer: what is scheduled.
        end: iterations of the run, n * accumulate.
        warmup: updates of the warm-up.
        ratio: share of the rate in update 0.
        power: of the polynomial.
        accumulate: iterations an update takes.
        **kwargs: of MMEngine's schedulers.
    """

    def __init__(
        self,
        optimizer,
        *,
        end: int,
        warmup: int = 50,
        ratio: float = 1e-6,
        power: float = 1.0,
        accumulate: int = 1,
        **kwargs,
    ):
        self.warmup, self.ratio, self.power = warmup, ratio, power
        self.accumulate, self.updates = accumulate, max(1, end // accumulate)
        super().__init__(optimizer, end=end, by_epoch=False, **kwargs)

    def factor(self, update: int) -> float:
        """What the base rate is multiplied by in an update, counted from 0."""
        if update < self.warmup:
            return 1 - (1 - update / self.warmup) * (1 - self.ratio)
        return max(0.0, 1 - update / self.updates) ** self.power

    def _get_value(self) -> list[float]:
        factor = self.factor(self.last_step // self.accumulate)
        return [base * factor for base in self.base_values]
