"""One zip a shard: the labels of its images and, for pseudo masks, their confidences.

A zip holds labels/<id>.png (VOC palette), for masks confidence/<id>.png (grey; the codes of
`clip_wsss.core.confidence`), and at its end manifest.json with

    format   1; a reader refuses what is newer
    kind     masks or predictions
    ids      the images, in order
    skipped  image -> why it was left out

Files are stored, since PNGs are compressed already, with a fixed time and fixed attributes: the
same images give the same bytes.
"""

from __future__ import annotations

import json
import os
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_wsss.core.confidence import EDGES, decode
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import atomic_path
from clip_wsss.core.images import decode_label, encode_grey, encode_label

FORMAT = 1
MASKS, PREDICTIONS = "masks", "predictions"
MANIFEST = "manifest.json"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and the extra field
_PNG_SIZE = slice(16, 24)  # width and height in a PNG


@dataclass(frozen=True)
class EncodedImage:
    """What an archive holds of an image, or the reason why it holds nothing.

    Attributes:
        id: of the image.
        label: PNG.
        confidence: PNG; None in an archive of predictions.
        skipped: why the image was left out; empty if it was not.
    """

    id: str
    label: bytes = b""
    confidence: bytes | None = None
    skipped: str = ""


def encode_image(id_: str, label: np.ndarray, codes: np.ndarray | None = None) -> EncodedImage:
    """Encode labels, (H, W) uint8, and codes of confidences, (H, W) uint8."""
    return EncodedImage(id_, encode_label(label), None if codes is None else encode_grey(codes))


def write_archive(path: str | Path, kind: str, images: Iterable[EncodedImage]) -> None:
    """Write an archive, image after image, under another name first.

    Args:
        path: the zip.
        kind: masks or predictions.
        images: in the order that the archive gets; memory holds one at a time.
    """
    ids, skipped = [], {}
    with atomic_path(path) as part, zipfile.ZipFile(part, "w") as archive:
        for image in images:
            if image.skipped:
                skipped[image.id] = image.skipped
                continue
            ids.append(image.id)
            for folder, data in zip(_folders(kind), (image.label, image.confidence), strict=False):
                assert data is not None  # each folder of the kind is filled
                archive.writestr(_info(f"{folder}/{image.id}.png"), data)
        manifest = {"format": FORMAT, "kind": kind, "ids": ids, "skipped": skipped}
        text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"))
        archive.writestr(_info(MANIFEST), text.encode())


def _folders(kind: str) -> tuple[str, ...]:
    return ("labels", "confidence") if kind == MASKS else ("labels",)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # stored, of 1 January 1980
    info.create_system, info.external_attr = 3, 0o644 << 16  # as on Unix, on every system
    return info


