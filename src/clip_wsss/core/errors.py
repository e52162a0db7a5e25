"""The one exception that a user is meant to read, and how it is told."""

import os
import sys


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is a single line: it names the file or the config key, says what is wrong
    with it and what to do about it. Jobs print that line and no traceback.
    """


def failed(error: Exception, log: str | os.PathLike | None = None) -> int:
    """Tell an error on the terminal, a line each, and return the exit status 1.

    Args:
        error: what stopped a command or a job.
        log: of the job, named with it.
    """
    where = "" if log is None else f" (log: {log})"
    for line in str(error).splitlines():
        print(f"error: {line}{where}", file=sys.stderr)
    return 1
