"""Files that are never half there: each is written under another name and moved into place."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_wsss.core.errors import InputError

_KINDS = {  # what lies where a file should, and would block or fail late
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def check_file(path: str | os.PathLike, missing: str) -> None:
    """Look whether a path is a regular file, or a link to one, without opening it.

    Args:
        path: of the file.
        missing: what the error says after the path if nothing is there, not even a file whose
            suffix is in other letters.

    Raises:
        InputError: it is missing, a folder, pipe, socket or device, or not accessible.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if other := other_case(Path(path)):
            missing = f"{other.name} is there, with a suffix of another case; rename it"
        raise InputError(f"{path}: {missing}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}); replace it") from None
    for is_kind, name in _KINDS.items():
        if is_kind(mode):
            raise InputError(f"{path}: is {name}, not a file; replace it")


def other_case(path: Path) -> Path | None:
    """The file whose suffix is in other letters than that of a path: a.PNG for a.png."""
    suffix = path.suffix
    for other in (suffix.upper(), suffix.lower(), suffix[:1] + suffix[1:].capitalize()):
        if other != suffix and (found := path.with_suffix(other)).exists():
            return found
    return None


def is_note(name: str) -> bool:
    """Whether a file holds what macOS notes of another, `._a.png` of a.png, on disks of others."""
    return name.startswith("._")


def read_bytes(path: str | os.PathLike, missing: str) -> bytes:
    """Bytes of a regular file. Raises InputError as `check_file`, or if it cannot be read."""
    check_file(path, missing)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); replace it") from None


def read_text(path: str | os.PathLike, missing: str) -> str:
    """Text of a file in UTF-8, with or without a byte order mark; every line ends in a newline.

    Raises:
        InputError: as `read_bytes`, or another encoding.
    """
    return decode_text(read_bytes(path, missing), str(path))


def decode_text(data: bytes, where: str) -> str:
    """Take a text from its bytes; else like `read_text`, with `where` in the message."""
    try:
        text = data.decode("utf-8-sig")  # -sig: Excel writes a byte order mark
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        if data[:4] == b"PK\3\4":
            known = "a zip (as spreadsheets are), no text"
        elif data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
            known = "UTF-32, not UTF-8"
        elif data[:2] in (b"\xff\xfe", b"\xfe\xff") or data[:4].count(0) == 2:
            known = "UTF-16, not UTF-8"
        else:
            known = "no text" if b"\0" in data else "not UTF-8"
        raise InputError(f"{where}: is {known}; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a hidden path in the same folder; what the body wrote there replaces `path`.

    The folder is made where it is missing. If the body raises, `path` stays what it was. A link is
    replaced, and not what it leads to, which may be a store of versions. After a power cut the file
    is the earlier one or whole.

    Raises:
        InputError: a folder, a device or a pipe is there.
    """
    path = Path(path)
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())  # else its name may be on the disk before its content
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def check_replaceable(path: Path) -> None:
    """Raise InputError if a folder, a device or a pipe is where a file would be written."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is no file that could be replaced; name another")


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text in UTF-8."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, sort_keys: bool = True) -> None:
    """Write JSON, its keys sorted, or in the order that they were put in."""
    text = json.dumps(value, indent=2, sort_keys=sort_keys, ensure_ascii=False)
    write_text(path, f"{text}\n")


def write_rows(path: str | os.PathLike, rows: Iterable[Sequence]) -> None:
    """Write a CSV in UTF-8, whose lines end in a newline alone."""
    with atomic_path(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def make_output(out: Path, option: str = "--out") -> None:
    """Make the folder that a command writes to, and try to write into it.

    Raises:
        InputError: it cannot be made or written into; `option` is what names it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        reason = f"cannot be made a folder ({getattr(error, 'strerror', None) or error})"
        raise InputError(f"{out}: {reason}; name another with {option}") from None
    try:
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        reason = f"cannot be written into ({error.strerror})"
        raise InputError(f"{out}: {reason}; name another with {option}") from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other process is in it for the same folder, which a command writes into.

    Raises:
        InputError: one is.
    """
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{folder}: another command is writing into it; wait for its end, or name another "
                "folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(place)


def check_own(out: Path, mark: str, begin: str, others: Iterable[Path]) -> bool:
    """Refuse to replace files that a command did not make.

    Args:
        out: the folder that it writes to.
        mark: name of the file that says that the others are its own.
        begin: how this file begins.
        others: what it would replace: files, or folders of them.

    Returns:
        Whether the mark is there.

    Raises:
        InputError: something is there, but not the mark.
    """
    path = out / mark
    if _begins(path, begin):
        return True
    for other in (path, *others):
        if other.is_dir() and other != path:
            there = any(one.is_file() for one in other.rglob("*"))
        else:
            there = os.path.lexists(other)
        if there:
            what = f"is there, but {out} has no {mark} of this command"
            if other == path:
                what = "was not written by this version of this command"
                if path.is_file() and not path.stat().st_size:
                    what = "is empty, so nothing says what made the files beside it"
            raise InputError(f"{other}: {what}; give another --out, or replace it with --overwrite")
    return False


def check_target(path: Path, begin: str, inputs: Iterable[Path], option: str) -> None:
    """Look at where a command writes a single file, before its work; the folder is made.

    Args:
        path: of the file.
        begin: how every such file begins: others are not replaced.
        inputs: folders that are only read.
        option: what names the file.

    Raises:
        InputError: it lies in one of these folders, cannot be written, or something else is there.
    """
    for folder in inputs:
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise InputError(
                f"{path}: lies in {folder}, which is only read; name another file with {option}"
            )
    check_replaceable(path)
    if path.exists() and not _begins(path, begin):
        raise InputError(
            f"{path}: is there, but is no file of this command; name another with {option}, or "
            "remove it"
        )
    make_output(path.parent, option)


def _begins(path: Path, begin: str) -> bool:
    """Whether there is a file that begins with a text."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(begin.encode())) == begin.encode()


def content_sha256(path: str | os.PathLike) -> str:
    """As `sha256`, of a list or a CSV without a byte order mark and as if its lines ended in LF.

    Editors of other systems change both, and no reader here sees them.
    """
    if (path := Path(path)).suffix not in (".txt", ".csv") or path.is_dir():
        return sha256(path)
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    return hashlib.sha256(data).hexdigest()


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal; of a folder, of the lines "<hash>  <name>" of its files.

    The names are relative to the folder and sorted, so that its place does not count.
    """
    path = Path(path)
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    # Hidden files are notes of programs, such as Snakemake's of when a folder was made.
    files = {
        file.relative_to(path).as_posix(): file
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }
    lines = "".join(f"{sha256(file)}  {name}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
