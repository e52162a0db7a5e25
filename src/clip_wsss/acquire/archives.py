"""One view of tar, tgz, zip and plain folders: members by name, read or saved one at a time."""

import errno
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from clip_wsss.acquire.download import require_space
from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import atomic_path, decode_text, is_note, read_bytes

_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OverflowError, NotImplementedError),
)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_MOST = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1100}  # bytes that one of the archive can be


@dataclass(frozen=True)
class Member:
    """A file in an archive or folder: its name with forward slashes, its bytes, its size."""

    name: PurePosixPath
    size: int
    read: Callable[[], bytes]
    file: Path | None = None  # where it lies already, in a folder

    def save(self, target: Path, reuse: bool) -> None:
        """Put a copy at `target`, whole or not at all; a hard link where a folder allows it.

        With `reuse`, a file of the right size that is already there stays.
        """
        if reuse and target.exists() and target.stat().st_size == self.size:
            return
        with atomic_path(target) as part:
            part.unlink(missing_ok=True)  # it may be a link to the user's file
            if self.file is None:
                part.write_bytes(self.read())
                return
            try:
                os.link(self.file.resolve(), part)
            except OSError:  # another disk, or one without links
                shutil.copyfile(self.file, part)


@contextmanager
def open_members(path: Path) -> Iterator[dict[str, Member]]:
    """The files of an archive or folder by name, in stored order.

    Read them in this order: going back in a compressed tar starts it again.

    Raises:
        InputError: neither a folder nor a tar, tgz or zip archive, or one that is damaged,
            encrypted, packed by an unknown method, or has two files of one name.
    """
    try:
        if path.is_dir():
            yield _by_name(_of_folder(path), path)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _by_name(_of_zip(archive, path), path)
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                yield _by_name(_of_tar(archive, path), path)
        else:
            raise InputError(f"{path}: not a folder, tar, tgz or zip archive; replace it")
    except _DAMAGE as error:
        raise InputError(f"{path}: a damaged archive ({one_line(error)}); replace it") from None


def _of_folder(folder: Path) -> Iterator[Member]:
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        place = os.stat(parent)
        if (place.st_dev, place.st_ino) in seen:  # a link to a folder above, or a second one
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders.sort()
        for name in sorted(files):
            file = Path(parent, name)
            relative = PurePosixPath(file.relative_to(folder).as_posix())
            try:
                size = file.stat().st_size
            except OSError as error:  # a link to nothing, or to itself
                raise InputError(
                    f"{file}: cannot be read ({error.strerror}); correct or remove it"
                ) from None
            yield Member(relative, size, partial(read_bytes, file, "is gone; replace it"), file)


def _of_zip(archive: zipfile.ZipFile, path: Path) -> Iterator[Member]:
    for info in archive.infolist():
        problem = None
        if info.flag_bits & 1:
            problem = "is encrypted"
        elif info.compress_type not in _METHODS:
            problem = f"is packed by the method {info.compress_type}, which is unknown here"
        elif info.file_size > info.compress_size * _MOST.get(info.compress_type, info.file_size):
            problem = f"cannot hold {info.file_size} bytes in {info.compress_size}"
        if problem is not None:
            raise InputError(f"{path}: {info.filename} {problem}; replace the archive")
        if not info.is_dir():
            read = partial(_read, partial(archive.read, info), f"{path}: {info.filename}")
            yield Member(PurePosixPath(info.filename), info.file_size, read)


def _of_tar(archive: tarfile.TarFile, path: Path) -> Iterator[Member]:
    try:
        infos = list(tqdm(archive, desc=f"index of {path.name}", unit="file", disable=None))
    except OSError as error:
        beyond = error.errno == errno.EINVAL  # the next place is beyond what a file can be
        reason = "a size in it is larger than any file" if beyond else one_line(error)
        raise tarfile.ReadError(reason) from None
    for info in infos:
        if info.isfile():
            read = partial(_read, partial(_extracted, archive, info), f"{path}: {info.name}")
            yield Member(PurePosixPath(info.name), info.size, read)


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None  # for a regular file there is one
    return file.read()


