"""Downloads that continue after an interruption and are checked before they are used."""

import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from clip_wsss.acquire.registry import Source, find_source
from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import check_file, read_text, write_text

log = logging.getLogger(__name__)
CHUNK = 1 << 20
ATTEMPTS = 4  # in a row, without one new byte
TIMEOUT = 60  # seconds without an answer
PAUSE = 1.0  # seconds before the second attempt, then doubled


class _FailedError(Exception):
    """An address that gave up; the next mirror may do better."""


def acquire(name: str, settings: Mapping, receipt: str | os.PathLike) -> None:
    """Bring the source `name` beside its receipt, a JSON that says where it is.

    `settings` is the config's `sources` block. The archive may be deleted once the data set is
    built; the receipt stays.

    Raises:
        InputError: see `fetch`.
    """
    source, receipt = find_source(name, settings), Path(receipt)
    path = fetch(source, receipt.parent)
    content = {"source": name, "file": str(path), "md5": source.md5}
    write_text(receipt, json.dumps(content, indent=2) + "\n")


def read_receipt(receipt: str | os.PathLike) -> Path:
    """Path of the archive or folder that a receipt stands for.

    Raises:
        InputError: it was deleted since, or the receipt is damaged.
    """
    remedy = "delete it to download the archive again"
    try:
        path = Path(json.loads(read_text(receipt, "no such receipt; run again"))["file"])
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError):
        raise InputError(f"{receipt}: not a receipt of a download; {remedy}") from None
    if not path.exists():
        raise InputError(f"{path}: the archive is gone; delete {receipt} to download it again")
    return path


def fetch(source: Source, folder: Path) -> Path:
    """Download a source into `folder`, or check its local copy; return where it is.

    The bytes arrive in `<file>.part`, which a later call continues (HTTP Range), and take their
    final name once the checksum is right. A file with a wrong one is set aside as `<file>.bad`.

    Raises:
        InputError: no address answers, the checksum is wrong, the disk is too small, or the local
            copy is missing.
    """
    if source.path is not None:
        return _local_copy(source)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.file
    if target.exists():
        check_file(target, "is gone; run again")
        if _checksum_fits(target, source.md5):
            return target
        _set_aside(target)
    problems, urls = [], list(source.urls)
    while urls:
        url, part = urls.pop(0), folder / f"{source.file}.part"
        try:
            alone = _download(url, part, source)
        except _FailedError as error:
            problems.append(f"{url}: {error}")
            continue
        _about(part).unlink(missing_ok=True)
        if _checksum_fits(part, source.md5):
            part.replace(target)
            return target
        bad = _set_aside(part, target)
        problems.append(f"{url}: has another md5 than {source.md5}, file kept as {bad}")
        if not alone:  # the wrong bytes may be those that it continued
            urls.insert(0, url)
    part = folder / f"{source.file}.part"
    kept = f"; {part} is kept and will be continued" if part.exists() else ""
    raise InputError(
        f"{source.name}: cannot be downloaded ({'; '.join(problems)}); check the network and run "
        f"again, or set sources.replace.{source.name}.path to a local copy{kept}"
    )


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise InputError if less than `needed` bytes are free on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {what} needs {needed / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free; make "
            "room, or set dataset.root to a larger disk"
        )


def _local_copy(source: Source) -> Path:
    key = f"sources.replace.{source.name}"
    assert source.path is not None  # who calls has looked
    if not source.path.exists():
        raise InputError(f"{key}.path: there is no {source.path}; correct it")
    if not source.path.is_dir():
        check_file(source.path, "is gone; correct it")
    if source.path.is_file() and not _checksum_fits(source.path, source.md5):
        raise InputError(
            f"{source.path}: its md5 is not {source.md5}; replace the file, or set {key}.md5 (null:"
            " unchecked)"
        )
    return source.path


