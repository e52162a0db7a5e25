"""Images on disk: RGB in, label masks with the VOC palette and 16-bit confidence maps in and out.

Files are written under another name and then moved into place, so that none is ever half there;
the same array gives the same bytes.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from clip_wsss.errors import InputError

CONFIDENCE_STEPS = 65535  # a confidence of 1 in a 16-bit PNG


@cache
def voc_palette() -> np.ndarray:
    """The colours of VOC's masks, (256, 3) uint8.

    The bits of a label, three at a time from the lowest, are the bits of red, green and blue
    from the highest: 1 is (128, 0, 0), 255 is (224, 224, 192).
    """
    labels = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Read an image whole, (H, W, 3) uint8 RGB, as stored (an EXIF orientation is not applied).

    Raises:
        InputError: it is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such image; add it or take it out of the list") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: not a whole image ({error}); replace it or take it out of the list"
        ) from None


def write_label(path: str | os.PathLike, label: np.ndarray) -> None:
    """Write a label mask, (H, W) uint8, as a PNG with the VOC palette."""
    image = Image.fromarray(np.ascontiguousarray(label, dtype=np.uint8))
    image.putpalette(voc_palette().tobytes())
    _atomically(path, lambda part: image.save(part, format="PNG"))


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Read a label mask, (H, W) uint8: the indices of a palette PNG, or the values of a grey one.

    Raises:
        InputError: it is missing, truncated, or a colour image.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise InputError(
                    f"{path}: a mask must be a palette or an 8-bit grey PNG, not {image.mode}; "
                    "store the class of each pixel"
                )
            return np.array(image)
    except FileNotFoundError:
        raise InputError(f"{path}: no such mask; add it") from None
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path}: not a whole mask ({error}); replace the file") from None


def write_confidence(path: str | os.PathLike, confidence: np.ndarray) -> None:
    """Write a confidence map, (H, W) float in [0, 1], as a 16-bit grey PNG, rounded."""
    steps = np.rint(np.asarray(confidence, dtype=np.float64) * CONFIDENCE_STEPS).astype(np.uint16)
    written, data = cv2.imencode(".png", steps)
    assert written
    _atomically(path, lambda part: part.write_bytes(data.tobytes()))


def read_confidence(path: str | os.PathLike) -> np.ndarray:
    """Read a confidence map, (H, W) float32 in [0, 1].

    Raises:
        InputError: it is missing or no 16-bit grey PNG.
    """
    steps = cv2.imread(os.fspath(path), cv2.IMREAD_UNCHANGED)
    if steps is None or steps.dtype != np.uint16 or steps.ndim != 2:
        raise InputError(f"{path}: not a 16-bit grey PNG of confidences; make it again")
    return (steps / np.float64(CONFIDENCE_STEPS)).astype(np.float32)


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _atomically(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    write(part)
    part.replace(path)