class Archive:
    """An archive that was written by `write_archive`, read image by image.

    Every read compares the checksum. Reads do not move a file position, so threads and forked
    processes may share an archive; a pickled one opens its file again.

    Args:
        path: the zip.

    Attributes:
        kind: masks or predictions.
        ids: the images, in order.
        skipped: image -> why it was left out.

    Raises:
        InputError: it is missing, damaged, or no such archive. So do all reads of a damaged one.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        try:
            # Without waiting for one who writes, if it is a pipe.
            self._file = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise InputError(
                f"{path}: this archive cannot be opened ({error.strerror}); make it first"
            ) from None
        weakref.finalize(self, os.close, self._file)
        self._members = self._directory()
        manifest = self._manifest()
        self.kind: str = manifest["kind"]
        self.ids: list[str] = manifest["ids"]
        self.skipped: dict[str, str] = manifest["skipped"]
        names = [f"{folder}/{id_}.png" for folder in _folders(self.kind) for id_ in self.ids]
        if sorted(self._members) != sorted([*names, MANIFEST]):
            raise self._bad("holds other files than its manifest says")

    def __reduce__(self) -> tuple:
        return Archive, (self.path,)

    def label(self, id_: str) -> np.ndarray:
        """Labels of an image, (H, W) uint8."""
        return decode_label(self.label_png(id_), f"{self.path}: labels of {id_}")

    def label_png(self, id_: str) -> bytes:
        """Labels of an image as the PNG that is stored."""
        return self._read("labels", id_)

    def codes(self, id_: str) -> np.ndarray:
        """Codes of an image's confidences, (H, W) uint8 in 0..69, H and W those of its labels.

        Raises:
            InputError: the archive holds predictions, or as for every read.
        """
        if self.kind != MASKS:
            raise InputError(f"{self.path}: holds predictions, which have no confidences")
        data = self._read("confidence", id_)
        if data[_PNG_SIZE] != self.label_png(id_)[_PNG_SIZE]:
            raise self._bad(f"{id_} has labels and confidences of different sizes")
        codes = decode_label(data, f"{self.path}: confidences of {id_}")
        if codes.max(initial=0) >= len(EDGES):
            raise self._bad(f"{id_} has the code {codes.max()}, but there are {len(EDGES)}")
        return codes

    def confidence(self, id_: str) -> np.ndarray:
        """Confidences of an image, (H, W) float32 in [0, 1]: the lower edges of their codes."""
        return decode(self.codes(id_))

    def _bad(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}; delete this archive and run again")

    def _directory(self) -> dict[str, tuple[int, int, int]]:
        """Offset of the header, size and CRC-32 of every member, as the zip's end says."""
        size = os.fstat(self._file).st_size
        try:
            with open(self._file, "rb", closefd=False) as file, zipfile.ZipFile(file) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, struct.error):
            raise self._bad("is not a whole zip") from None
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise self._bad(f"{member.filename} is compressed or encrypted")
            if not 0 <= member.header_offset <= member.header_offset + member.file_size <= size:
                raise self._bad(f"{member.filename} reaches beyond the end")
        return {m.filename: (m.header_offset, m.file_size, m.CRC) for m in members}

    def _manifest(self) -> dict:
        if MANIFEST not in self._members:
            raise self._bad("is a zip without a manifest of masks or predictions")
        text = self._member(MANIFEST)
        try:
            manifest = json.loads(text)
            version = manifest["format"]
            newer = isinstance(version, int) and version > FORMAT
            fits = newer or (
                version == FORMAT
                and manifest["kind"] in (MASKS, PREDICTIONS)
                and isinstance(manifest["ids"], list)
                and all(map(_is_id, manifest["ids"]))
                and all(isinstance(why, str) for why in manifest["skipped"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise self._bad("has a manifest that cannot be read") from None
        if newer:
            raise InputError(
                f"{self.path}: has format {version}, and this clip-wsss reads up to {FORMAT}; "
                "install a newer one, or delete this archive and run again"
            )
        if not fits:
            raise self._bad("has a manifest of something else")
        return manifest

    def _read(self, folder: str, id_: str) -> bytes:
        name = f"{folder}/{id_}.png"
        if name not in self._members:
            raise InputError(f"{self.path}: has no {id_}; {self.skipped.get(id_, 'make it again')}")
        return self._member(name)

    def _member(self, name: str) -> bytes:
        offset, size, checksum = self._members[name]
        header = os.pread(self._file, _LOCAL_HEADER.size, offset)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            raise self._bad(f"{name} is damaged")
        _, *lengths = _LOCAL_HEADER.unpack(header)
        data = os.pread(self._file, size, offset + len(header) + sum(lengths))
        if len(data) != size or zlib.crc32(data) != checksum:
            raise self._bad(f"{name} is damaged")
        return data


def _is_id(value: object) -> bool:
    """Whether it can name a file, and no file elsewhere."""
    return isinstance(value, str) and value != "" and not set(value) & set("/\\\0")


class Archives(Mapping[str, Archive]):
    """Shards as one mapping: image -> the archive that holds it.

    Args:
        paths: of the archives.

    Attributes:
        skipped: image -> why it was left out.

    Raises:
        InputError: an archive cannot be used, or two of them name the same image.
    """

    def __init__(self, paths: Iterable[str | os.PathLike]):
        self.paths: Sequence[Path] = tuple(map(Path, paths))
        self.skipped: dict[str, str] = {}
        self._archives: dict[str, Archive] = {}
        named: dict[str, Archive] = {}
        for archive in map(Archive, self.paths):
            for id_ in (*archive.ids, *archive.skipped):
                if id_ in named:
                    raise InputError(
                        f"{archive.path}: names {id_}, and so does {named[id_].path}; delete the "
                        "one that is out of date"
                    )
                named[id_] = archive
            self._archives |= dict.fromkeys(archive.ids, archive)
            self.skipped |= archive.skipped

    def __getitem__(self, id_: str) -> Archive:
        return self._archives[id_]

    def __iter__(self) -> Iterator[str]:
        return iter(self._archives)

    def __len__(self) -> int:
        return len(self._archives)
