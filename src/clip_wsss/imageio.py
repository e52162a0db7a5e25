"""Images on disk: photographs, label PNGs with the VOC palette, 16-bit confidence PNGs.

Every file is written beside its place and then moved there, so that a killed job never leaves
half a file behind.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from clip_wsss.errors import InputError

CONFIDENCE_STEPS = 65535  # a confidence PNG holds confidence * 65535, rounded


def voc_palette() -> np.ndarray:
    """Colours of PASCAL VOC's label PNGs.

    Returns:
        (256, 3) uint8; row i is the RGB colour of label i.
    """
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8), lowest bit first
    channels = [
        sum(bits[:, channel + 3 * step] << (7 - step) for step in range(3 if channel < 2 else 2))
        for channel in range(3)
    ]
    return np.stack(channels, axis=1).astype(np.uint8)


def read_rgb(path: Path) -> np.ndarray:
    """Decode a photograph.

    Returns:
        (H, W, 3) uint8 RGB, as stored: an EXIF rotation is not applied.

    Raises:
        InputError: the file is missing, truncated or no image.
    """
    with _opened(path) as image:
        return np.array(image.convert("RGB"))


def read_label(path: Path) -> np.ndarray:
    """Read a label PNG with its indices, whatever its palette.

    Returns:
        (H, W) uint8; 0 background, 1..C classes, 255 ignored.

    Raises:
        InputError: the file is missing, truncated, or its pixels are colours, not indices.
    """
    with _opened(path) as image:
        if image.mode not in ("P", "L"):
            raise InputError(
                f"{path}: a label image holds class indices (mode P or L), this one has mode "
                f"{image.mode}; convert its colours to indices first"
            )
        return np.array(image)


def write_label(path: Path, label: np.ndarray) -> None:
    """Write (H, W) uint8 labels as a PNG with the VOC palette."""
    image = Image.fromarray(np.ascontiguousarray(label, dtype=np.uint8))
    image.putpalette(voc_palette().tobytes())
    _save(path, image)


def read_confidence(path: Path) -> np.ndarray:
    """Read a confidence PNG.

    Returns:
        (H, W) float32 in 0..1.

    Raises:
        InputError: the file is missing, truncated or has not 16 bits a pixel.
    """
    with _opened(path) as image:
        if not image.mode.startswith("I"):
            raise InputError(
                f"{path}: a confidence image has 16 bits a pixel, not mode {image.mode}"
            )
        return np.array(image).astype(np.float32) / np.float32(CONFIDENCE_STEPS)


def write_confidence(path: Path, confidence: np.ndarray) -> None:
    """Write (H, W) confidences in 0..1 as a 16-bit PNG, in steps of 1/65535."""
    steps = np.rint(confidence.astype(np.float64) * CONFIDENCE_STEPS)
    _save(path, Image.fromarray(steps.clip(0, CONFIDENCE_STEPS).astype(np.uint16)))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(path: Path) -> Image.Image:
    """Open and decode, so that a truncated file is noticed here."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that can be read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: the image is damaged ({error}); fetch it again") from None
    return image


def _save(path: Path, image: Image.Image) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    image.save(unfinished, format="PNG")
    os.replace(unfinished, path)
