"""What all frozen towers do with images, and all frozen CLIPs with texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from clip_wsss.models.tower import capped


class Images:
    """The part of `clip_wsss.models.tower.Tower` that knows no network.

    Attributes:
        patch: (height, width) of a patch in pixels.
        mean: (3,) float32, of the pixels in [0, 1].
        std: (3,) float32, their deviation.
        max_patches: of an image; a larger one is scaled down.
    """

    patch: tuple[int, int]
    mean: np.ndarray
    std: np.ndarray
    max_patches: int

    def grid(self, size: Sequence[float]) -> tuple[int, int]:
        """Patches (gh, gw) of an image of size (H, W): each side rounded up by itself."""
        return math.ceil(size[0] / self.patch[0]), math.ceil(size[1] / self.patch[1])

    def fitted(self, size: Sequence[float]) -> tuple[int, int]:
        """See `clip_wsss.models.tower.Tower`."""
        return capped(self.grid(size), self.max_patches)

    def preprocess(self, rgb: np.ndarray, scale: float = 1.0) -> Tensor:
        """An image at its own size (docs/parity.md, fact 2), or at a multiple of it.

        Args:
            rgb: (H, W, 3) uint8.
            scale: of the sides, before they are rounded up to whole patches. An image of more
                than `max_patches` is scaled down to these.

        Returns:
            (3, H', W') float32 on the CPU; sides are whole numbers of patches.
        """
        gh, gw = self.fitted((rgb.shape[0] * scale, rgb.shape[1] * scale))
        size = (gw * self.patch[1], gh * self.patch[0])
        resized = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))
        values = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
        scaled = ((values - self.mean) / self.std).T  # (3, 256), what each grey level becomes
        pixels = np.empty((3, *resized.shape[:2]), np.float32)
        for own, table, channel in zip(pixels, scaled, resized.transpose(2, 0, 1), strict=True):
            np.take(table, channel, out=own, mode="clip")
        return torch.from_numpy(pixels)


class TextEncoder:
    """The part of `clip_wsss.models.tower.Clip` that knows no vision tower.

    Attributes:
        encode: n different texts -> (n, E) float32 on the CPU, normalised.
        crop: an image -> (3, S, S) float32, CLIP's own square crop.
        embedding: E, of the features that images and texts share.
    """

    encode: Callable[[list[str]], Tensor]
    crop: Callable[[Image.Image], Tensor]
    embedding: int

    def preprocess_ordinary(self, rgb: np.ndarray) -> Tensor:
        """CLIP's own square crop, for classification: (H, W, 3) uint8 -> (3, S, S) float32."""
        return self.crop(Image.fromarray(rgb))

    @torch.no_grad()
    def encode_texts(self, texts: list[list[str]]) -> Tensor:
        """Text features, averaged over the texts of each item (docs/parity.md, fact 4).

        Args:
            texts: for each of n items, its texts (one for each template).

        Returns:
            (n, E) float32 on the CPU: each text normalised, their mean normalised again.

        Raises:
            InputError: a text is too long, or has a word that a compact vocabulary lacks.
        """
        if not texts:
            return torch.zeros(0, self.embedding)
        flat = list(dict.fromkeys(text for item in texts for text in item))
        features = self.encode(flat)
        place = {text: i for i, text in enumerate(flat)}
        means = [features[[place[text] for text in item]].mean(dim=0) for item in texts]
        return F.normalize(torch.stack(means), dim=-1)
