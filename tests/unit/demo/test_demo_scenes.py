"""The demo's artwork, textures and scenes."""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.demo import scenes
from clip_wsss.demo.build import scene_of, with_border
from clip_wsss.demo.scenes import CLASSES, Style, draw_scene
from clip_wsss.demo.sprites import load_sprites
from clip_wsss.demo.textures import WORDS, load_textures


def digest(*arrays):
    joined = hashlib.sha256()
    for array in arrays:
        joined.update(np.ascontiguousarray(array).tobytes())
    return joined.hexdigest()[:16]


def test_every_class_has_tightly_cut_sprites():
    sprites = load_sprites()
    assert tuple(sprites) == CLASSES
    for pictures in sprites.values():
        for sprite in pictures:
            opaque = np.asarray(sprite.getchannel("A")) > 127
            assert opaque[0].any()
            assert opaque[-1].any()
            assert opaque[:, 0].any()
            assert opaque[:, -1].any()


def test_water_runway_and_lamp_are_not_part_of_an_object():
    sprites = load_sprites()
    assert max(plane.height for plane in sprites["aeroplane"][2:]) <= 46
    assert sprites["boat"][1].height <= 48
    sofa = np.asarray(sprites["sofa"][0]).astype(int)
    red, green, _, alpha = np.moveaxis(sofa, -1, 0)
    assert (green > red)[alpha > 127].all()


def test_artwork_is_the_same_on_every_machine():
    sprites = [np.asarray(picture) for group in load_sprites().values() for picture in group]
    assert digest(*sprites) == "97c0e31582913708"
    tiles = [np.asarray(tile) for group in load_textures().values() for tile in group]
    assert digest(*tiles) == "4d65edc6df9a671f"


def test_scenes_are_the_same_on_every_machine():
    drawn = [scene_of("val", 1, index) for index in range(10)]
    assert digest(*(scene.image for scene in drawn)) == "83fac4b9daab24e5"
    assert digest(*(scene.mask for scene in drawn)) == "5b7d4f26b568463f"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(32, 120), st.integers(32, 120))
def test_a_scene_agrees_with_itself(seed, width, height):
    scene = draw_scene(random.Random(seed), width, height, Style((30, 85), (10, 30, 30, 30), 50))
    assert scene.image.shape == (height, width, 3)
    assert scene.mask.shape == (height, width)
    shown = set(np.unique(scene.mask).tolist()) - {0, IGNORE}
    assert shown == {label + 1 for label in scene.labels}
    assert set(scene.backgrounds) <= set(WORDS)
    for label in scene.labels:
        assert (scene.mask == label + 1).sum() * 1000 >= 6 * scene.mask.size
    for found in scene.objects:
        x0, y0, x1, y1 = found.box
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (scene.mask[y0:y1, x0:x1] == found.label + 1).any()
    assert [found.box for found in scene.objects] == sorted(found.box for found in scene.objects)


def test_a_class_with_too_few_pixels_is_ignored_and_not_named(monkeypatch):
    monkeypatch.setattr(scenes, "_MIN_OBJECT", 1000)
    scene = draw_scene(random.Random(3), 112, 112, Style(), first="cat")
    assert scene.labels == ()
    assert set(np.unique(scene.mask).tolist()) == {0, IGNORE}


def test_objects_hide_at_most_a_quarter():
    owner = np.full((8, 8), -1, np.int8)
    owner[:4, :4] = 0
    inside = np.ones((4, 4), bool)
    for shift, fits in ((4, True), (3, True), (2, False)):
        window = owner[:4, shift : shift + 4]
        assert scenes._fits(inside, window, owner, 1) is fits


def test_first_fixes_the_class():
    for index, name in enumerate(CLASSES):
        assert index in scene_of("train", 1, index).labels, name


def test_border_lies_outside_and_on_the_lower_class():
    mask = np.zeros((5, 6), np.uint8)
    mask[1:4, 1:3], mask[1:4, 3:5] = 2, 7
    expected = np.array(
        [
            [0, 255, 255, 255, 255, 0],
            [255, 2, 255, 7, 7, 255],
            [255, 2, 255, 7, 7, 255],
            [255, 2, 255, 7, 7, 255],
            [0, 255, 255, 255, 255, 0],
        ]
    )
    np.testing.assert_array_equal(with_border(mask), expected)


@pytest.mark.parametrize("word", WORDS)
def test_textures_are_opaque_tiles(word):
    for tile in load_textures()[word]:
        assert tile.mode == "RGB"
        assert tile.size == (256, 256)
        assert np.asarray(tile).std() > 4
