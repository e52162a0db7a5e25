"""How a job starts other processes, none of which outlives it.

python -m clip_wsss.core.processes <process id of the parent> <module> <arguments>
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from clip_wsss.core.errors import MEMORY, InputError


def process_context() -> multiprocessing.context.BaseContext:
    """Return how to start worker processes.

    Forked where there is fork: a spawned process would run the workflow's script once more.
    """
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in methods else "spawn")


def end_with_parent(parent: int) -> None:
    """End this process within a second of its parent, however that ends (kill -9 too).

    Args:
        parent: its process id as it knows itself: it may have ended before this call.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _begin(parent: int, begin: Callable[[], None]) -> None:
    import cv2  # with numpy, which a job imports when it has set its threads

    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    cv2.setNumThreads(0)
    if torch := sys.modules.get("torch"):  # its pool of threads does not survive a fork
        torch.set_num_threads(1)
    begin()


@contextmanager
def parallel_map(workers: int, begin: Callable[[], None] = lambda: None) -> Iterator:
    """An ordered map over processes; the builtin one for a single worker.

    Args:
        workers: processes.
        begin: what each does first.

    Raises:
        InputError: in the body, a process was killed.
    """
    if workers <= 1:
        begin()
        yield map
        return
    pool: Executor
    with ProcessPoolExecutor(workers, process_context(), _begin, (os.getpid(), begin)) as pool:
        try:
            yield pool.map
        except BrokenProcessPool:
            raise InputError(f"a worker process was killed, mostly for memory; {MEMORY}") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _main() -> None:
    end_with_parent(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
