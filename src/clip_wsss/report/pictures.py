"""Small pictures for a page: heat over an image, masks and confidences in colours, encoded."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, field
from functools import cache

import cv2
import matplotlib
import numpy as np
from PIL import Image

from clip_wsss.core.images import voc_palette
from clip_wsss.core.maps import upsample_maps
from clip_wsss.data.vocabulary import IGNORE

HEAT = "inferno"  # of CAMs
CONFIDENCE = "cividis"  # of confidences
_HEAT_WEIGHT = 0.62  # of the heat over the grey image: dark where a map is low, both still readable
_CONFIDENCE_STEPS = 64  # as many colours as a palette picture needs


@cache
def colour_table(name: str) -> np.ndarray:
    """A colormap of matplotlib as (256, 3) uint8."""
    return (matplotlib.colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


@cache
def mask_palette() -> np.ndarray:
    """The VOC palette, (256, 3) uint8, with white for ignored pixels."""
    palette = voc_palette().copy()
    palette[IGNORE] = 255
    return palette


def heat_overlay(rgb: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The maximum over the classes of `maps` as heat over the image.

    Args:
        rgb: (H, W, 3) uint8.
        maps: (K, gh, gw) float32 in [0, 1], on the grid; K may be 0.

    Returns:
        (H, W, 3) uint8.
    """
    heat = upsample_maps(maps, rgb.shape[:2]).max(axis=0, initial=0).astype(np.float32)
    colours = colour_table(HEAT)[np.rint(heat * 255).astype(np.uint8)]
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[:, :, None].astype(np.float32)
    mixed = (1 - _HEAT_WEIGHT) * grey + _HEAT_WEIGHT * colours
    return np.rint(mixed).astype(np.uint8)


def shrink(picture: np.ndarray, side: int, nearest: bool = False) -> np.ndarray:
    """Picture with its longer side at most `side`; never enlarged."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA
    return cv2.resize(picture, size, interpolation=how)


def photo_bytes(rgb: np.ndarray, quality: int = 80) -> bytes:
    """Encode (H, W, 3) uint8 as WebP."""
    return _encode(Image.fromarray(rgb), format="WEBP", quality=quality)


def label_bytes(label: np.ndarray) -> bytes:
    """Encode a label mask, (H, W) uint8, as PNG in VOC's colours, ignored pixels white."""
    return _indexed(label, mask_palette())


def confidence_bytes(confidence: np.ndarray) -> bytes:
    """Encode confidences, (H, W) float in [0, 1], as PNG."""
    last = _CONFIDENCE_STEPS - 1
    table = colour_table(CONFIDENCE)[np.linspace(0, 255, _CONFIDENCE_STEPS).round().astype(int)]
    return _indexed(np.rint(confidence.clip(0, 1) * last).astype(np.uint8), table)


def _indexed(values: np.ndarray, palette: np.ndarray) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(values))
    image.putpalette(palette.tobytes())
    return _encode(image, format="PNG", optimize=True)


def _encode(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@dataclass
class Album:
    """Encoded pictures by the hash of their content."""

    pictures: dict[str, str] = field(default_factory=dict)  # key -> data URI

    def add(self, data: bytes) -> str:
        """Keep a picture and return its key; one that is there already is not kept twice."""
        kind = "png" if data.startswith(b"\x89PNG") else "webp"
        key = hashlib.sha256(data).hexdigest()[:10]
        self.pictures[key] = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        return key

    def rgb(self, key: str) -> np.ndarray:
        """A kept picture, (H, W, 3) uint8."""
        data = base64.b64decode(self.pictures[key].split(",", 1)[1])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    @property
    def size(self) -> int:
        """Bytes that the pictures take in the page."""
        return sum(map(len, self.pictures.values()))