def _read(read: Callable[[], bytes], where: str) -> bytes:
    try:
        return read()
    except Exception as error:  # each packing has exceptions of its own
        raise InputError(
            f"{where}: cannot be unpacked ({one_line(error)}); replace the archive"
        ) from None


def _by_name(members: Iterable[Member], path: Path) -> dict[str, Member]:
    found: dict[str, Member] = {}
    for member in members:
        if is_note(member.name.name) or "__MACOSX" in member.name.parts:
            continue  # what macOS puts beside files
        if found.setdefault(str(member.name), member) is not member:
            raise InputError(f"{path}: holds two files called {member.name}; replace the archive")
    return found


def in_folder(members: Mapping[str, Member], *folder: str) -> dict[str, Member]:
    """The members whose folders end in `folder`, by their name without suffix.

    So it does not matter where an archive, or a user's copy, begins.
    """
    return {
        member.name.stem: member
        for member in members.values()
        if member.name.parts[-1 - len(folder) : -1] == folder
    }


def folder_of(members: Mapping[str, Member], *parts: str, source: Path) -> PurePosixPath:
    """The folder below which files lie at `parts`; of several, that of VOC2012.

    Raises:
        InputError: there is no such folder, or more than one.
    """
    found = {
        PurePosixPath(*item.name.parts[: -len(parts)])
        for item in members.values()
        if item.name.parts[-len(parts) :] == parts
    }
    found = {one for one in found if "VOC2012" in one.parts} or found
    if len(found) != 1:
        raise InputError(
            f"{source}: holds {len(found)} files called {'/'.join(parts)}, not one; is it the right"
            " archive or folder?"
        )
    return found.pop()


def below(members: Mapping[str, Member], folder: PurePosixPath) -> dict[str, Member]:
    """The members below a folder."""
    return {key: item for key, item in members.items() if item.name.is_relative_to(folder)}


def listed(member: Member, source: Path) -> list[str]:
    """The words of a list. Raises InputError if it is not text."""
    return decode_text(member.read(), f"{source}, {member.name}").split()


def one(members: Mapping[str, Member], *parts: str, source: Path) -> Member:
    """The member whose path ends in `parts`. Raises InputError if it is not there once."""
    found = [item for item in members.values() if item.name.parts[-len(parts) :] == parts]
    if len(found) != 1:
        raise InputError(
            f"{source}: holds {len(found)} files called {'/'.join(parts)}, not one; is it the right"
            " archive or folder?"
        )
    return found[0]


def save_all(items: list[tuple[Member, Path]], reuse: bool, what: str) -> None:
    """Save members, with a look at the free space before and a progress bar.

    Raises:
        InputError: the disk is too small.
    """
    folders = sorted({target.parent for _, target in items})
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    missing = [(member, target) for member, target in items if not (reuse and target.exists())]
    if missing:
        needed = sum(member.size for member, _ in missing if member.file is None)
        require_space(folders[0], needed, what)
    for member, target in tqdm(items, desc=what, unit="file", disable=None):
        member.save(target, reuse)


def same_sources(
    root: Path, receipts: Mapping[str, str | os.PathLike], part: str = "begun", more: str = ""
) -> bool:
    """Whether what lies below `root` was begun from these very sources, so that it can be kept.

    Notes them down for the next call, in archives/<part>.txt, with what `more` says beside them.
    """
    begun = root / "archives" / f"{part}.txt"
    content = "".join(Path(receipts[name]).read_text("utf-8") for name in sorted(receipts)) + more
    same = begun.exists() and begun.read_text(encoding="utf-8") == content
    begun.parent.mkdir(parents=True, exist_ok=True)
    begun.write_text(content, encoding="utf-8")
    return same


def write_list(path: Path, ids: Iterable[str]) -> None:
    """Write a split: one id a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
