"""Finished images of a shard that is being made, so that a crash costs those alone in hand.

They lie in a hidden file beside the shard, which goes when the shard is whole. It holds records: of
an image the id, the version of its file and what was made of it; the first record is the plan. A
record has its length and CRC-32, so that one that was cut off, or did not reach the disk, ends the
reading. Nothing in it is run.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HEADER = struct.Struct("<III")  # lengths of the name and of the data, CRC-32 of both


class Finished:
    """What is finished, by image.

    Args:
        file: its descriptor, opened to append; None: nothing is kept.
        plan: what decides all images: records of another plan are dropped.
        version: of an image's file, by its id: what was made of another one is not used.
    """

    def __init__(
        self, file: int | None = None, plan: str = "", version: Callable[[str], str] = str
    ):
        self._file = file
        self._version = version
        self._found: dict[str, tuple[int, int, str]] = {}
        if file is None:
            return
        records = self._records()
        name, *_, end = next(records, ("", 0, 0, 0))
        if name != plan:
            os.ftruncate(file, 0)
            self._append(plan, b"")
            return
        for name, start, size, end in records:  # noqa: B007 - the last one counts
            id_, _, made_of = name.rpartition("\n")
            self._found[id_] = start, size, made_of
        os.ftruncate(file, end)

    def get(self, id_: str) -> bytes | None:
        """What was made of an image, if its file is what it was; else None."""
        if self._file is None or id_ not in self._found:
            return None
        start, size, made_of = self._found[id_]
        return os.pread(self._file, size, start) if made_of == self._version(id_) else None

    def add(self, id_: str, data: bytes) -> None:
        """Keep what was made of an image."""
        if self._file is not None:
            self._append(f"{id_}\n{self._version(id_)}", data)

    def _append(self, name: str, data: bytes) -> None:
        assert self._file is not None
        body = name.encode() + data
        os.write(
            self._file, _HEADER.pack(len(body) - len(data), len(data), zlib.crc32(body)) + body
        )

    def _records(self) -> Iterator[tuple[str, int, int, int]]:
        """Name, start and size of the data, and end of every whole record."""
        assert self._file is not None
        place = 0
        while len(header := os.pread(self._file, _HEADER.size, place)) == _HEADER.size:
            name, size, checksum = _HEADER.unpack(header)
            place += _HEADER.size + name + size
            body = os.pread(self._file, name + size, place - name - size)
            if len(body) < name + size or zlib.crc32(body) != checksum:
                return
            yield body[:name].decode(), place - size, size, place


NOTHING = Finished()


@contextmanager
def finished(
    shard: str | os.PathLike, plan: str, version: Callable[[str], str]
) -> Iterator[Finished]:
    """Yield what is finished of a shard; once the body has made it whole, that is deleted.

    Args:
        shard: a file of it.
        plan: what decides all images, such as `clip_wsss.runs.jobs.Made.plan`.
        version: of an image's file, such as `clip_wsss.data.datasets.Dataset.version`.
    """
    path = Path(shard)
    path = path.with_name(f".{path.name}.finished.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        yield Finished(file, plan, version)
        path.unlink()
    finally:
        os.close(file)
