"""Text features from a file, for towers whose text model runs elsewhere (docs/towers.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import load_npz
from clip_wsss.core.resources import missing


class Sentences:
    """Features by the literal sentence.

    Args:
        path: npz of texts (n,) and features (n, E), which need not be normalised.
        embedding: E of the vision tower.

    Raises:
        InputError: the file is not there or no such npz, or its features are of another width or
            not finite.
    """

    def __init__(self, path: Path, embedding: int):
        if not Path(path).is_file():
            raise InputError(f"text_features: {missing(path)}; docs/towers.md makes one")
        stored = load_npz(path)
        if not {"texts", "features"} <= set(stored) or stored["texts"].dtype.kind != "U":
            raise InputError(f"{path}: must hold texts (n,) and features (n, E); docs/towers.md")
        texts, features = stored["texts"], stored["features"]
        if features.shape != (len(texts), embedding):
            raise InputError(
                f"{path}: features of {len(texts)} texts are {features.shape}, must be "
                f"({len(texts)}, {embedding}) for this model"
            )
        if not np.isfinite(features).all() or not features.any(axis=1).all():
            raise InputError(f"{path}: features hold NaN, infinity or a zero row; make them again")
        if len(set(texts.tolist())) < len(texts):
            raise InputError(f"{path}: holds a sentence more than once; keep one of it")
        self.path, self.place = path, {str(text): row for row, text in enumerate(texts)}
        self.features = F.normalize(torch.from_numpy(features.astype(np.float32)), dim=-1)

    def __call__(self, texts: list[str]) -> Tensor:
        """Different texts -> (n, E) float32, normalised.

        Raises:
            InputError: one line that names a missing sentence.
        """
        lacking = [text for text in texts if text not in self.place]
        if lacking:
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise InputError(
                f"{self.path}: lacks the sentence '{lacking[0]}'{more}; make the file again with "
                "it (docs/towers.md)"
            )
        return self.features[[self.place[text] for text in texts]]
