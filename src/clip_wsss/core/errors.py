"""The one exception that a user is meant to read, and how it is told."""

import errno
import os
import sys
import warnings
from traceback import extract_tb

INTERRUPTED = 130  # exit status after Ctrl-C, as shells have it
UNREAD = 141  # likewise after the reader of a pipe has ended


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is a single line: it names the file or the config key, says what is wrong
    with it and what to do about it. Jobs print that line and no traceback.

    Args:
        message: of one or more lines. What of it a terminal would obey or not show is written as
            an escape, and of a long line the middle is left out: names and values are the user's.
    """

    def __init__(self, message: str):
        super().__init__("\n".join(map(_shown, message.split("\n"))))


LONGEST = 2000  # characters of a line


def _shown(line: str) -> str:
    if not line.isprintable():
        line = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
    if len(line) <= LONGEST:
        return line
    half = LONGEST // 2
    return f"{line[:half]} [{len(line) - 2 * half} more characters] {line[-half:]}"


def one_line(error: object) -> str:
    """What an exception or a text says, in one line; its kind or its assertion if it says nothing.

    What a terminal would obey or not show is written as an escape.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AssertionError) and not str(error) and error.__traceback__ is not None:
        text = extract_tb(error.__traceback__)[-1].line or text
    return _shown(text)


def kind_and_words(error: BaseException) -> str:
    """An exception's kind and what it says, in one line: of code that is not the suite's."""
    return " ".join(f"{type(error).__name__}: {error}".split())


_FULL = "make room, and run again"
_DENIED = "make it writable, or name another folder"
_IN_THE_WAY = "a file is where a folder must be: move it, or name another folder"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "allow larger files (ulimit -f), and run again",
    errno.EROFS: _DENIED,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.ENAMETOOLONG: "shorten the name",
    errno.EMFILE: "allow more open files (ulimit -n), and run again",
    errno.EIO: "check the disk, and run again",
}
MEMORY = (
    "close other programs, lower compute.workers or compute.batch or raise the job's memory, and "
    "run again"
)


def of_machine(error: Exception, where: str | os.PathLike) -> InputError | None:
    """What a disk or a memory that is too small means to the user; None for any other exception.

    Args:
        error: that was raised by whatever library met it.
        where: what was written, for the message if the exception does not say it.
    """
    text = one_line(error)
    number = getattr(error, "errno", None)
    if "No space left" in text:  # libraries say it in exceptions of their own
        number = errno.ENOSPC
    if number in _REMEDIES:
        path = getattr(error, "filename", None) or where
        return InputError(f"{path}: {os.strerror(number)}; {_REMEDIES[number]}")
    names = {kind.__name__ for kind in type(error).__mro__}
    lacks = {"MemoryError", "OutOfMemoryError"} & names or number == errno.ENOMEM
    if lacks or "can't allocate memory" in text or "bad_alloc" in text:
        return InputError(f"{where}: memory ran out ({text[:200]}); {MEMORY}")
    if "DataLoader worker (pid" in text:  # its own errors are told otherwise
        return InputError(f"{where}: a worker process was killed, mostly for memory; {MEMORY}")
    return None


def leave_out_warnings() -> None:
    """Do not show what Pillow says of metadata and sizes, with a line of its source.

    Pixels are read whole or the image is refused; of metadata only the orientation is read, and
    damaged ones say nothing.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


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


def stopped(error: Exception, where: str | os.PathLike) -> int:
    """Tell what a disk or a memory did to a command, and return the exit status 1.

    Args:
        error: see `of_machine`; any other is raised.
        where: what was written.
    """
    if (said := of_machine(error, where)) is None:
        raise error
    return failed(said)
