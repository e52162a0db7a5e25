"""The demo's artwork, textures and scenes."""

import collections
import dataclasses
import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_wsss.data.vocabulary import IGNORE
from clip_wsss.demo import scenes
from clip_wsss.demo.build import scene_of, with_border
from clip_wsss.demo.scenes import CLASSES, WORLDS, Style, draw_scene
from clip_wsss.demo.sprites import load_sprites, sprite_names
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


def test_scenes_of_the_second_world_are_the_same_on_every_machine():
    drawn = [scene_of("val", 1, index, world=2) for index in range(20)]
    assert digest(*(scene.image for scene in drawn)) == "2937e86c9c452362"
    assert digest(*(scene.mask for scene in drawn)) == "f8106949dd9a9395"


def test_the_second_world_has_company_looks_and_clutter():
    drawn = [scene_of("train", 7, index, world=2) for index in range(300)]
    assert {scene.look for scene in drawn} == {"", *scenes.LOOKS}
    pairs = collections.Counter(
        frozenset(scene.labels) for scene in drawn if len(scene.labels) == 2
    )
    horse, person, sofa = map(CLASSES.index, ("horse", "person", "sofa"))
    assert pairs[frozenset((horse, person))] > 2
    assert pairs[frozenset((horse, sofa))] <= 1
    for scene in drawn:
        for found in scene.objects:
            assert found.sprite in sprite_names(2)[CLASSES[found.label]]


def test_clutter_is_background_and_hides_little():
    owner = np.full((64, 64), -1, np.int8)
    owner[16:48, 16:48] = 0
    changed = 0
    for seed in range(40):
        canvas, after = Image.new("RGB", (64, 64)), owner.copy()
        scenes._litter(random.Random(seed), canvas, after)
        assert (after == 0).sum() >= 0.8 * (owner == 0).sum()
        assert (after[owner < 0] == -1).all()
        changed += (after != owner).any()
    assert changed > 10


@settings(max_examples=60)
@given(
    st.integers(0, 10**9),
    st.integers(32, 120),
    st.integers(32, 120),
    st.sampled_from(sorted(WORLDS)),
)
def test_a_scene_agrees_with_itself(seed, width, height, world):
    style = dataclasses.replace(WORLDS[world], sizes=(30, 85), counts=(10, 30, 30, 30), typical=50)
    scene = draw_scene(random.Random(seed), width, height, style)
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