def _download(url: str, part: Path, source: Source) -> bool:
    """Bring `part` to its full length, whatever interrupts it. Raises _FailedError, InputError.

    Returns:
        Whether all its bytes are of this address and this call.
    """
    most, failures, alone = _length(part), 0, not _length(part)
    while True:
        try:
            return _transfer(url, part, source) or alone
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise _FailedError(one_line(f"HTTP {error.code} {error.reason}")) from None
            reason = one_line(f"HTTP {error.code} {error.reason}")
        except InputError:
            raise
        except ValueError as error:  # not a URL
            raise _FailedError(one_line(error)) from None
        except (OSError, http.client.HTTPException) as error:
            reason = one_line(getattr(error, "reason", error) or type(error).__name__)
        failures = 0 if _length(part) > most else failures + 1
        most = max(most, _length(part))
        log.info("%s: %s (%d bytes so far)", url, reason, _length(part))
        if failures >= ATTEMPTS:
            raise _FailedError(reason)
        time.sleep(PAUSE * 2 ** max(failures - 1, 0))


def _transfer(url: str, part: Path, source: Source) -> bool:
    """One request: append to `part`, or start it again where the server cannot continue it.

    Returns:
        Whether it began at the first byte.
    """
    have, about = _length(part), _read_about(part)
    request = urllib.request.Request(url, headers={"User-Agent": "clip-wsss"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        # The server sends all of a file that changed since; another mirror has other validators,
        # so there only the length (below) and the checksum tell.
        if about.get("url") == url and about.get("validator"):
            request.add_header("If-Range", about["validator"])
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        if _range(error.headers)[1] == have:
            return False  # it was complete already
        part.unlink(missing_ok=True)
        raise ConnectionError("the server has a shorter file; starting again") from None
    with response:
        start, total = _range(response.headers)
        if response.status != 206:
            start, total = 0, _integer(response.headers.get("Content-Length"))
        if start and (start != have or about.get("total") not in (None, total)):
            part.unlink(missing_ok=True)
            raise ConnectionError("the server has another file; starting again")
        if total is not None and source.size is not None and total > source.size:
            raise _FailedError(f"has {total} bytes, not the {source.size} of the registry")
        length = total or source.size
        most = source.most if length is None else length
        require_space(part.parent, (length or 0) - (start or 0), source.file)
        tag = response.headers.get("ETag", "")
        validator = response.headers.get("Last-Modified") if tag[:1] != '"' else tag
        _about(part).write_text(json.dumps({"url": url, "validator": validator, "total": total}))
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(
                desc=source.file,
                total=length,
                initial=start or 0,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            while chunk := response.read1(CHUNK):
                _write(file, chunk)
                if file.tell() > most:  # one without a length may not end
                    part.unlink()
                    raise _FailedError(f"sends more than the {most} bytes that it should have")
                bar.update(len(chunk))
    if total is not None and _length(part) < total:
        raise ConnectionError(f"the connection ended after {_length(part)} of {total} bytes")
    return not start


def _write(file, chunk: bytes) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:  # not a fault of the network: no use in trying again
        raise InputError(
            f"{file.name}: cannot be written ({error.strerror}); make room, or set dataset.root to "
            "another disk, and run again to continue"
        ) from None


def _checksum_fits(path: Path, md5: str | None) -> bool:
    if md5 is None:
        return True
    checksum = hashlib.md5(usedforsecurity=False)
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(
            desc=f"md5 of {path.name}", total=size, unit="B", unit_scale=True, disable=None
        ) as bar,
    ):
        while chunk := file.read(CHUNK):
            checksum.update(chunk)
            bar.update(len(chunk))
    return checksum.hexdigest() == md5.lower()


def _set_aside(path: Path, target: Path | None = None) -> Path:
    bad = (target or path).with_name(f"{(target or path).name}.bad")
    return path.replace(bad)


def _range(headers) -> tuple[int, int | None]:
    """Start and total of a Content-Range header."""
    found = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", "").strip()
    )
    return (int(found[1] or 0), _integer(found[2])) if found else (0, None)


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _about(part: Path) -> Path:
    """The small file beside a .part that says which file on which server it is a part of."""
    return part.with_name(f"{part.name}.json")


def _read_about(part: Path) -> dict:
    try:
        about = json.loads(_about(part).read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}
