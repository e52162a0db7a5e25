"""MMEngine hooks and loop: what makes a training resumable, reproducible and watchable."""

import itertools
import logging
import math
import os
import re
from pathlib import Path

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from tqdm import tqdm

from clip_wsss.core.confidence import FEW_PIXELS
from clip_wsss.core.errors import InputError
from clip_wsss.core.memory import check_memory
from clip_wsss.core.ranks import batch_number
from clip_wsss.segmentation.data import seed_batch
from clip_wsss.segmentation.losses import PixelLoss

log_ = logging.getLogger(__name__)

SMALLER_BATCH = "lower train_dataloader.batch_size or the size of the crops, or give it more memory"


@LOOPS.register_module()
class ResumableLoop(IterBasedTrainLoop):
    """An iteration-based loop that resumes without loading the samples that were used before."""

    def run(self):
        """Train from the iteration that the runner has resumed."""
        size, image = self.dataloader.batch_size, self.dataloader.dataset[0]["inputs"]
        what = f"segmentation: a batch of {size} images"
        check_memory(4 * size * image.numel(), what, SMALLER_BATCH)  # as the network's float32
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
        seed_batch(self.seed, batch_number(runner.iter))


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
    """A CSV with a row an update (iteration, loss, lr, pixels, of), and a progress bar.

    The rows lie in every checkpoint, so that a run that resumes writes the file of an unbroken one
    whatever has become of it. `pixels` are those that counted in the losses of all heads, `of` how
    many there were.

    Args:
        path: of the CSV.
        accumulate: iterations an update takes; the loss is their mean.
    """

    def __init__(self, path: str, accumulate: int = 1):
        self.path, self.accumulate = Path(path), accumulate
        self.rows: list[str] = []
        self.losses: list[float] = []
        self.pixels, self.all = 0, 0  # of an update
        self.counted, self.seen, self.empty = 0, 0, 0  # of all updates; updates without a pixel

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See Hook."""
        checkpoint["meta"]["log"] = list(self.rows)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """See Hook."""
        try:
            self.rows = list(checkpoint["meta"]["log"])
            cells = [row.split(",") for row in self.rows]
            pixels = [int(row[3]) for row in cells]
            self.seen = sum(int(row[4]) for row in cells)
        except (KeyError, IndexError, ValueError):
            raise InputError(
                f"{self.path.parent}: an unfinished training of another version of the suite; "
                "remove the folder, and run again"
            ) from None
        self.counted, self.empty = sum(pixels), pixels.count(0)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """See Hook."""
        check_rates(runner.optim_wrapper, "segmentation", runner.iter // self.accumulate + 1)

    def before_train(self, runner) -> None:
        """See Hook."""
        if runner.rank:
            return
        lines = ["iteration,loss,lr,pixels,of", *self.rows]
        self.path.write_text("".join(f"{line}\n" for line in lines))
        self.file = self.path.open("a")
        total = runner.max_iters // self.accumulate
        done = len(self.rows)
        self.bar = tqdm(total=total, initial=done, desc="training", unit="update", disable=None)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """See Hook."""
        update = runner.iter // self.accumulate + 1
        loss, pixels, seen = self._of_all_ranks(runner, outputs["loss"])
        self.losses.append(loss)
        self.pixels += pixels
        self.all += seen
        if not math.isfinite(loss):
            raise InputError(
                f"segmentation: the loss is {loss} in update {update}; use loss: "
                "balanced, or a smaller lr in the segmentor's file"
            )
        if len(self.losses) < self.accumulate:
            return
        loss = sum(self.losses) / self.accumulate
        rates = [group["lr"] for group in runner.optim_wrapper.param_groups]
        rate = rates[0] or max(rates)  # 0 is of an update that changes nothing
        self.rows.append(f"{update},{loss:.6g},{rate:.6g},{self.pixels},{self.all}")
        self.counted += self.pixels
        self.seen += self.all
        self.empty += not self.pixels
        self.losses.clear()
        self.pixels = self.all = 0
        self._check_counted(runner, update)
        if runner.rank:
            return
        self.file.write(f"{self.rows[-1]}\n")
        self.file.flush()
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self.bar.update()

    def after_train(self, runner) -> None:
        """See Hook."""
        if runner.rank:
            return
        self.file.close()
        self.bar.close()
        if self.empty:
            log_.warning("no pixel counted in %d of %d updates", self.empty, len(self.rows))
        if self.counted < FEW_PIXELS * self.seen:
            log_.warning("%d of %d pixels counted; lower mu to use more", self.counted, self.seen)

    def _of_all_ranks(self, runner, loss: torch.Tensor) -> tuple[float, int, int]:
        """The mean loss of this iteration, and the sums of the pixels that counted and of all."""
        parts = [part for part in runner.model.modules() if isinstance(part, PixelLoss)]
        sums = sum(part.pixels for part in parts), sum(part.all for part in parts)
        for part in parts:
            part.pixels = part.all = 0
        pixels, seen = (
            torch.as_tensor(one, dtype=torch.float64, device=loss.device) for one in sums
        )
        all_ = torch.stack([loss.detach().double(), pixels, seen])
        all_reduce(all_)
        return all_[0].item() / runner.world_size, int(all_[1]), int(all_[2])

    def _check_counted(self, runner, update: int) -> None:
        """Stop where no pixel has counted although every image was seen, or at the end."""
        loader = runner.train_dataloader
        seen = update * self.accumulate * loader.batch_size * runner.world_size
        whole = update * self.accumulate == runner.max_iters
        if not self.counted and (whole or seen >= len(loader.dataset)):
            raise InputError(
                f"segmentation: no pixel of the masks has counted in {update} updates, so that "
                "nothing was learnt; lower mu, or look at the masks' confidences and labels"
            )


def check_rates(optimizer: OptimWrapper, where: str, update: int) -> None:
    """Refuse learning rates with which a loss would be climbed, or weights be lost.

    Args:
        optimizer: whose groups have them.
        where: the file or the key, for the message.
        update: that comes, from 1.

    Raises:
        InputError: a rate below 0, or that is no number.
    """
    for group in optimizer.param_groups:
        rate = group["lr"]
        if not (isinstance(rate, int | float | torch.Tensor) and 0 <= rate < math.inf):
            raise InputError(
                f"{where}: the learning rate of update {update} is {rate}; correct "
                "param_scheduler in the segmentor's file, so that it stays at 0 or above"
            )


def latest_checkpoint(folder: Path) -> Path | None:
    """The last whole one of MMEngine's checkpoints in a folder: a kill may have cut one short.

    A file of another name, such as a copy, is none of them.
    """
    found = {path: re.fullmatch("iter_([0-9]+)", path.stem) for path in folder.glob("iter_*.pth")}
    whole = {path: int(match[1]) for path, match in found.items() if match is not None}
    for path in sorted(whole, key=lambda one: whole[one], reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # whatever a truncated archive makes torch raise
            os.remove(path)
        else:
            return path
    return None
