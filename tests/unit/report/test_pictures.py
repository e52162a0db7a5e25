import io

import albums
import numpy as np
from PIL import Image

from clip_wsss.core.images import voc_palette
from clip_wsss.report.pictures import (
    Album,
    class_heat,
    colour_table,
    hatched_bytes,
    heat_overlay,
    label_bytes,
    photo_bytes,
    shrink,
)


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_heat_is_dark_where_maps_are_zero_and_bright_where_one_is_high():
    grey = np.full((8, 8, 3), 100, np.uint8)
    nothing = heat_overlay(grey, np.zeros((2, 4, 4), np.float32))
    assert np.ptp(nothing, axis=(0, 1)).max() == 0
    assert nothing[0, 0].max() < 45
    maps = np.zeros((2, 4, 4), np.float32)
    maps[1, :, :2] = 1
    heat = heat_overlay(grey, maps)
    assert (heat[:, :2].mean(axis=(0, 1)) > nothing[0, 0] + 80).all()
    assert (heat[:, -1] == nothing[:, -1]).all()


def test_colour_table_is_monotone_in_lightness():
    lightness = colour_table("inferno").astype(int) @ [299, 587, 114]
    assert (np.diff(lightness) > -2000).all()


def test_mask_picture_has_voc_colours_and_white_for_ignored():
    label = np.array([[0, 1], [15, 255]], np.uint8)
    colours = decode(label_bytes(label))
    palette = voc_palette()
    assert (colours == [[palette[0], palette[1]], [palette[15], [255, 255, 255]]]).all()


def test_what_is_dropped_is_hatched_and_the_rest_shows_the_image():
    dropped = np.zeros((16, 16), bool)
    dropped[:, 8:] = True
    drawn = np.asarray(Image.open(io.BytesIO(hatched_bytes(dropped))).convert("RGBA"))
    assert (drawn[:, :8, 3] == 0).all()
    veil, lines = drawn[0, 12], drawn[0, 8]  # (x + y) % 8 is 4, and 0
    assert veil.tolist() == [16, 18, 24, 150]
    assert lines.tolist() == [255, 255, 255, 255]
    assert drawn[1, 15].tolist() == lines.tolist()  # along the diagonal
    album = Album()
    below = album.add(label_bytes(np.full((16, 16), 1, np.uint8)))
    shown = albums.rgb(album, album.add(hatched_bytes(dropped)), below)
    assert shown[0, 0].tolist() == voc_palette()[1].tolist()
    assert shown[0, 8].tolist() == [255, 255, 255]


def test_the_heat_of_a_class_is_its_map_in_colours():
    values = np.zeros((4, 4), np.float32)
    values[:, 2:] = 1
    heat = class_heat(values, (40, 80), 20)
    assert heat.shape == (10, 20, 3)
    assert (heat[:, 0] == colour_table("inferno")[0]).all()
    assert (heat[:, -1] == colour_table("inferno")[255]).all()
    assert class_heat(values, (4, 8), 20).shape == (4, 8, 3)


def test_shrink_keeps_the_shape_and_never_enlarges():
    picture = np.zeros((40, 80, 3), np.uint8)
    assert shrink(picture, 20).shape == (10, 20, 3)
    assert shrink(picture, 200) is picture
    label = np.array([[0, 0, 7, 7]] * 4, np.uint8)
    assert set(np.unique(shrink(label, 2, nearest=True))) == {0, 7}


def test_album_keeps_a_picture_once():
    album = Album()
    red, blue = (np.full((4, 4, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    keys = [album.add(photo_bytes(picture)) for picture in (red, blue, red)]
    assert keys[0] == keys[2] != keys[1]
    assert len(album.pictures) == 2
    assert album.pictures[keys[0]].startswith("data:image/webp;base64,")
    assert album.size == sum(map(len, album.pictures.values()))
    assert np.abs(albums.rgb(album, keys[1]).astype(int) - blue).max() < 40
