"""Scenes of one to three emoji on named backgrounds, with exact masks.

A scene is a function of its generator alone. All arithmetic is on integers or inside Pillow, so
that the same scene has the same bytes on every machine.
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.demo.sprites import CODE_POINTS, load_sprites
from clip_wsss.demo.textures import LOWER, UPPER, WORDS, load_textures

CLASSES = tuple(CODE_POINTS)
# What a class is typically seen in front of: one word, or the upper and the lower part.
TYPICAL: dict[str, tuple[tuple[str, ...], ...]] = {
    "aeroplane": (("sky",), ("sky", "ground"), ("sky", "road")),
    "bicycle": (("wall", "road"), ("tree", "ground"), ("building", "road")),
    "bird": (("sky",), ("tree",), ("sky", "sea"), ("sky", "grass")),
    "boat": (("sky", "sea"), ("sea",), ("rock", "sea")),
    "bottle": (("wall",), ("wall", "ground")),
    "bus": (("building", "road"), ("sky", "road")),
    "car": (("building", "road"), ("tree", "road"), ("sky", "road")),
    "cat": (("wall",), ("wall", "ground"), ("tree", "grass")),
    "chair": (("wall",), ("wall", "ground")),
    "cow": (("sky", "grass"), ("tree", "grass"), ("grass",)),
    "diningtable": (("wall",), ("wall", "ground")),
    "dog": (("tree", "grass"), ("grass",), ("wall", "ground")),
    "horse": (("sky", "grass"), ("tree", "grass"), ("rock", "ground")),
    "motorbike": (("building", "road"), ("rock", "road"), ("wall", "road")),
    "person": (("building", "road"), ("wall",), ("sky", "grass"), ("tree", "ground")),
    "pottedplant": (("wall",), ("wall", "ground")),
    "sheep": (("sky", "grass"), ("grass",), ("rock", "grass")),
    "sofa": (("wall",), ("wall", "ground")),
    "train": (("sky", "railway"), ("tree", "railway"), ("building", "railway")),
    "tvmonitor": (("wall",),),
}
_AIRBORNE = ("aeroplane", "bird")
_MIN_OBJECT = 6  # thousandths of the pixels that a class must keep to be named
_MIN_BACKGROUND = 40  # likewise for a background
_MAX_OVERLAP = 25  # percent


@dataclass(frozen=True)
class Style:
    """How scenes are drawn; probabilities are percentages, sizes percent of the shorter side."""

    sizes: tuple[int, int] = (40, 80)
    counts: tuple[int, ...] = (0, 30, 40, 30)  # weights of 0, 1, 2, 3 objects
    typical: int = 75


@dataclass(frozen=True)
class SceneObject:
    """One visible object: its class (0-based id) and box (x0, y0, x1, y1), ends exclusive."""

    label: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 0 background, 1..20 classes, 255 too little of a class to be named.
        objects: visible objects from left to right.
        backgrounds: words of the backgrounds in view.
    """

    image: np.ndarray
    mask: np.ndarray
    objects: tuple[SceneObject, ...]
    backgrounds: tuple[str, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        """0-based class ids in view, each once, in the order of `objects`."""
        return tuple(dict.fromkeys(found.label for found in self.objects))


def draw_scene(
    rng: random.Random, width: int, height: int, style: Style, first: str | None = None
) -> Scene:
    """Draw a scene of that size; `first` fixes the class of one of its objects."""
    count = rng.choices(range(len(style.counts)), style.counts)[0]
    names = [rng.choice(CLASSES) for _ in range(count)]
    if first is not None:
        names[:1] = [first]
    parts = _choose_parts(rng, names, style.typical)
    canvas, horizon = _paint_background(rng, parts, width, height)
    owner = np.full((height, width), -1, np.int8)  # which object a pixel shows
    placed: list[int] = []
    for name in names:
        if _place(rng, name, style, canvas, owner, len(placed), horizon):
            placed.append(CLASSES.index(name))
    return _finish(canvas, owner, placed, parts, horizon)


def _choose_parts(rng: random.Random, names: list[str], typical: int) -> tuple[str, ...]:
    if names and rng.randrange(100) < typical:
        return rng.choice(TYPICAL[names[0]])
    if rng.randrange(100) < 40:
        return (rng.choice(WORDS),)
    return rng.choice(UPPER), rng.choice(LOWER)


def _paint_background(
    rng: random.Random, parts: tuple[str, ...], width: int, height: int
) -> tuple[Image.Image, int]:
    """Return the canvas and the first row of the lower part (the height if there is none)."""
    horizon = height if len(parts) == 1 else height * rng.randint(35, 65) // 100
    canvas = Image.new("RGB", (width, height))
    for word, top, bottom in zip(parts, (0, horizon), (horizon, height), strict=False):
        tile = rng.choice(load_textures()[word])
        x, y = rng.randrange(tile.width - width + 1), rng.randrange(tile.height - height + 1)
        if word == "sky":  # its gradient has a top
            y //= 3
        patch = tile.crop((x, y, x + width, y + bottom - top))
        if rng.randrange(2):
            patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas.paste(_tint(rng, patch, 90, 110), (0, top))
    return canvas, horizon


def _tint(rng: random.Random, image: Image.Image, low: int, high: int) -> Image.Image:
    """Scale each colour channel by its own percentage; alpha stays."""
    common = rng.randint(low, high)
    gains = np.array([common + rng.randint(-8, 8) for _ in range(3)], np.uint16)
    pixels = np.array(image)
    pixels[..., :3] = np.minimum(pixels[..., :3].astype(np.uint16) * gains // 100, 255)
    return Image.fromarray(pixels)


def _place(
    rng: random.Random,
    name: str,
    style: Style,
    canvas: Image.Image,
    owner: np.ndarray,
    index: int,
    horizon: int,
) -> bool:
    """Paste a sprite where it hides little; False if there is no room for it."""
    width, height = canvas.size
    sprite = rng.choice(load_sprites()[name])
    if rng.randrange(2):
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.randint(-12, 12)
    if rng.randrange(2):
        sprite = sprite.rotate(angle, Image.Resampling.BILINEAR, expand=True)
    sprite = _tint(rng, sprite, 82, 112)
    low, high = style.sizes
    size = rng.randint(low, high)
    for _ in range(8):
        side = max(8, min(width, height) * size // 100)
        scale = max(sprite.size)
        sized = sprite.resize(
            (max(3, sprite.width * side // scale), max(3, sprite.height * side // scale)),
            Image.Resampling.BILINEAR,
        )
        x, y = _position(rng, sized.size, canvas.size, horizon, name)
        opaque = np.asarray(sized.getchannel("A")) > 127
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + sized.width, width), min(y + sized.height, height)
        inside = opaque[y0 - y : y1 - y, x0 - x : x1 - x]
        window = owner[y0:y1, x0:x1]
        if _fits(inside, window, owner, index):
            canvas.paste(sized, (x, y), sized)
            window[inside] = index
            return True
        size = max(low, size * 9 // 10)
    return False


def _position(
    rng: random.Random, size: tuple[int, int], canvas: tuple[int, int], horizon: int, name: str
) -> tuple[int, int]:
    """Return the upper left corner; up to a tenth of the sprite may leave the picture."""
    (w, h), (width, height) = size, canvas
    x = rng.randint(-(w // 10), max(-(w // 10), width - w + w // 10))
    top, bottom = -(h // 10), max(-(h // 10), height - h + h // 10)
    if horizon < height and rng.randrange(100) < 80:
        if name in _AIRBORNE:  # centre above the horizon
            bottom = max(top, min(bottom, horizon - h // 2))
        else:  # feet below it
            top = min(bottom, max(top, horizon + height // 16 - h))
    return x, rng.randint(top, bottom)


def _fits(inside: np.ndarray, window: np.ndarray, owner: np.ndarray, index: int) -> bool:
    """Whether neither the new object nor one below it loses more than a quarter."""
    hidden = np.bincount(window[inside] + 1, minlength=index + 1)[1:]
    if not hidden.any():
        return True
    areas = np.bincount((owner + 1).ravel(), minlength=index + 1)[1:]
    if 100 * hidden.sum() > _MAX_OVERLAP * inside.sum():
        return False
    return bool((100 * hidden <= _MAX_OVERLAP * areas).all())


def _finish(
    canvas: Image.Image,
    owner: np.ndarray,
    placed: list[int],
    parts: tuple[str, ...],
    horizon: int,
) -> Scene:
    ids = np.array([0, *(label + 1 for label in placed)], np.uint8)
    mask = ids[owner + 1]
    pixels = mask.size
    areas = np.bincount(mask.ravel(), minlength=len(CLASSES) + 1)
    small = [label for label in placed if 1000 * areas[label + 1] < _MIN_OBJECT * pixels]
    for label in small:
        mask[mask == label + 1] = IGNORE
    objects = []
    for index, label in enumerate(placed):
        rows, columns = np.nonzero(owner == index)
        if label not in small and len(rows):
            left, top = int(columns.min()), int(rows.min())
            box = (left, top, int(columns.max()) + 1, int(rows.max()) + 1)
            objects.append(SceneObject(label, box))
    objects.sort(key=lambda found: (found.box[0], found.box[1], found.label))
    bands = (owner[:horizon] < 0, owner[horizon:] < 0)
    visible = [
        word
        for word, band in zip(parts, bands, strict=False)
        if 1000 * np.count_nonzero(band) >= _MIN_BACKGROUND * pixels
    ]
    return Scene(np.asarray(canvas), mask, tuple(objects), tuple(dict.fromkeys(visible)))
