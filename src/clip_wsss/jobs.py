"""What every workflow script does around its one call: logging, threads, one-line errors."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_wsss.errors import InputError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextmanager
def job(log: str | Path, threads: int = 1) -> Iterator[float]:
    """Run the body of a workflow script.

    Log records go to `log`; progress bars stay on the terminal. The number of numeric threads is
    set before torch and numpy are first imported (so a script imports them inside the block): it
    comes from the config and not from the cores, since it decides the last bits of a sum.

    Yields the time at which the job began, in seconds since the epoch.

    An `InputError` ends the process with status 1 and its one line, on the terminal and in the
    log; any other exception leaves its traceback in the log and passes on.
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
    try:
        yield time.time()
    except InputError as error:
        logging.error("%s", error)
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception:
        logging.exception("the job failed")
        raise
