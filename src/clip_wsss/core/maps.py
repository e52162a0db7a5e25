"""Maps of a shard of images: what they are, their file, and what becomes of them at full size.

One file holds one map a class and image at grid resolution: the initial maps of a cam, or the
refined maps of an affinity. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import atomic_path, check_file

if TYPE_CHECKING:
    from torch import Tensor

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)  # all of them, by their bits


@dataclass
class ImageMaps:
    """Maps of one image at grid resolution.

    Attributes:
        id: of the image.
        size: (H, W) of the image.
        keys: (K,) int64, 0-based classes in label order; K is 0 for an image without a class.
        maps: (K, gh, gw) float32 in [0, 1].
        scaled_down: whether the image was scaled down for them, since it has too many patches.
    """

    id: str
    size: tuple[int, int]
    keys: np.ndarray
    maps: np.ndarray
    scaled_down: bool = False


def write_maps(
    path: Path, images: Sequence[ImageMaps], skipped: dict[str, str] | None = None
) -> None:
    """Write a shard of maps; the same maps give the same bytes.

    The npz holds ids, sizes (n, 2), grids (n, 2), classes (n,): K of each image, keys: all keys
    one after the other, maps: all maps one after the other, flat, and the ids and reasons of
    skipped images; and where there are any, scaled_down: the images that were.
    """
    skipped = skipped or {}
    arrays: dict[str, Any] = {
        "ids": np.array([image.id for image in images], dtype=np.str_),
        "sizes": np.array([image.size for image in images], dtype=np.int32).reshape(-1, 2),
        "grids": np.array([image.maps.shape[1:] for image in images], np.int32).reshape(-1, 2),
        "classes": np.array([len(image.keys) for image in images], dtype=np.int32),
        "keys": _flat([image.keys for image in images], np.int16),
        "maps": _flat([image.maps for image in images], np.float32),
        "skipped": np.array(list(skipped), dtype=np.str_),
        "reasons": np.array(list(skipped.values()), dtype=np.str_),
    }
    if down := [image.id for image in images if image.scaled_down]:
        arrays["scaled_down"] = np.array(down, dtype=np.str_)
    write_npz(path, arrays, compressed=True)


def read_maps(path: Path) -> list[ImageMaps]:
    """Read a shard of maps, in the order in which they were written.

    Raises:
        InputError: the file is missing or no shard of maps.
    """
    shard = _load_shard(path)
    if problem := _problem(shard):
        raise InputError(f"{path}: is not a shard of maps ({problem}); delete it and run again")
    down = set(shard.get("scaled_down", np.zeros(0)).tolist())
    images, key, value = [], 0, 0
    for id_, size, (gh, gw), count in zip(
        shard["ids"], shard["sizes"], shard["grids"], shard["classes"], strict=True
    ):
        values = slice(value, value + count * gh * gw)
        images.append(
            ImageMaps(
                id=str(id_),
                size=(int(size[0]), int(size[1])),
                keys=shard["keys"][key : key + count].astype(np.int64),
                maps=shard["maps"][values].reshape(count, gh, gw),
                scaled_down=str(id_) in down,
            )
        )
        key, value = key + count, values.stop
    return images


def read_skipped(path: Path) -> dict[str, str]:
    """Images of a shard that were left out: id -> reason. Raises InputError as `read_maps`."""
    shard = _load_shard(path, "skipped", "reasons")
    if shard["skipped"].shape != shard["reasons"].shape or shard["skipped"].ndim != 1:
        raise InputError(
            f"{path}: is not a shard of maps (skipped are {shard['skipped'].shape}, reasons "
            f"{shard['reasons'].shape}); delete it and run again"
        )
    return dict(zip(shard["skipped"].tolist(), shard["reasons"].tolist(), strict=True))


def min_max(maps: Tensor) -> Tensor:
    """x - min, then x / (1e-7 + max), each map by itself (docs/parity.md, facts 7 and 12).

    Args:
        maps: (..., gh, gw).

    Returns:
        The same shape and precision, in [0, 1]; a constant map becomes zero.
    """
    maps = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return maps / (1e-7 + maps.amax(dim=(-2, -1), keepdim=True))


def upsample_maps(
    maps: np.ndarray, size: tuple[int, int], dtype: type[np.floating] = np.float16
) -> np.ndarray:
    """Full-resolution maps, no new min-max (docs/parity.md, facts 8 and 12).

    Args:
        maps: (K, gh, gw) float32 in [0, 1].
        size: (H, W).
        dtype: float16 as in the public code, or float32.

    Returns:
        (K, H, W) of that dtype.
    """
    height, width = size
    full = np.empty((len(maps), height, width), dtype)
    for slot, map_ in zip(full, maps, strict=True):
        slot[:] = cv2.resize(map_, (width, height), interpolation=cv2.INTER_LINEAR)
    return full


def background_scores(maps: np.ndarray, power: float) -> np.ndarray:
    """(1 - max)^p, in the maps' dtype throughout (docs/parity.md, fact 14): (K, H, W) -> (H, W).

    Without a map it is 1 all over.
    """
    if not len(maps):
        return np.ones(maps.shape[1:], maps.dtype)
    largest = maps.max(axis=0)
    if maps.dtype == np.float16:  # which numpy is slow with
        return _half_backgrounds(float(power))[largest.view(np.uint16)]
    return np.power(1 - largest, maps.dtype.type(power))


@lru_cache(maxsize=32)
def _half_backgrounds(power: float) -> np.ndarray:
    """(1 - x)^p of all float16, in the order of their bits."""
    with np.errstate(all="ignore"):  # most of them are in no map
        return np.power(1 - HALVES, np.float16(power))


def write_npz(path: Path, arrays: dict[str, Any], compressed: bool = False) -> None:
    """Write an npz; the same arrays give the same bytes."""
    with atomic_path(path) as part, part.open("wb") as file:  # savez adds .npz to a name
        (np.savez_compressed if compressed else np.savez)(file, **arrays)


def load_npz(path: Path, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of an npz, nothing unpickled: those with some names, or all.

    Raises:
        InputError: it cannot be read.
        KeyError: it has no array of a name.
    """
    check_file(path, "no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except KeyError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise InputError(f"{path}: not an npz that can be read ({one_line(error)})") from None


def _load_shard(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Arrays of a shard: those with some names, or all."""
    try:
        shard = load_npz(path, names)
    except KeyError:
        shard = {}
    if not set(names or ("ids", "sizes", "grids", "classes", "keys", "maps")) <= shard.keys():
        raise InputError(f"{path}: is not a shard of maps; delete it and run again")
    return shard


def _problem(shard: dict[str, np.ndarray]) -> str | None:
    """What is wrong with the arrays of a shard, or None."""
    count = shard["ids"].size
    for name, shape in (("ids", ()), ("sizes", (2,)), ("grids", (2,)), ("classes", ())):
        if shard[name].shape != (count, *shape):
            return f"{name} are {shard[name].shape}, not {(count, *shape)}"
        if name != "ids" and (shard[name].dtype.kind != "i" or (shard[name] < 0).any()):
            return f"{name} must be whole numbers of at least 0"
    if len(set(shard["ids"].tolist())) != count:
        return "two images have the same id"
    classes, grids = shard["classes"].astype(np.int64), shard["grids"].astype(np.int64)
    for name, wanted in (("keys", classes.sum()), ("maps", (classes * grids.prod(axis=1)).sum())):
        if shard[name].shape != (wanted,):
            return f"{name} are {shard[name].shape}, not {(int(wanted),)}"
    if shard["maps"].dtype.kind != "f" or not np.isfinite(shard["maps"]).all():
        return "maps must be finite numbers"
    if shard["keys"].dtype.kind != "i" or (shard["keys"] < 0).any():
        return "keys must be whole numbers of at least 0"
    return None


def _flat(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    if not arrays:
        return np.zeros(0, dtype=dtype)
    flat = [np.ravel(array) for array in arrays]
    return np.concatenate(flat, dtype=dtype, casting="same_kind")
