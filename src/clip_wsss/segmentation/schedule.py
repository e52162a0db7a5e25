"""The learning rate's schedule."""

import math

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class SteppedPolyLR(LRSchedulerMixin, _ParamScheduler):
    """Polynomial decay that moves every few updates, after a linear warm-up if one is wanted.

    The factor of update i of n is (1 - i/n)^power with i rounded down to a multiple of `every`
    (DeepLabV2: power 0.9, every 10), times min(1, (i + 1) / (warmup n)).

    Args:
        optimizer: what is scheduled.
        end: iterations of the run, n * accumulate.
        power: of the polynomial.
        every: updates between two changes.
        warmup: share of the run in which the rate rises.
        accumulate: iterations an update takes.
        **kwargs: of MMEngine's schedulers.
    """

    def __init__(
        self,
        optimizer,
        *,
        end: int,
        power: float = 0.9,
        every: int = 1,
        warmup: float = 0.0,
        accumulate: int = 1,
        **kwargs,
    ):
        if not 0 <= warmup <= 1 or every < 1:
            raise ValueError(
                f"warmup must be from 0 to 1, and every at least 1; got {warmup} and {every}"
            )
        self.power, self.every, self.warmup, self.accumulate = power, every, warmup, accumulate
        self.updates = max(1, end // accumulate)
        super().__init__(optimizer, end=end, by_epoch=False, **kwargs)

    def factor(self, update: int) -> float:
        """What the base rate is multiplied by in an update, counted from 0."""
        done = update // self.every * self.every
        rise = (
            min(1.0, (update + 1) / math.ceil(self.warmup * self.updates)) if self.warmup else 1.0
        )
        return rise * (1 - done / self.updates) ** self.power

    def _get_value(self) -> list[float]:
        factor = self.factor(self.last_step // self.accumulate)
        return [base * factor for base in self.base_values]
