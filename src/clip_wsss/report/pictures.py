"""Small pictures for a page: heat over an image, masks in colours, hatching, encoded."""

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
_HEAT_WEIGHT = 0.62  # of the heat over the grey image: dark where a map is low, both still readable
_HATCH = 8  # pixels from one line of the hatching to the next
# Of a palette picture with transparency: nothing, a veil over what is dropped, a line across it.
_HATCHING = ((0, 0, 0, 0), (16, 18, 24, 150), (255, 255, 255, 255))


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


def class_heat(values: np.ndarray, size: tuple[int, int], side: int) -> np.ndarray:
    """The map of one class in the colours of heat, to be laid over the grey image.

    Args:
        values: (gh, gw) float32 in [0, 1], on the grid.
        size: height and width of the image.
        side: longer side of the result, at most that of the image.

    Returns:
        (h, w, 3) uint8; it is smooth, so a page can enlarge it.
    """
    scale = min(1.0, side / max(size))
    small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    heat = upsample_maps(values[None], small)[0].astype(np.float32)
    return colour_table(HEAT)[np.rint(heat * 255).astype(np.uint8)]


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


def hatched_bytes(dropped: np.ndarray) -> bytes:
    """Encode a bool mask, (H, W), as PNG with hatching where it is true, else transparent."""
    y, x = np.indices(dropped.shape)
    lines = (x + y) % _HATCH < 2
    return _indexed(
        np.where(dropped, 1 + lines, 0).astype(np.uint8),
        np.array([one[:3] for one in _HATCHING], np.uint8),
        bytes(one[3] for one in _HATCHING),
    )


def _indexed(values: np.ndarray, palette: np.ndarray, alpha: bytes | None = None) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(values))
    image.putpalette(palette.tobytes())
    more = {} if alpha is None else {"transparency": alpha}
    return _encode(image, format="PNG", optimize=True, **more)


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

    @property
    def size(self) -> int:
        """Bytes that the pictures take in the page."""
        return sum(map(len, self.pictures.values()))
