"""What CAMs and affinities get of an image: one object, whose parts are made when asked for.

A batch goes through a tower once (`look`); each of its images is a `Look`. A `MapContext` is a look
with the texts of one cam, and for an affinity with its initial maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_wsss.core.errors import InputError
from clip_wsss.core.maps import min_max
from clip_wsss.models.tower import HELD, check_block, check_layers

if TYPE_CHECKING:
    import numpy as np

    from clip_wsss.models.tower import Tower

AttentionKind = Literal["qk", "qq", "kk", "vv"]


class _Copies(Sequence[Tensor]):
    """Tensors of which each who takes one gets a copy: what one method changes is its own."""

    def __init__(self, kept: Sequence[Tensor]) -> None:
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, place: Any) -> Any:
        found = self._kept[place]
        return _Copies(found) if isinstance(place, slice) else found.clone()


@dataclass(frozen=True)
class Look:
    """One image after the pass of a tower up to its last block.

    All methods of a pass share it, so who takes a tensor gets a copy.

    Attributes:
        tower: the model.
        grid: (gh, gw).
        streams: what enters each block, (1, P + N, D) each, P prefix tokens before N patches.
    """

    tower: Tower
    _pixels: Tensor
    grid: tuple[int, int]
    streams: Sequence[Tensor]
    _held: Tensor
    _complete: bool = False
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def pixels(self) -> Tensor:
        """(3, H', W') float32, fitted to whole patches and normalised."""
        return self._pixels.clone()

    @property
    def held(self) -> Tensor:
        """(n, N, N) float32, the head-averaged qk maps of the last n blocks."""
        self.complete()
        return self._held.clone()

    @property
    def holds(self) -> int:
        """How many of the last blocks have their maps in `held`."""
        return len(self._held)

    def complete(self, last: Tensor | None = None) -> None:
        """Put the last block's map (N, N) in its place of `held`; GradCAM's pass brings it."""
        if self._complete or not self.holds:
            return
        if last is None:
            last = self.tower.attention(-1, self.streams[-1], "qk", self.grid)[0]
        self._held[-1] = last
        object.__setattr__(self, "_complete", True)

    def mean_held(self, layers: int) -> Tensor:
        """Mean of the last maps of `held`: (N, N) float64."""
        self.complete()
        return self._held[-layers:].mean(dim=0, dtype=torch.float64)

    def attention(self, block: int = -1, kind: AttentionKind = "qk") -> Tensor:
        """See `MapContext.attention`."""
        layers = self.tower.layers
        if kind not in get_args(AttentionKind):
            raise InputError(f"attention: must be one of qk, qq, kk, vv; got {kind}")
        check_block(block, layers)
        from_last = block - layers if block >= 0 else block
        if kind == "qk" and -from_last <= self.holds:
            if from_last == -1:
                self.complete()
            return self._held[from_last].clone()
        return self.tower.attention(from_last, self.streams[from_last], kind, self.grid)[0]

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def forget(self) -> None:
        """Free what was made of the image."""
        self._made.clear()


def look(tower: Tower, batch: Tensor, held: int) -> list[Look]:
    """The images of a batch after one pass.

    Args:
        tower: the model.
        batch: (B, 3, H', W') float32 from `tower.preprocess`.
        held: how many attention maps come with it.
    """
    streams, attention = tower.passed(batch, held, HELD)
    grid = tower.grid(batch.shape[2:])
    return [
        Look(tower, batch[i], grid, _Copies([x[i : i + 1] for x in streams]), attention[i])
        for i in range(len(batch))
    ]


@dataclass(frozen=True)
class MapContext:
    """An image as a CAM or an affinity sees it.

    Attributes:
        id: of the image.
        image: (H, W, 3) uint8, at its own size.
        keys: the K classes in the image, 0-based.
        texts: (K, E) float32, features of these classes; None for a tower without texts.
        background: (M, E) float32, features of the background words.
        looked: the pass, see `Look`.
        maps: (K, gh, gw) float32 in [0, 1], the initial maps; None for a CAM.
        names: what the texts call the K classes, whatever the tower; empty where there are none.
        background_names: the M background words.
        other: the name of the tower, if it is another than the run's (`tower_of`).
        scale: of the image's sides, as this context sees it (`view`).
        flip: whether it is mirrored.
        own: the pass of the run's tower over the image as it is; None: `looked`.
        method: of your own that this context is handed to; empty for the suite's.
    """

    id: str
    image: np.ndarray
    keys: Sequence[int]
    texts: Tensor | None
    background: Tensor | None
    looked: Look
    maps: Tensor | None = None
    towers: Mapping[str, Tower] = field(default_factory=dict, repr=False)
    cam: Callable[[MapContext], Tensor] | None = field(default=None, repr=False)
    names: Sequence[str] = ()
    background_names: Sequence[str] = ()
    other: str | None = None
    scale: float = 1.0
    flip: bool = False
    own: Look | None = field(default=None, repr=False)
    method: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.image.shape[:2]

    @property
    def grid(self) -> tuple[int, int]:
        """(gh, gw), N = gh * gw patches, row by row."""
        return self.looked.grid

    @property
    def pixels(self) -> Tensor:
        """(3, H', W') float32: the image fitted to whole patches and normalised."""
        return self.looked.pixels

    @property
    def tower(self) -> Tower:
        """The model, see `clip_wsss.models.tower.Tower`."""
        return self.looked.tower

    def attention(self, block: int = -1, kind: AttentionKind = "qk") -> Tensor:
        """An attention map of a block, averaged over its heads, without prefix tokens.

        Args:
            block: 0 the first, -1 the last.
            kind: softmax of q k^T, q q^T, k k^T or v v^T, each over the root of a head's width.

        Returns:
            (N, N) float32; rows sum to at most 1, the rest goes to the prefix tokens. It is made
            again for each caller, but for the last blocks' qk, which come with the pass.
        """
        return self.looked.attention(block, kind)

    def last_blocks(self, layers: int) -> int:
        """How many of the last blocks an average is over; up to `HELD`, all where it has fewer.

        Raises:
            InputError: more are asked for, or none.
        """
        check_layers(layers, self.tower.layers)
        return min(layers, self.tower.layers)

    def mean_attention(self, layers: int, grid: tuple[int, int] | None = None) -> Tensor:
        """Mean of the last blocks' qk maps.

        Args:
            layers: how many blocks; all where the tower has fewer.
            grid: (gh, gw) of the result, for maps of another tower; None: as they are.

        Returns:
            (N, N) float64. Where attention is nearly even, the map hardly differs from patch to
            patch, and min-max would blow up what float32 rounds off.
        """
        layers = self.last_blocks(layers)

        def make() -> Tensor:
            if layers <= self.looked.holds:
                return self.looked.mean_held(layers)
            maps = [self.attention(-block) for block in range(layers, 0, -1)]
            return torch.stack(maps).mean(dim=0, dtype=torch.float64)

        mean = self.looked._once(("mean attention", layers), make).clone()
        return mean if grid in (None, self.grid) else fitted(mean, self.grid, grid)

    @property
    def features(self) -> Tensor:
        """(N, E) float32: patches in the space of the texts, normalised."""

        def make() -> Tensor:
            return self.tower.patches(self.looked.streams[-1], self.grid)[0]

        return self.looked._once("features", make).clone()

    def text_features(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Features of other sentences than those of the cam, made once a job.

        Args:
            texts: for each of n items its sentences, which are averaged.

        Returns:
            (n, E) float32, normalised.

        Raises:
            InputError: the tower has no texts, or cannot encode these.
        """
        tower: Any = self.tower
        if not hasattr(tower, "encode_texts"):
            raise InputError("text features: this tower has no texts; name a CLIP of open_clip")
        return _encoded(tower, tuple(map(tuple, texts))).to(tower.device, copy=True)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once an image and tower for each method; the suite's share it.

        Args:
            key: names all that it depends on beside the image and the tower: settings, texts, maps.
            make: what gives it. All get the same object, so leave it as it is.
        """
        return self.looked._once(("of a method", self.method, key), make)

    def tower_of(self, name: str) -> MapContext:
        """This view of the image through another tower, an entry of `models` that settings name.

        Its grid, attention and features are its own; it has no texts and no maps.

        Raises:
            InputError: no setting names this tower (`Names("model")` marks the field).
        """
        if name not in self.towers:
            raise InputError(f"tower {name}: a setting marked Names('model') must name it")

        seen = self._seen(name, self.scale, self.flip)
        return replace(seen, texts=None, background=None)

    def view(self, scale: float = 1.0, flip: bool = False) -> MapContext:
        """The same image at another scale, or mirrored, through the same tower.

        Both are of the image as it is, also where this is a view. Its `maps` are None;
        `initial_maps()` gives those of the view.
        """
        return self._seen(self.other, scale, flip)

    def _seen(self, name: str | None, scale: float, flip: bool) -> MapContext:
        own, whole = self.own or self.looked, scale == 1 and not flip

        def make() -> Look:
            tower = own.tower if name is None else self.towers[name]
            pixels = tower.preprocess(self.image, scale)
            # No maps of a view are held: they grow with the fourth power of the scale. Those that
            # are made are the same.
            return look(tower, (pixels.flip(2) if flip else pixels)[None], HELD if whole else 0)[0]

        is_own = name is None and whole
        looked = own if is_own else own._once(("tower", name, scale, flip), make)
        return replace(self, maps=None, looked=looked, other=name, scale=scale, flip=flip, own=own)

    def initial_maps(self) -> Tensor:
        """The initial maps of this view by the run's cam: (K, gh, gw) float32 in [0, 1]."""
        if self.maps is not None:
            return self.maps
        assert self.cam is not None  # each context of a pass has its cam
        return initial(self.cam(self))

    def mean_maps(self, scales: Sequence[float], flip: bool) -> Tensor:
        """The mean of the initial maps of several views: (K, gh, gw) float32 in [0, 1].

        Each view's maps are scaled to [0, 1] by themselves, since a gradient's size goes with the
        number of patches; mirrored back, brought to the grid of the image's own size (bilinear; the
        mean of what a coarser cell covers), and averaged.

        Args:
            scales: of the image's sides.
            flip: whether the mirror image of each scale counts too.
        """
        found = []
        for scale in scales:
            for mirrored in (False, True) if flip else (False,):
                view = self.view(scale, mirrored)
                maps = view.initial_maps()
                maps = (maps.flip(2) if mirrored else maps).flatten(1)
                found.append(maps if scale == 1 else _resized(maps, view.grid, self.grid))
        return torch.stack(found).mean(dim=0).unflatten(1, self.grid)


