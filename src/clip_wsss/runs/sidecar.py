"""The file beside a job's outputs that says what they were made from, and by which code.

A sidecar is JSON:

    {"format": 1,
     "stamp": {"stage", "key", "code", "numerics", "settings", "images"},
     "outputs": {name: SHA-256},
     "files": {name: path of that output, relative to the sidecar},
     "inputs": {name: SHA-256, of several files that of their hashes; line ends do not count},
     "device": what the job ran on, or null}

It holds no time and no place, so the same job writes the same bytes. The settings in the stamp are
for its reader; stage, key, code and numerics decide whether the outputs fit. `images` says what the
user's own images were: where they are others the job runs again, but what it made can be read
without them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import content_sha256, sha256, write_json

FORMAT = 1
FIELDS = {"format", "stamp", "outputs", "files", "inputs", "device"}
PLAIN = {"format", "device"}
COMPARED = ("stage", "key", "code", "numerics")
RUN = "run the config of these results again"

Inputs = Mapping[str, Path | Sequence[Path]]


def write_sidecar(
    path: Path,
    stamp: dict,
    outputs: Mapping[str, Path],
    inputs: Inputs,
    device: str | None = None,
) -> None:
    """Write the sidecar of a job, the last of its files.

    Args:
        path: the JSON to write.
        stamp: stage, key, code, numerics and settings, in values that JSON knows; it is written as
            it is, so paths in it have to be relative.
        outputs: the job's other outputs by name, files or folders.
        inputs: what they were made from by name: a file, a folder, or several in their order.
        device: model of the processor or GPU.

    Raises:
        FileNotFoundError: an output or an input is missing.
    """
    record = {
        "format": FORMAT,
        "stamp": stamp,
        "outputs": {name: sha256(file) for name, file in outputs.items()},
        "files": _files(path, outputs),
        "inputs": _digests(inputs),
        "device": device,
    }
    write_json(path, record)


def read_sidecar(path: Path) -> dict:
    """Read a sidecar.

    Raises:
        InputError: it is missing, or no sidecar of this format.
    """
    try:
        text = Path(path).read_bytes()
    except OSError:
        raise InputError(f"{path}: missing, so make it again: {RUN}") from None
    return parse_sidecar(text, path)


def parse_sidecar(text: bytes, path: str | Path) -> dict:
    """What a sidecar's text holds. Raises InputError as `read_sidecar`; `path` names it."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    right = isinstance(record, dict) and set(record) == FIELDS and record["format"] == FORMAT
    right = right and all(isinstance(record[name], dict) for name in FIELDS - PLAIN)
    right = right and all(
        isinstance(value, str) for name in ("outputs", "files") for value in record[name].values()
    )
    if not right or set(record["outputs"]) != set(record["files"]):
        raise InputError(f"{path}: not a sidecar of format {FORMAT}; {_remedy(path)}")
    return record


def check(path: Path, stamp: dict, names: Sequence[str] | None = None) -> dict:
    """Read a sidecar and make sure that it fits the plan, and the outputs fit it.

    Args:
        path: the sidecar.
        stamp: what the plan says; stage, key, code and numerics are compared.
        names: the outputs to check; None: all of them.

    Returns:
        The sidecar.

    Raises:
        InputError: the sidecar is missing, made by another plan or of other files, or an output is
            missing or was changed since.
    """
    record = _checked(path, stamp, names)
    own = Path(path).stem
    stems = [Path(file).stem for file in record["files"].values() if Path(file).name == file]
    # All shards of a stage have one stamp, so a sidecar could be that of another.
    if not record["files"] or (own[:4].isdecimal() and own not in stems):
        raise InputError(f"{path}: does not list the files beside it; {_remedy(path)}")
    return record


def _checked(path: Path, stamp: dict, names: Sequence[str] | None) -> dict:
    record = read_sidecar(path)
    for field in COMPARED:
        made, planned = record["stamp"].get(field), _plain(stamp.get(field))
        if made != planned:
            raise InputError(
                f"{path}: made with {field} {json.dumps(made)}, and the plan has "
                f"{json.dumps(planned)}; {_remedy(path)}"
            )
    for name in record["outputs"] if names is None else names:
        if name not in record["outputs"]:
            raise InputError(f"{path}: does not say what {name} is; {_remedy(path)}")
        file = Path(os.path.normpath(Path(path).parent / record["files"][name]))
        if not file.exists():
            raise InputError(f"{file}: missing; {_remedy(path)}")
        if sha256(file) != record["outputs"][name]:
            raise InputError(f"{file}: changed since the job that made it; {_remedy(path)}")
    return record


def same(made: Mapping, stamp: Mapping) -> bool:
    """Whether a job need not run again for its stamp, and that of what it has made."""
    return all(made.get(field) == _plain(stamp.get(field)) for field in (*COMPARED, "images"))


def check_bytes(record: dict, path: str | Path, data: bytes) -> None:
    """Make sure that an output is what its sidecar says, wherever both are kept.

    Args:
        record: what the sidecar holds.
        path: of the output, in its sidecar's folder.
        data: what the output holds.

    Raises:
        InputError: it was changed since, or is not an output of that job.
    """
    name = next((n for n, file in record["files"].items() if file == Path(path).name), None)
    if name is None or hashlib.sha256(data).hexdigest() != record["outputs"][name]:
        sidecar = Path(path).with_name("sidecar.json")
        raise InputError(f"{path}: changed since the job that made it; {_remedy(sidecar)}")


def current(
    path: Path, stamp: dict, inputs: Inputs, outputs: Mapping[str, Path] | None = None
) -> bool:
    """Whether a job may keep its outputs: plan, inputs and outputs are what the sidecar says.

    Args:
        path: the sidecar.
        stamp: what the plan says.
        inputs: as for `write_sidecar`.
        outputs: the files that the sidecar has to speak of; None: whichever it does.

    Raises:
        FileNotFoundError: an input is missing.
    """
    try:
        record = _checked(path, stamp, None)
    except InputError:
        return False
    if not same(record["stamp"], stamp):
        return False
    if outputs is not None and record["files"] != _files(path, outputs):
        return False
    return record["inputs"] == _digests(inputs)


def plan(stamp: dict, inputs: Inputs) -> str:
    """A digest of what decides a job's outputs: of all that `current` compares of it."""
    what = [[stamp.get(field) for field in COMPARED], _digests(inputs)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _files(path: Path, outputs: Mapping[str, Path]) -> dict[str, str]:
    """The paths of outputs, relative to their sidecar."""
    folder = Path(path).parent
    return {name: Path(os.path.relpath(file, folder)).as_posix() for name, file in outputs.items()}


def _digests(inputs: Inputs) -> dict[str, str]:
    found = {}
    for name, files in inputs.items():
        if isinstance(files, str | os.PathLike):
            found[name] = content_sha256(files)
        else:
            found[name] = combined([content_sha256(file) for file in files])
    return found


def combined(digests: Sequence[str]) -> str:
    """The digest of several files in their order, from theirs."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _plain(value: object) -> object:
    """A value as it comes back from JSON (tuples are lists, keys are strings)."""
    return json.loads(json.dumps(value))


def _remedy(path: str | Path) -> str:
    # Of a file that is gone every way to start a run sees that it is to be made, with any options.
    return f"make it again: rm {shlex.quote(str(path))}, and then {RUN}"
