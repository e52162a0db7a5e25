"""Procedural backgrounds, one family of tiles for each of ten background words.

Only integer arithmetic, Pillow's fixed-point resampling and Python's own generator are used, so
that the tiles are the same bytes on every machine.
"""

import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

SIDE = 256
VARIANTS = 4
# Words whose texture makes a plausible upper and lower part of a scene.
UPPER = ("sky", "wall", "building", "tree", "rock")
LOWER = ("grass", "sea", "ground", "road", "railway")
WORDS = UPPER + LOWER


@lru_cache(maxsize=1)
def load_textures() -> dict[str, tuple[Image.Image, ...]]:
    """Return the RGB tiles (256 x 256) of every background word."""
    return {
        word: tuple(
            _PAINTERS[word](random.Random(1000 * k + variant)) for variant in range(VARIANTS)
        )
        for k, word in enumerate(WORDS)
    }


def _noise(rng: random.Random, columns: int, rows: int) -> Image.Image:
    """Return smooth grey noise: a random grid of that size, enlarged."""
    grid = np.frombuffer(rng.randbytes(columns * rows), np.uint8).reshape(rows, columns)
    return Image.fromarray(grid).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _mix(dark: tuple[int, ...], light: tuple[int, ...], grey: Image.Image) -> Image.Image:
    """Return the colours between two, chosen by a grey image."""
    weight = np.asarray(grey, dtype=np.int32)[..., None]
    dark_, light_ = np.asarray(dark, np.int32), np.asarray(light, np.int32)
    return Image.fromarray(((dark_ * (255 - weight) + light_ * weight) // 255).astype(np.uint8))


def _shift(rng: random.Random, colour: tuple[int, ...], by: int) -> tuple[int, ...]:
    return tuple(min(255, max(0, value + rng.randint(-by, by))) for value in colour)


def _sky(rng: random.Random) -> Image.Image:
    column = np.arange(SIDE, dtype=np.uint8)[:, None].repeat(SIDE, axis=1)
    image = _mix(
        _shift(rng, (96, 168, 236), 12), _shift(rng, (200, 230, 250), 8), Image.fromarray(column)
    )
    for _ in range(9):
        x, y, width = rng.randrange(-20, SIDE), rng.randrange(0, SIDE), rng.randrange(30, 60)
        puffs = Image.new("L", (SIDE, SIDE))
        draw = ImageDraw.Draw(puffs)
        for k in range(4):
            radius = width // 6 + rng.randrange(width // 6)
            cx = x + k * width // 4
            draw.ellipse((cx - radius, y - radius, cx + radius, y + radius // 3), fill=255)
        image.paste((244, 249, 253), mask=puffs)
    return image


def _grass(rng: random.Random) -> Image.Image:
    blades = ImageChops.add(_noise(rng, 96, 24), _noise(rng, 8, 8), 2)
    image = _mix(_shift(rng, (62, 130, 48), 10), _shift(rng, (140, 200, 84), 10), blades)
    draw = ImageDraw.Draw(image)
    for _ in range(260):
        x, y, height = rng.randrange(SIDE), rng.randrange(SIDE), rng.randrange(4, 9)
        draw.line((x, y, x + rng.randint(-2, 2), y - height), fill=(52, 112, 44))
    for _ in range(rng.choice((0, 24))):
        x, y = rng.randrange(SIDE), rng.randrange(SIDE)
        draw.rectangle((x, y, x + 2, y + 2), fill=rng.choice(((255, 236, 120), (250, 250, 250))))
    return image


def _sea(rng: random.Random) -> Image.Image:
    waves = ImageChops.add(_noise(rng, 6, 48), _noise(rng, 16, 20), 2)
    image = _mix(_shift(rng, (22, 92, 150), 10), _shift(rng, (70, 176, 206), 10), waves)
    draw = ImageDraw.Draw(image)
    for _ in range(90):
        x, y, width = rng.randrange(SIDE), rng.randrange(SIDE), rng.randrange(8, 22)
        draw.arc((x, y, x + width, y + 6), 200, 340, fill=(186, 226, 238))
    return image


def _ground(rng: random.Random) -> Image.Image:
    soil = ImageChops.add(_noise(rng, 64, 64), _noise(rng, 10, 10), 2)
    image = _mix(_shift(rng, (168, 122, 76), 10), _shift(rng, (226, 188, 136), 10), soil)
    draw = ImageDraw.Draw(image)
    for _ in range(130):
        x, y, width = rng.randrange(SIDE), rng.randrange(SIDE), rng.randrange(2, 6)
        draw.ellipse((x, y, x + width, y + width * 2 // 3), fill=_shift(rng, (140, 100, 66), 16))
    return image


def _road(rng: random.Random) -> Image.Image:
    grain = ImageChops.add(_noise(rng, 128, 128), _noise(rng, 6, 6), 2)
    image = _mix(_shift(rng, (66, 68, 76), 6), _shift(rng, (116, 118, 126), 6), grain)
    draw = ImageDraw.Draw(image)
    paint = rng.choice(((245, 245, 240), (250, 208, 70)))
    for y in range(18, SIDE, 50):
        for x in range(rng.randrange(-40, 0), SIDE, 46):
            draw.rectangle((x, y, x + 26, y + 4), fill=paint)
    return image


def _railway(rng: random.Random) -> Image.Image:
    image = _mix((108, 98, 92), (176, 166, 158), _noise(rng, 110, 110))
    draw = ImageDraw.Draw(image)
    for y in range(4, SIDE, 44):
        for x in range(rng.randrange(-12, 0), SIDE, 14):
            draw.rectangle((x, y, x + 6, y + 28), fill=_shift(rng, (92, 58, 40), 8))
        for rail in (y + 5, y + 20):
            draw.rectangle((0, rail, SIDE, rail + 3), fill=(206, 212, 220))
            draw.line((0, rail + 4, SIDE, rail + 4), fill=(58, 56, 60))
    return image


def _wall(rng: random.Random) -> Image.Image:
    mortar, brick = rng.choice(
        (((226, 214, 198), (196, 108, 84)), ((196, 176, 150), (232, 208, 172)))
    )
    image = Image.new("RGB", (SIDE, SIDE), mortar)
    draw = ImageDraw.Draw(image)
    for row, y in enumerate(range(0, SIDE, 12)):
        for x in range(-12 * (row % 2), SIDE, 24):
            draw.rectangle((x, y, x + 21, y + 9), fill=_shift(rng, brick, 9))
    return image


def _building(rng: random.Random) -> Image.Image:
    facade = rng.choice(((150, 128, 160), (186, 160, 196), (120, 112, 150)))
    image = Image.new("RGB", (SIDE, SIDE), _shift(rng, facade, 8))
    draw = ImageDraw.Draw(image)
    for y in range(5, SIDE, 28):
        draw.rectangle((0, y + 21, SIDE, y + 22), fill=tuple(value * 4 // 5 for value in facade))
        for x in range(rng.randrange(-4, 4), SIDE, 22):
            glass = rng.choice(((255, 226, 130), (70, 82, 120), (70, 82, 120), (96, 110, 150)))
            draw.rectangle((x, y, x + 12, y + 15), fill=(240, 236, 244))
            draw.rectangle((x + 2, y + 2, x + 10, y + 13), fill=glass)
    return image


def _tree(rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (24, 66, 40))
    draw = ImageDraw.Draw(image)
    for _ in range(420):
        x, y, radius = rng.randrange(-8, SIDE), rng.randrange(-8, SIDE), rng.randrange(6, 14)
        leaf = _shift(rng, rng.choice(((34, 92, 50), (46, 110, 56), (28, 78, 46))), 8)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=leaf)
        light = tuple(value + 16 for value in leaf)
        draw.ellipse((x - radius // 2, y - radius * 3 // 4, x + radius // 3, y), fill=light)
    return image


def _rock(rng: random.Random) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (128, 120, 112))
    draw = ImageDraw.Draw(image)
    for _ in range(480):
        x, y, size = rng.randrange(-24, SIDE), rng.randrange(-24, SIDE), rng.randrange(12, 40)
        left, top, right = rng.randrange(size), rng.randrange(size), rng.randrange(size)
        shade = rng.randrange(92, 166)
        corners = ((x + left, y), (x + size, y + top), (x + right, y + size), (x, y + top // 2))
        draw.polygon(corners, fill=(shade, shade - 6, shade - 14), outline=(84, 78, 74))
    return image


_PAINTERS = {
    "sky": _sky,
    "wall": _wall,
    "building": _building,
    "tree": _tree,
    "rock": _rock,
    "grass": _grass,
    "sea": _sea,
    "ground": _ground,
    "road": _road,
    "railway": _railway,
}
