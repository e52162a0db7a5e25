"""Scenes of one to three emoji on named backgrounds, with exact masks.

A scene is a function of its generator alone. All arithmetic is on integers or inside Pillow, so
that the same scene has the same bytes on every machine.

There are two worlds. The first is the one that the shipped CLIP was trained on. The second, which
the demo renders, is closer to photographs and new to that CLIP: classes keep company with some
classes rather than others, things of no class lie about and hide parts of objects, objects cast
shadows, and some pictures are grey, coarse, bright or drawn. Its seeds were fixed before the first
training of a CLIP on it:

- seed 7, 400 scenes of `train`: development, for every choice (`demo/ladder.py`);
- seed 1: what the demo shows; seed 11, 400 scenes of `train`: the figures of the model card,
  measured once. `train` ranks the templates and is scored, as in the demo; no training of a CLIP
  sees either, since its generator has another key (`batches.py`).
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.demo.sprites import CODE_POINTS, load_clutter, load_sprites, sprite_names
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
# What is seen beside the first object of a scene of the second world, and how often.
COMPANY: dict[str, dict[str, int]] = {
    "aeroplane": {"person": 4, "car": 3, "aeroplane": 2, "bird": 1},
    "bicycle": {"person": 7, "car": 2, "bicycle": 1, "dog": 1},
    "bird": {"bird": 5, "boat": 2, "person": 1, "cow": 1},
    "boat": {"person": 4, "boat": 3, "bird": 3},
    "bottle": {"diningtable": 4, "person": 4, "chair": 2, "tvmonitor": 1},
    "bus": {"car": 5, "person": 5, "bicycle": 1},
    "car": {"person": 4, "car": 3, "bus": 2, "motorbike": 2, "bicycle": 1},
    "cat": {"sofa": 4, "chair": 2, "pottedplant": 2, "person": 1, "tvmonitor": 1},
    "chair": {"diningtable": 5, "sofa": 3, "tvmonitor": 2, "pottedplant": 2, "person": 2},
    "cow": {"cow": 5, "person": 2, "sheep": 1, "horse": 1},
    "diningtable": {"chair": 7, "bottle": 4, "person": 3, "pottedplant": 1},
    "dog": {"person": 5, "sofa": 2, "dog": 1, "sheep": 1, "cat": 1},
    "horse": {"person": 7, "horse": 3, "dog": 1},
    "motorbike": {"person": 7, "car": 3, "motorbike": 1},
    "person": {"bicycle": 2, "horse": 2, "dog": 2, "motorbike": 2, "car": 2, "chair": 2, "bus": 1},
    "pottedplant": {"chair": 4, "sofa": 3, "tvmonitor": 2, "cat": 1, "person": 1},
    "sheep": {"sheep": 6, "dog": 2, "person": 1, "cow": 1},
    "sofa": {"chair": 3, "cat": 3, "pottedplant": 2, "tvmonitor": 2, "person": 2, "dog": 1},
    "train": {"person": 7, "train": 1, "car": 1},
    "tvmonitor": {"chair": 3, "sofa": 3, "person": 2, "pottedplant": 2, "bottle": 1},
}
_AIRBORNE = ("aeroplane", "bird")
_MIN_OBJECT = 6  # thousandths of the pixels that a class must keep to be named
_MIN_BACKGROUND = 40  # likewise for a background
_MAX_HIDDEN = 20  # percent of an object that lies under clutter


@dataclass(frozen=True)
class Style:
    """How scenes are drawn; probabilities are percentages, sizes percent of the shorter side."""

    sizes: tuple[int, int] = (40, 80)
    counts: tuple[int, ...] = (0, 30, 40, 30)  # weights of 0, 1, 2, 3 objects
    typical: int = 75
    overlap: int = 25  # percent of an object that another may hide
    world: int = 1  # which sprites
    company: int = 0  # further objects that keep the first one company
    clutter: int = 0  # things of no class, at most
    shadows: int = 0  # objects with a shadow
    looks: int = 0  # scenes that are no plain picture


# What the scenes of a data set are like, by the number of the world.
WORLDS = {
    1: Style(),
    2: Style(overlap=35, world=2, company=65, clutter=2, shadows=50, looks=16),
}
LOOKS = ("grey", "coarse", "bright", "drawn")


@dataclass(frozen=True)
class SceneObject:
    """One visible object: its class (0-based id), box (x0, y0, x1, y1), ends exclusive, picture."""

    label: int
    box: tuple[int, int, int, int]
    sprite: str  # its name, see `sprite_names`


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) uint8, 0 background, 1..20 classes, 255 too little of a class to be named.
        objects: visible objects from left to right.
        backgrounds: words of the backgrounds in view.
        look: one of `LOOKS`, or nothing for a plain picture.
    """

    image: np.ndarray
    mask: np.ndarray
    objects: tuple[SceneObject, ...]
    backgrounds: tuple[str, ...]
    look: str = ""

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
    for later in range(1, len(names) if style.company else 0):
        if rng.randrange(100) < style.company:
            others = COMPANY[names[0]]
            names[later] = rng.choices(list(others), list(others.values()))[0]
    parts = _choose_parts(rng, names, style.typical)
    canvas, horizon = _paint_background(rng, parts, width, height)
    owner = np.full((height, width), -1, np.int8)  # which object a pixel shows
    for _ in range(rng.randint(0, style.clutter) if style.clutter else 0):
        _litter(rng, canvas, owner)
    placed: list[tuple[int, str]] = []  # class and sprite
    for name in names:
        sprite = _place(rng, name, style, canvas, owner, len(placed), horizon)
        if sprite:
            placed.append((CLASSES.index(name), sprite))
    if style.clutter and rng.randrange(100) < 35:  # before the objects
        _litter(rng, canvas, owner)
    scene = _finish(canvas, owner, placed, parts, horizon)
    if style.looks and rng.randrange(100) < style.looks:
        look = rng.choice(LOOKS)
        scene = replace(scene, look=look, image=np.asarray(_LOOKS[look](canvas)))
    return scene


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
) -> str:
    """Paste a sprite where it hides little; return its name, nothing if there is no room for it."""
    width, height = canvas.size
    chosen = rng.choice(range(len(load_sprites(style.world)[name])))
    sprite = load_sprites(style.world)[name][chosen]
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
        if _fits(inside, window, owner, index, style.overlap):
            if style.shadows and rng.randrange(100) < style.shadows and name not in _AIRBORNE:
                _shade(canvas, (x, y + sized.height * 7 // 8), (sized.width, sized.height // 4))
            canvas.paste(sized, (x, y), sized)
            window[inside] = index
            return sprite_names(style.world)[name][chosen]
        size = max(low, size * 9 // 10)
    return ""


def _shade(canvas: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> None:
    """Darken an ellipse with soft edges."""
    spot = Image.new("L", (12, 12))
    ImageDraw.Draw(spot).ellipse((2, 2, 9, 9), fill=110)
    spot = spot.resize((max(4, size[0]), max(4, size[1])), Image.Resampling.BICUBIC)
    canvas.paste((24, 24, 32), corner, spot)


def _litter(rng: random.Random, canvas: Image.Image, owner: np.ndarray) -> None:
    """Paste a small thing of no class, if no object loses much by it."""
    sprite = rng.choice(load_clutter())
    side = max(6, min(canvas.size) * rng.randint(12, 26) // 100)
    scale = max(sprite.size)
    sized = sprite.resize(
        (max(3, sprite.width * side // scale), max(3, sprite.height * side // scale)),
        Image.Resampling.BILINEAR,
    )
    x = rng.randint(0, max(0, canvas.width - sized.width))
    y = rng.randint(0, max(0, canvas.height - sized.height))
    window = owner[y : y + sized.height, x : x + sized.width]
    opaque = np.asarray(sized.getchannel("A"))[: window.shape[0], : window.shape[1]] > 127
    hidden = np.bincount(window[opaque] + 1, minlength=int(owner.max()) + 2)[1:]
    areas = np.bincount((owner + 1).ravel())[1:]
    if (100 * hidden <= _MAX_HIDDEN * areas).all():
        canvas.paste(_tint(rng, sized, 82, 112), (x, y), sized)
        window[opaque] = -1


def _coarsen(image: Image.Image) -> Image.Image:
    """Show a third of the pixels a side."""
    small = image.resize(
        (max(1, image.width // 3), max(1, image.height // 3)), Image.Resampling.BOX
    )
    return small.resize(image.size, Image.Resampling.NEAREST)


_LOOKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda image: image.convert("L").convert("RGB"),
    "coarse": _coarsen,
    "bright": lambda image: image.point(lambda value: min(255, value * 3 // 2)),
    "drawn": lambda image: ImageOps.posterize(image, 2),
}


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


def _fits(
    inside: np.ndarray, window: np.ndarray, owner: np.ndarray, index: int, overlap: int = 25
) -> bool:
    """Whether neither the new object nor one below it loses more than that many percent."""
    hidden = np.bincount(window[inside] + 1, minlength=index + 1)[1:]
    if not hidden.any():
        return True
    areas = np.bincount((owner + 1).ravel(), minlength=index + 1)[1:]
    if 100 * hidden.sum() > overlap * inside.sum():
        return False
    return bool((100 * hidden <= overlap * areas).all())


def _finish(
    canvas: Image.Image,
    owner: np.ndarray,
    placed: list[tuple[int, str]],
    parts: tuple[str, ...],
    horizon: int,
) -> Scene:
    ids = np.array([0, *(label + 1 for label, _ in placed)], np.uint8)
    mask = ids[owner + 1]
    pixels = mask.size
    areas = np.bincount(mask.ravel(), minlength=len(CLASSES) + 1)
    small = [label for label, _ in placed if 1000 * areas[label + 1] < _MIN_OBJECT * pixels]
    for label in small:
        mask[mask == label + 1] = IGNORE
    objects = []
    for index, (label, sprite) in enumerate(placed):
        rows, columns = np.nonzero(owner == index)
        if label not in small and len(rows):
            left, top = int(columns.min()), int(rows.min())
            box = (left, top, int(columns.max()) + 1, int(rows.max()) + 1)
            objects.append(SceneObject(label, box, sprite))
    objects.sort(key=lambda found: (found.box[0], found.box[1], found.label))
    bands = (owner[:horizon] < 0, owner[horizon:] < 0)
    visible = [
        word
        for word, band in zip(parts, bands, strict=False)
        if 1000 * np.count_nonzero(band) >= _MIN_BACKGROUND * pixels
    ]
    return Scene(np.asarray(canvas), mask, tuple(objects), tuple(dict.fromkeys(visible)))
