"""The dense CRF of pydensecrf, several times as fast, with the same labels.

Fully connected CRF of Krähenbühl and Koltun (2011) on the permutohedral lattice of Adams, Baek and
Davis (2010); `fast_crf.cpp` does the work. Where it cannot, pydensecrf does, and the reason is
recorded. One thread an image; the same input gives the same bytes.
"""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from clip_wsss.core.errors import InputError

NOT_BUILT = "the compiled part is missing; install a C++ compiler, then clip-wsss again"
NOT_FINITE = "a unary energy is not finite"
KEYS_DO_NOT_FIT = "the lattice coordinates do not fit 64 bits (small sxy or srgb, or a huge image)"

_KEYS_DO_NOT_FIT, _NO_MEMORY = 1, 2  # status codes of fast_crf.cpp


@dataclass(frozen=True)
class MeanField:
    """Numbers of a dense CRF: its two kernels and the iterations of the inference.

    Attributes:
        iterations: 0 or more.
        gaussian_sxy: standard deviation in pixels of the kernel of positions.
        gaussian_compat: its weight.
        bilateral_sxy: standard deviation in pixels of the kernel of positions and colours.
        bilateral_srgb: its standard deviation in grey levels.
        bilateral_compat: its weight.
    """

    iterations: int
    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float


def exact(unary: np.ndarray, rgb: np.ndarray, field: MeanField) -> np.ndarray:
    """pydensecrf itself; arguments and result as for `fast`."""
    import pydensecrf.densecrf as dcrf

    height, width = rgb.shape[:2]
    model = dcrf.DenseCRF2D(width, height, len(unary))
    model.setUnaryEnergy(np.array(unary, order="C"))  # copies: it refuses read-only arrays
    model.addPairwiseGaussian(sxy=field.gaussian_sxy, compat=field.gaussian_compat)
    model.addPairwiseBilateral(
        sxy=field.bilateral_sxy,
        srgb=field.bilateral_srgb,
        rgbim=np.array(rgb, order="C"),
        compat=field.bilateral_compat,
    )
    return np.array(model.inference(field.iterations)).reshape(len(unary), height, width)


def fast(
    unary: np.ndarray, rgb: np.ndarray, field: MeanField, fallbacks: list[str] | None = None
) -> np.ndarray:
    """Label probabilities after mean-field inference (docs/parity.md, fact 15).

    Args:
        unary: (C, H * W) float32, energies.
        rgb: (H, W, 3) uint8, of any size.
        field: the CRF.
        fallbacks: gets the reason appended where pydensecrf did the image instead.

    Returns:
        (C, H, W) float32, which sum to 1 over C. Labels and `maximum >= 0.95` differ from
        pydensecrf's on fewer than 1 pixel in 10,000.

    Raises:
        InputError: shapes or dtypes other than these.
    """
    check_inputs(unary, rgb)
    result, reason = _fast(unary, rgb, field)
    if result is not None:
        return result
    if fallbacks is not None:
        fallbacks.append(reason)
    return exact(unary, rgb, field)


def check_inputs(unary: np.ndarray, rgb: np.ndarray) -> None:
    """Raise InputError unless unary is (C, H * W) float32 and rgb (H, W, 3) uint8, none empty."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise InputError(f"rgb: must be (H, W, 3) uint8; got {rgb.shape} {rgb.dtype}")
    pixels = rgb.shape[0] * rgb.shape[1]
    if unary.ndim != 2 or not len(unary) or unary.shape[1] != pixels or unary.dtype != np.float32:
        raise InputError(f"unary: must be (C, {pixels}) float32; got {unary.shape} {unary.dtype}")


def _fast(unary: np.ndarray, rgb: np.ndarray, field: MeanField) -> tuple[np.ndarray | None, str]:
    """The probabilities, or None and why there are none."""
    labels, (height, width) = len(unary), rgb.shape[:2]
    library = _library()
    if library is None:
        return None, NOT_BUILT
    if not (np.isfinite(unary.min()) and np.isfinite(unary.max())):  # no array of truth values
        return None, NOT_FINITE
    if labels == 1:
        return np.ones((1, height, width), np.float32), ""
    try:
        gaussian = _gaussian(width, height, float(field.gaussian_sxy))
        bilateral = _Lattice(width, height, rgb, field.bilateral_sxy, field.bilateral_srgb)
    except _DoesNotFitError:
        return None, KEYS_DO_NOT_FIT
    unary = np.ascontiguousarray(unary)
    out = np.empty((labels, height, width), np.float32)
    status = library.crf_infer(
        gaussian.pointer,
        bilateral.pointer,
        unary.ctypes.data,
        labels,
        field.iterations,
        field.gaussian_compat,
        field.bilateral_compat,
        out.ctypes.data,
    )
    if status == _NO_MEMORY:
        raise MemoryError("the dense CRF of an image")
    return out, ""


class _DoesNotFitError(Exception):
    """A key of the lattice is wider than 64 bits, or a coordinate wider than pydensecrf's."""


class _Lattice:
    """A lattice in C++; without an image that of positions alone."""

    pointer: ctypes.c_void_p | None = None

    def __init__(
        self, width: int, height: int, rgb: np.ndarray | None, sxy: float, srgb: float
    ) -> None:
        pixels = None if rgb is None else np.ascontiguousarray(rgb)
        address, found = None if pixels is None else pixels.ctypes.data, ctypes.c_void_p()
        library = _library()
        assert library is not None  # `fast` has looked
        self._free = library.crf_free
        status = library.crf_build(width, height, address, sxy, srgb, ctypes.byref(found))
        if status == _KEYS_DO_NOT_FIT:
            raise _DoesNotFitError
        if status == _NO_MEMORY:
            raise MemoryError("the lattice of an image")
        self.pointer = found

    def __del__(self) -> None:
        if self.pointer:
            self._free(self.pointer)


@lru_cache(maxsize=8)  # a photograph's takes 17 MB; data sets have few sizes
def _gaussian(width: int, height: int, sxy: float) -> _Lattice:
    """The lattice of positions, which depends on nothing but the size."""
    return _Lattice(width, height, None, sxy, 1.0)


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled fast_crf.cpp, or None where the installation had no compiler for it."""
    found = importlib.util.find_spec("clip_wsss.masks._fast_crf")
    if found is None:
        return None
    library = ctypes.CDLL(found.origin)
    integer, real, pointer = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    library.crf_build.argtypes = [integer, integer, pointer, real, real, ctypes.POINTER(pointer)]
    library.crf_free.argtypes = [pointer]
    library.crf_free.restype = None
    library.crf_infer.argtypes = [*[pointer] * 3, integer, integer, real, real, pointer]
    return library
