"""Made photographs of VOC's usual sizes, so that benchmarks need no data."""

import io

import cv2
import numpy as np
from PIL import Image

SIZES = [(375, 500)] * 9 + [(500, 375)] * 3 + [(333, 500)] * 3 + [(500, 333)]  # their usual (H, W)


def photograph(seed, size):
    """JPEG of a made image (H, W) about as rough as a photograph.

    Its bilateral lattice has 1.2 to 1.4 points a pixel; those of six VOC photographs had 0.8 to
    2.2, and decide what the CRF costs.
    """
    rng, (height, width) = np.random.default_rng(seed), size

    def smooth(cell, channels):
        coarse = rng.random((height // cell + 2, width // cell + 2, channels), np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        return fine.reshape(height, width, channels)

    image = 60 + 140 * smooth(160, 3)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(12):  # objects
        middle, radius = rng.uniform((0, 0), size), rng.uniform(0.05, 0.3) * width
        inside = (y - middle[0]) ** 2 * rng.uniform(0.5, 2) + (x - middle[1]) ** 2 < radius**2
        image[inside] = rng.uniform(0, 255, 3) + 40 * (smooth(60, 3)[inside] - 0.5)
    texture = sum(size * (smooth(cell, 1) - 0.5) for cell, size in ((40, 30), (12, 24), (4, 60)))
    image += texture * smooth(100, 1) + rng.normal(0, 10, image.shape)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def made(seed, size):
    """The pixels of `photograph`, (H, W, 3) uint8 RGB."""
    return np.asarray(Image.open(io.BytesIO(photograph(seed, size))).convert("RGB"))