@lru_cache(maxsize=64)
def _encoded(clip: Any, texts: tuple[tuple[str, ...], ...]) -> Tensor:
    return clip.encode_texts([list(item) for item in texts])


def initial(raw: Tensor) -> Tensor:
    """Maps (..., gh, gw) scaled to [0, 1] as initial maps are: twice (docs/parity.md, fact 7)."""
    return min_max(min_max(finite(raw).float()))


def finite(maps: Tensor) -> Tensor:
    """Zero where the precision at hand lost the answer (docs/parity.md, last section)."""
    return torch.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)


def fitted(attention: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """An attention map of one grid brought to another.

    Args:
        attention: (N', N') of `grid`.
        grid: (gh', gw').
        wanted: (gh, gw).

    Returns:
        (N, N): linear over the keys, of which a coarser one gets the mean of what it covers, with
        each row's sum kept; then likewise over the queries.
    """
    rows = _resized(attention, grid, wanted)  # (N', N)
    rows = rows * (attention.sum(dim=1) / rows.sum(dim=1).clamp(min=1e-30))[:, None]
    return _resized(rows.T, grid, wanted).T


def _resized(rows: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Maps in the rows (n, N') brought from one grid to another: (n, N)."""
    maps = rows.reshape(-1, 1, *grid)
    how: dict[str, Any] = {"mode": "bilinear", "antialias": True, "align_corners": False}
    return F.interpolate(maps, wanted, **how).flatten(1)
