"""Images on disk or in memory: RGB in, label masks with the VOC palette and grey maps in and out.

Files are written under another name and then moved into place, so that none is ever half there;
the same array gives the same bytes.
"""

import hashlib
import io
import os
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from clip_wsss.core.errors import InputError

WHITE = {"L": 255, "I;16": 65535}  # in the two modes of a grey PNG


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
    write_bytes(path, encode_label(label))


def encode_label(label: np.ndarray) -> bytes:
    """A label mask, (H, W) uint8, as the bytes of a PNG with the VOC palette."""
    image = Image.fromarray(np.ascontiguousarray(label, dtype=np.uint8))
    image.putpalette(voc_palette().tobytes())
    return _png(image)


def encode_grey(values: np.ndarray) -> bytes:
    """A map, (H, W) uint8, as the bytes of a grey PNG."""
    return _png(Image.fromarray(np.ascontiguousarray(values, dtype=np.uint8)))


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Read a label mask, (H, W) uint8: the indices of a palette PNG, or the values of a grey one.

    Raises:
        InputError: it is missing, truncated, or a colour image.
    """
    return decode_label(_read(path, "mask"), str(path))


def decode_label(data: bytes, where: str) -> np.ndarray:
    """Take a label mask from the bytes of an image file; else like `read_label`.

    Raises:
        InputError: they are truncated, no image, or a colour image; `where` names them.
    """
    image = _decode(data, where, "mask")
    if image.mode not in ("P", "L"):
        raise InputError(
            f"{where}: a mask must be a palette or an 8-bit grey PNG, not {image.mode}; "
            "store the class of each pixel"
        )
    return np.array(image)


def read_fraction(path: str | os.PathLike) -> np.ndarray:
    """Read a grey PNG of 8 or 16 bits as shares of white: (H, W) float32 in [0, 1].

    Raises:
        InputError: it is missing, truncated, or of another kind.
    """
    image = _decode(_read(path, "confidence map"), str(path), "confidence map")
    if image.mode not in WHITE:
        raise InputError(
            f"{path}: a confidence map must be a grey PNG of 8 or 16 bits, not {image.mode}; "
            "store a confidence of 1 as white"
        )
    return (np.asarray(image) / np.float64(WHITE[image.mode])).astype(np.float32)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _read(path: str | os.PathLike, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}; add it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); replace it") from None


def _decode(data: bytes, where: str, what: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        known = not isinstance(error, UnidentifiedImageError)  # whose text names the buffer
        reason = error if known else "no image format that is known"
        raise InputError(f"{where}: not a whole {what} ({reason}); replace the file") from None
    return image


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file whole, under another name first; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
