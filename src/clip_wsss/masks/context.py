"""What a mask refinement gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from clip_wsss.core.errors import InputError

if TYPE_CHECKING:
    from clip_wsss.cams.context import MapContext


@dataclass(frozen=True)
class MaskContext:
    """An image with its scores at full resolution.

    A mask refinement is `fn(context)` or `fn(context, settings)` and returns (1 + K, H, W) float32,
    whose argmax is the label and whose maximum is the confidence.

    Attributes:
        scores: (1 + K, H, W) in [0, 1], background first, not normalised: of maps float16, unless
            `scores` of masks is float32; of a prediction the probabilities of all classes, and of
            a finished online training its maker's scores, both float32.
        image: (H, W, 3) uint8.
        keys: the K classes of the scores, 0-based.
        id: of the image.
        maps: (K, gh, gw) float32 in [0, 1], on the grid; None for a prediction.
        device: torch's, for refinements that use it.
        names: what the texts of the maps call the K classes; empty for a prediction.
        background_names: their background words; likewise.
        towers: see `tower_of`.
    """

    scores: np.ndarray
    image: np.ndarray
    keys: Sequence[int] = ()
    id: str = ""
    maps: np.ndarray | None = None
    device: str = "cpu"
    names: Sequence[str] = ()
    background_names: Sequence[str] = ()
    towers: Callable[[MaskContext, str | None], MapContext] | None = field(default=None, repr=False)
    made: dict[str | None, MapContext] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[:2]

    def tower_of(self, name: str | None = None) -> MapContext:
        """What a CAM or an affinity gets of the image: pixels, attention, patch features, texts.

        A tower is loaded, and the image goes through it, when it is first asked for.

        Args:
            name: an entry of `models` that the settings name; it has no texts. None: the CLIP of
                the maps, with the texts of their cam.

        Returns:
            Without `maps`; `initial_maps()` makes those of the cam again.

        Raises:
            InputError: no setting is marked `Names("model")`, or the scores are a prediction's.
        """
        if self.towers is None:
            raise InputError(
                "refinement: it asks for a tower, which only masks made from maps have, and only "
                "if one of its settings is marked Names('model'); add the mark, or use it in masks"
            )
        if name not in self.made:
            self.made[name] = self.towers(self, name)
        return self.made[name]
