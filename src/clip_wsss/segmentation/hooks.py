"""MMEngine hooks and loop: what makes a training resumable, reproducible and watchable."""

import itertools
import math
import os
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from tqdm import tqdm

from clip_wsss.core.errors import InputError
from clip_wsss.segmentation.data import seed_iteration


@LOOPS.register_module()
class ResumableLoop(IterBasedTrainLoop):
    """An iteration-based loop that resumes without loading the samples that were used before."""

    def run(self):
        """Train from the iteration that the runner has resumed."""
        if self._iter:
            self.dataloader.sampler.start = self._iter * self.dataloader.batch_size
            # The base class takes as many batches as it skips iterations; they need no content.
            skipped = itertools.repeat(None, self._iter)
            rest = _InfiniteDataloaderIterator(self.dataloader)
            self.dataloader_iterator = itertools.chain(skipped, rest)
        return super().run()


@HOOKS.register_module()
class SeedHook(Hook):
    """Seeds torch in every iteration, so that a resumed run draws what an unbroken one draws."""

    def __init__(self, seed: int):
        self.seed = seed

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """See Hook."""
        seed_iteration(self.seed, runner.iter, runner.rank)


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Keeps only tensors and plain values in a checkpoint.

    torch reads such a file with `weights_only`, its safe default; MMEngine's own content (log
    buffers, the config, times) would have to be allowed, and is not needed to resume.
    """

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See Hook."""
        checkpoint["meta"] = {key: checkpoint["meta"][key] for key in ("epoch", "iter")}
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}


@HOOKS.register_module()
class LogHook(Hook):
    """A CSV with a row an update (iteration, loss, lr), and a progress bar.

    The rows after the checkpoint that a run resumes from are dropped, so that the file ends like
    that of an unbroken run.

    Args:
        path: of the CSV.
        accumulate: iterations an update takes; the loss is their mean.
    """

    def __init__(self, path: str, accumulate: int = 1):
        self.path, self.accumulate = Path(path), accumulate
        self.losses: list[float] = []

    def before_train(self, runner) -> None:
        """See Hook."""
        if runner.rank:
            return
        done = runner.iter // self.accumulate
        lines = self.path.read_text().splitlines()[: done + 1] if done else ["iteration,loss,lr"]
        self.path.write_text("".join(f"{line}\n" for line in lines))
        self.file = self.path.open("a")
        total = runner.max_iters // self.accumulate
        self.bar = tqdm(total=total, initial=done, desc="training", unit="update", disable=None)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """See Hook."""
        update = runner.iter // self.accumulate + 1
        self.losses.append(outputs["loss"].item())
        if not math.isfinite(self.losses[-1]):
            raise InputError(
                f"segmentation: the loss is {self.losses[-1]} in update {update}; take loss: "
                "balanced, or a smaller lr in the segmentor's file"
            )
        if len(self.losses) < self.accumulate:
            return
        loss = sum(self.losses) / self.accumulate
        self.losses.clear()
        if runner.rank:
            return
        rate = runner.optim_wrapper.param_groups[0]["lr"]
        self.file.write(f"{update},{loss:.6g},{rate:.6g}\n")
        self.file.flush()
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self.bar.update()

    def after_train(self, runner) -> None:
        """See Hook."""
        if not runner.rank:
            self.file.close()
            self.bar.close()


def latest_checkpoint(folder: Path) -> Path | None:
    """The last whole one of MMEngine's checkpoints in a folder: a kill may have cut one short."""
    found = sorted(folder.glob("iter_*.pth"), key=lambda path: int(path.stem[5:]), reverse=True)
    for path in found:
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # whatever a truncated archive makes torch raise
            os.remove(path)
        else:
            return path
    return None
