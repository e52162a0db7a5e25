"""PyTorch's checkpoints looked into without torch, and without executing what they hold.

A pickle names functions and classes that its reader calls. Here each name gives a placeholder that
does nothing, but for PyTorch's tensors, of which the shape is kept.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, NamedTuple

from clip_wsss.core.errors import InputError, one_line


class Inert:
    """Whatever a pickle wants to make or call: it takes everything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        """Be called."""
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Take an item of a list that is not a plain one."""

    def extend(self, items: Any) -> None:
        """Take several."""

    def add(self, item: Any) -> None:
        """Take an item of a set that is not a plain one."""


class Stored(NamedTuple):
    """A tensor of a checkpoint, without its values.

    Attributes:
        shape: of the tensor.
        stride: of its axes, in values.
        offset: of its first value in the storage.
        kind: class of the storage, as FloatStorage.
        key: of the storage: a file below data/ in the archive.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    kind: str
    key: str


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Stored:
    return Stored(tuple(size), tuple(stride), offset, *storage)


def _parameter(data: Any, *rest: Any) -> Any:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


# Python's own, since C's takes as much memory as a file asks for by the number of a memo.
class _Look(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return name
        return _KNOWN.get((module, name), Inert)

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        _, kind, key, *_ = pid  # "storage", its class, its key, where it was, how long it is
        return str(kind), str(key)


LARGEST = 2**28  # bytes of names and shapes; those of the largest models are a few MB
_MAGIC = 0x1950A86A20F9469CFC6C  # of torch's format before it was a zip file


def _look(file: IO[bytes]) -> Any:
    return _Look(file).load()


def look_into(path: str | Path) -> dict[str, Stored]:
    """Return names and shapes of the tensors of a checkpoint; values are not read.

    Args:
        path: a file of `torch.save`, in its present format or that of old versions.

    Raises:
        InputError: the file is missing, cannot be read, or holds no state dict.
    """
    if Path(path).suffix == ".safetensors":
        raise InputError(f"{path}: is a file of safetensors; save its tensors with torch.save")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if any(Path(name).name == "constants.pkl" for name in names):
                    raise InputError(
                        f"{path}: is a TorchScript model, which is code; save its state_dict()"
                    )
                inner = next((name for name in names if Path(name).name == "data.pkl"), "data.pkl")
                if archive.getinfo(inner).file_size > LARGEST:
                    raise ValueError(f"{inner} is larger than {LARGEST} bytes")
                with archive.open(inner) as file:
                    content = _look(file)
        else:
            with open(path, "rb") as file:
                if _look(file) != _MAGIC:
                    raise InputError(f"{path}: is not a file of torch.save; name one")
                _look(file), _look(file)  # the protocol, and the system that wrote it
                content = _look(file)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a file") from None
    except Exception as error:  # a pickle of someone else's may raise anything
        # A byte that is not an instruction, as in any file that is not a pickle.
        reason = "not a pickle" if isinstance(error, KeyError) else one_line(error)
        raise InputError(f"{path}: not a checkpoint that can be read ({reason})") from None
    return state_dict(content, path, Stored)


def state_dict(content: Any, path: str | Path, kind: type) -> dict[str, Any]:
    """The tensors of a checkpoint by name, which may lie below `state_dict` or `model`.

    Args:
        content: what the file holds.
        path: for messages.
        kind: of the tensors.

    Raises:
        InputError: there is no dictionary of tensors.
    """
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds no state dict; save one with torch.save")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, kind):
            raise InputError(
                f"{path}: holds no state dict ({name!r} is not a tensor); save one with torch.save"
            )
    return {name.removeprefix("module."): value for name, value in content.items()}
