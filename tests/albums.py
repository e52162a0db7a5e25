"""Pictures of a report's album, decoded."""

import base64
import io

import numpy as np
from PIL import Image


def picture(album, key: str) -> Image.Image:
    """A kept picture as it is in the page."""
    return Image.open(io.BytesIO(base64.b64decode(album.pictures[key].split(",", 1)[1])))


def rgb(album, key: str, below: str | None = None) -> np.ndarray:
    """A kept picture, (H, W, 3) uint8; what is transparent in it shows the one below."""
    image = picture(album, key).convert("RGBA")
    ground = Image.new("RGBA", image.size) if below is None else picture(album, below)
    ground = ground.convert("RGBA").resize(image.size)
    return np.asarray(Image.alpha_composite(ground, image).convert("RGB"))
