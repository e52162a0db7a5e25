"""What every workflow script does around its one call: log, threads, sidecars, one-line errors."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_wsss.core.devices import device_name
from clip_wsss.core.errors import INTERRUPTED, InputError, failed, leave_out_warnings, of_machine
from clip_wsss.core.processes import end_with_parent
from clip_wsss.core.progress import log_device, log_made
from clip_wsss.runs import sidecar
from clip_wsss.runs.sidecar import Inputs

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Made:
    """What a job makes together, and from what.

    Attributes:
        sidecar: written last.
        stamp: of the plan (`clip_wsss.runs.plan`), with the settings for whoever reads the sidecar.
        outputs: its other files by name.
        inputs: what they are made from by name.
        device: cpu, cuda or auto, as in the config; None where it decides nothing.
    """

    sidecar: Path
    stamp: dict[str, Any]
    outputs: Mapping[str, Path]
    inputs: Inputs
    device: str | None = None

    def current(self) -> bool:
        """Whether everything is there and is what it would become again."""
        return sidecar.current(Path(self.sidecar), self.stamp, self.inputs, self.outputs)

    @property
    def plan(self) -> str:
        """What decides the outputs; see `clip_wsss.core.finished`."""
        return sidecar.plan(self.stamp, self.inputs)

    def record(self) -> None:
        """Write the sidecar."""
        device = None if self.device is None else device_name(self.device)
        sidecar.write_sidecar(
            Path(self.sidecar), self.stamp, self.outputs, self.inputs, device=device
        )


@dataclass(frozen=True)
class Work:
    """A job that runs.

    Attributes:
        started: in seconds since the epoch.
        missing: the sidecars of what is to be made; of a job whose outputs Snakemake leaves in
            place, not those that are what they would become.
    """

    started: float
    missing: frozenset[Path]

    @property
    def needed(self) -> bool:
        """Whether there is anything to be made."""
        return bool(self.missing)


def prefix_of(path: str | Path, relative: str | Path) -> Path:
    """What a file lies below in this job, if its path in the project is `relative`.

    Without a shared file system Snakemake carries files to a folder of the job's own.

    Raises:
        InputError: the path does not end like the other.
    """
    whole, tail = Path(path).parts, Path(relative).parts
    if whole[-len(tail) :] != tail:
        raise InputError(f"{path}: is not {relative} anywhere; run snakemake from the project")
    return Path(*whole[: -len(tail)])


def here(dataset: dict, images: Sequence[str]) -> dict:
    """The settings of a data set whose lists, labels and folders lie where this job has them.

    Args:
        dataset: the config's block.
        images: the inputs of a job that reads images (`Plan.images_of`).
    """
    found = dict(dataset)
    root, labels = Path(dataset["root"]), Path(dataset["labels"])
    for path in images:
        folder = Path(path).parent
        if folder.parts[-len(root.parts) - 2 :] == (*root.parts, "ImageSets", "Segmentation"):
            found["root"] = str(folder.parents[1])
        elif Path(path).parts[-len(labels.parts) :] == labels.parts:
            found["labels"] = str(path)
    return found


@contextmanager
def job(
    log: str | Path,
    threads: int = 1,
    reads: Sequence[tuple] = (),
    makes: Sequence[Made] = (),
) -> Iterator[Work]:
    """Run the body of a workflow script.

    The job ends with Snakemake, however that ends. Log records go to `log`; progress bars stay on
    the terminal. The number of numeric threads is set before torch and numpy are first imported (so
    a script imports them inside the block): it comes from the config and not from the cores, since
    it decides the last bits of a sum.

    Before the body the files that it reads are checked against their sidecars, and these against
    the plan. After it the sidecars of what it made are written; a body must leave what is not
    `missing` as it is.

    An `InputError` ends the process with status 1 and its one line, on the terminal (with the path
    of the log) and in the log, and so does a full disk or memory; Ctrl-C ends it without a word.
    Any other exception leaves its traceback in the log and passes on.

    Args:
        log: the job's log.
        threads: numeric threads.
        reads: sidecars of inputs, each with its stamp in the plan, and if wanted the names of the
            outputs in it that the job reads (others need not be where it runs).
        makes: what the job makes.
    """
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=log,
        filemode="w",
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    logging.captureWarnings(True)
    leave_out_warnings()
    end_with_parent(os.getppid())  # so that nothing writes beside the next run after a kill -9
    try:
        started = time.time()
        for path, stamp, *names in reads:
            sidecar.check(Path(path), stamp, *names)
        missing = [made for made in makes if not made.current()]
        yield Work(started, frozenset(Path(made.sidecar) for made in missing))
        for made in missing:
            made.record()
            log_made(made.sidecar)
        if missing:
            asked = next((made.device for made in missing if made.device is not None), "cpu")
            log_device(device_name(asked))
        if makes and not missing:
            logging.info("inputs, settings and code are unchanged: nothing was computed")
    except InputError as error:
        logging.error("%s", error)
        raise SystemExit(failed(error, log)) from None
    except KeyboardInterrupt:
        logging.info("stopped by Ctrl-C")
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        logging.raiseExceptions = False  # of a log on a disk that is full
        logging.exception("the job failed")
        said = of_machine(error, Path(makes[0].sidecar if makes else log).parent)
        if said is None:
            raise
        raise SystemExit(failed(said, log)) from None
