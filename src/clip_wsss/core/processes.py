"""How a job starts worker processes that need no torch."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

import cv2


def process_context() -> multiprocessing.context.BaseContext:
    """Return how to start worker processes.

    Forked where there is fork: a spawned process would run the workflow's script once more.
    """
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in methods else "spawn")


def _one_thread() -> None:
    cv2.setNumThreads(0)
    if torch := sys.modules.get("torch"):  # its pool of threads does not survive a fork
        torch.set_num_threads(1)


@contextmanager
def parallel_map(workers: int) -> Iterator:
    """An ordered map over processes; the builtin one for a single worker."""
    if workers <= 1:
        yield map
        return
    pool: Executor
    with ProcessPoolExecutor(workers, process_context(), _one_thread) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
