"""Words of the demo: lexicon, captions, tokens."""

import dataclasses
import random
from pathlib import Path

import pytest

from clip_wsss.core.errors import InputError
from clip_wsss.data.datasets import read_vocabulary
from clip_wsss.demo import spoken
from clip_wsss.demo.captions import TokenTable, caption, concept_prompts, read_lexicon
from clip_wsss.demo.scenes import CLASSES
from clip_wsss.demo.sprites import sprite_names
from clip_wsss.demo.textures import WORDS

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "config/templates/imagenet20.txt"


@pytest.fixture(scope="module")
def vocabulary():
    return read_vocabulary(ROOT / "config/vocabularies/voc12.yaml")


@pytest.fixture(scope="module")
def lexicon(vocabulary):
    return read_lexicon(TEMPLATES, vocabulary)


@pytest.fixture(scope="module")
def natural(vocabulary):
    return read_lexicon(TEMPLATES, vocabulary, world=2)


@pytest.fixture(scope="module")
def table(lexicon):
    return TokenTable(lexicon)


def test_classes_come_first_then_backgrounds_then_the_unseen(lexicon):
    assert [next(iter(names)) for names in lexicon.names[: lexicon.objects]] == list(CLASSES)
    assert lexicon.concept["sky"] == len(CLASSES)
    assert [next(iter(lexicon.names[concept])) for concept in lexicon.never_seen] == [
        "keyboard",
        "helmet",
        "valley",
        "bridge",
        "sign",
    ]
    names = [name for names in lexicon.names for name in names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("world", [1, 2])
def test_every_text_of_the_demos_runs_is_trained(vocabulary, world):
    lexicon = read_lexicon(TEMPLATES, vocabulary, world)
    words = {name for texts in vocabulary.names.values() for name in texts.values()}
    words |= {word for words in vocabulary.backgrounds.values() for word in words} | {*CLASSES}
    texts = [template.format(word) for template in lexicon.templates for word in sorted(words)]
    assert (TokenTable(lexicon).encode(texts) >= 0).all()


def test_an_untrained_word_has_no_row(table):
    assert (table.encode(["a photo of a zebra."]) < 0).any()


@pytest.mark.parametrize("world", [1, 2])
def test_a_caption_names_what_it_says(vocabulary, world):
    lexicon = read_lexicon(TEMPLATES, vocabulary, world)
    rng = random.Random(0)
    shown = ["1f4fa", "1f408", "sky"]
    for _ in range(200):
        said = caption(lexicon, shown[:2], shown[2:], rng)
        assert set(said.names) <= {name for key in shown for name in lexicon.spoken[key]}
        assert all(name in said.text for name in said.names)
        assert said.look == ""


def test_a_scene_without_objects_is_described_by_its_background(lexicon):
    for seed in range(20):
        said = caption(lexicon, [], ["sky"], random.Random(seed))
        assert set(said.names) <= {"sky", "cloud"}
        assert said.names


@pytest.mark.parametrize(("world", "concepts"), [(1, 35), (2, 42)])
def test_one_prompt_for_each_concept(vocabulary, world, concepts):
    lexicon = read_lexicon(TEMPLATES, vocabulary, world)
    prompts = concept_prompts(lexicon, random.Random(1))
    assert len(prompts) == len(lexicon.names) == concepts
    for prompt, names in zip(prompts, lexicon.names, strict=True):
        assert prompt.names[0] in names
        assert prompt.names[0] in prompt.text


def test_names_of_the_second_world_are_those_of_the_picture(natural):
    rng = random.Random(2)
    said = {
        key: {name for _ in range(300) for name in caption(natural, [key], [], rng).names}
        for key in ("1f4fa", "1f5a5", "1f6b6-200d-2642-fe0f", "1f6b6-200d-2640-fe0f")
    }
    television, computer, man, woman = said.values()
    assert "television" in television - computer
    assert "computer" in computer - television
    assert "man" in man - woman
    assert "woman" in woman - man
    assert "person" in man & woman


def test_usual_prompts_are_the_most_frequent_words(natural):
    prompts = concept_prompts(natural, random.Random(3), usual=True)
    texts = [prompt.text for prompt in prompts]
    assert {"a photo of a man.", "a photo of a tv.", "a photo of a plane."} <= set(texts)
    assert len(set(texts)) == len(texts)
    assert texts == [one.text for one in concept_prompts(natural, random.Random(4), usual=True)]


def test_what_is_spoken_of_the_second_world():
    sprites = {name for names in sprite_names(2).values() for name in names}
    assert set(spoken.SPRITE_NAMES) <= sprites
    assert tuple(spoken.CLASS_NAMES) == CLASSES
    assert set(spoken.BACKGROUND_NAMES) == set(WORDS)
    groups = (spoken.CLASS_NAMES, spoken.SPRITE_NAMES, spoken.BACKGROUND_NAMES)
    for names in (names for group in groups for names in group.values()):
        assert sum(names.values()) == 100
        assert next(iter(names)) == max(names, key=lambda name: names[name])


def test_a_look_is_named_of_a_picture_that_has_it(natural):
    rng = random.Random(5)
    for look, texts in (
        ("grey", ("black and white",)),
        ("drawn", ("drawing", "painting", "art of", "game")),
    ):
        said = [caption(natural, ["1f408"], [], rng, look) for _ in range(200)]
        named = [one for one in said if one.look]
        assert 80 < len(named) < 160  # 6 of 10
        assert all(any(text in one.text for text in texts) for one in named)


def test_a_vocabulary_that_the_demo_cannot_draw_is_refused(vocabulary):
    other = dataclasses.replace(vocabulary, classes=vocabulary.classes[::-1])
    with pytest.raises(InputError, match="20 classes"):
        read_lexicon(TEMPLATES, other)
    volcano = dataclasses.replace(vocabulary, backgrounds={"mine": ("sky", "volcano")})
    with pytest.raises(InputError, match="volcano"):
        read_lexicon(TEMPLATES, volcano)


def test_a_template_without_a_frequency_is_refused(vocabulary, tmp_path):
    (tmp_path / "mine.txt").write_text("a photo of a {}.\na sketch of a {}.\n")
    with pytest.raises(InputError, match="a sketch of a"):
        read_lexicon(tmp_path / "mine.txt", vocabulary, world=2)
