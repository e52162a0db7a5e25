"""Pickled dictionaries of arrays, such as cls_labels.npy, read without running what they ask for.

Python's pickles name functions to be called. Here every name is looked up in a short list of
placeholders that only keep bytes, so nothing of the file is run.
"""

import io
import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import read_bytes

DTYPE_KINDS = "biufUS"  # kinds of numbers and texts that an array may hold


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: str, *rest: Any):
        self.code = code
        self.order: Literal["<", ">"] = "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in "<>" else "<"

    def real(self) -> np.dtype:
        found = np.dtype(self.code).newbyteorder(self.order)
        if found.kind not in DTYPE_KINDS:
            raise pickle.UnpicklingError(f"an array of {found}")
        return found


class _Array:
    """Stands in for an array: its shape, its type and its bytes."""

    def __init__(self, *rest: Any):
        self.value: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if (
            isinstance(data, list) and len(data) == 1
        ):  # one object, as numpy.save wraps a dictionary
            self.value = data[0]
        else:
            self.value = _values(data, dtype, shape, "F" if fortran else "C")


def _values(
    data: Any, dtype: _Dtype, shape: tuple = (), order: Literal["C", "F"] = "C"
) -> np.ndarray:
    raw = data.encode("latin1") if isinstance(data, str) else data  # text in Python 2's pickles
    return np.frombuffer(raw, dtype.real()).reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return _values(data, dtype).item()


def _frombuffer(data: Any, dtype: _Dtype, shape: tuple, order: Literal["C", "F"]) -> "_Array":
    array = _Array()
    array.value = _values(data, dtype, shape, order)
    return array


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): dict,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _NAMES[module, name]


def read_dictionary(path: Path) -> dict:
    """Read a dictionary that was written by `numpy.save` or `pickle.dump`.

    Its values are arrays of numbers or text, or plain Python.

    Raises:
        InputError: the file is missing, damaged, no dictionary, or asks for anything else.
    """
    stream = io.BytesIO(read_bytes(path, "no such file of labels; correct dataset.labels"))
    try:
        if stream.getvalue().startswith(np.lib.format.MAGIC_PREFIX):
            version = np.lib.format.read_magic(stream)
            reads = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = reads[version](stream)
            if shape != () or dtype.kind != "O":
                raise pickle.UnpicklingError(f"an array of {dtype} with the shape {shape}")
        found = _Unpickler(stream, encoding="latin1").load()
        if isinstance(found, _Array):
            found = found.value
        if not isinstance(found, dict):
            raise pickle.UnpicklingError("no dictionary")
    except Exception as error:  # a pickle fails in every way there is
        reason = one_line(error)
        raise InputError(
            f"{path}: must hold a dictionary of image ids and one-hot vectors, and nothing that "
            f"runs ({reason}); use numpy.save with a plain dictionary, or a CSV"
        ) from None
    return {key: one.value if isinstance(one, _Array) else one for key, one in found.items()}
