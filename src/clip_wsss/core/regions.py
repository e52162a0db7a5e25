"""Ready-made regions of an image, which overlap (an npz of masks) or not (a PNG of numbers)."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import check_file
from clip_wsss.core.images import open_numbers
from clip_wsss.core.maps import load_npz
from clip_wsss.core.memory import check_memory

_REMEDY = "make it, or name another folder"


def read_regions(folder: str | os.PathLike, name: str, size: tuple[int, int]) -> np.ndarray:
    """Read the regions of an image: <name>.npz where it is there, else <name>.png.

    Args:
        folder: that holds the files.
        name: id of the image.
        size: (H, W) of the image.

    Returns:
        (n, H, W) bool, masks that may overlap; or (H, W) uint8 or uint16, their numbers with 0 for
        none.

    Raises:
        InputError: the file is missing, unreadable, of another size than the image, or neither a
            palette or grey PNG nor an npz whose `regions` are bool or 0 and 1.
    """
    picture, arrays = Path(folder) / f"{name}.png", Path(folder) / f"{name}.npz"
    if not os.path.lexists(arrays):
        with open_numbers(picture, f"no such map of regions; {_REMEDY}") as image:
            _check_size(picture, (image.height, image.width), size)
            return np.array(image)
    check_file(arrays, f"no such regions; {_REMEDY}")
    try:
        with zipfile.ZipFile(arrays) as archive:
            needed = sum(one.file_size for one in archive.infolist())
        check_memory(2 * needed, f"{arrays}: what it holds", "store fewer regions, or a PNG")
        regions = load_npz(arrays, ["regions"])["regions"]
    except InputError:
        raise
    except KeyError:
        raise InputError(f"{arrays}: must hold an array `regions`; {_REMEDY}") from None
    except Exception as error:  # zipfile has many
        raise InputError(f"{arrays}: not a whole npz ({one_line(error)}); {_REMEDY}") from None
    if regions.ndim != 3:
        raise InputError(f"{arrays}: regions must be (n, H, W); got {regions.shape}")
    _check_size(arrays, regions.shape[1:], size)
    if regions.dtype.kind not in "biu" or not np.isin(regions, (0, 1)).all():
        raise InputError(
            f"{arrays}: regions must be bool, or integers 0 and 1; got {regions.dtype}"
            f"{'' if regions.dtype.kind not in 'biu' else ' with others'}; save them as bool"
        )
    return regions.astype(bool)


def _check_size(path: Path, found: tuple[int, ...], size: tuple[int, int]) -> None:
    if tuple(found) != tuple(size):
        raise InputError(f"{path}: regions must be {size} as the image; got {tuple(found)}")
