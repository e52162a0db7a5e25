"""Words of the demo: lexicon, captions, tokens."""

import dataclasses
import random
from pathlib import Path

import pytest

from clip_wsss.core.errors import InputError
from clip_wsss.data.datasets import read_vocabulary
from clip_wsss.demo.captions import TokenTable, caption, concept_prompts, read_lexicon
from clip_wsss.demo.scenes import CLASSES
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
def table(lexicon):
    return TokenTable(lexicon)


def test_classes_come_first_then_backgrounds_then_the_unseen(lexicon):
    assert [names[0] for names in lexicon.names[: len(CLASSES)]] == list(CLASSES)
    assert lexicon.background("sky") == len(CLASSES)
    assert [lexicon.names[concept][0] for concept in lexicon.never_seen] == [
        "keyboard",
        "helmet",
        "valley",
        "bridge",
        "sign",
    ]
    names = [name for names in lexicon.names for name in names]
    assert len(names) == len(set(names))


def test_every_text_of_the_demos_runs_is_trained(lexicon, table, vocabulary):
    words = {name for texts in vocabulary.names.values() for name in texts.values()}
    words |= {word for words in vocabulary.backgrounds.values() for word in words}
    assert words <= {name for names in lexicon.names for name in names}
    texts = [template.format(word) for template in lexicon.templates for word in sorted(words)]
    assert (table.encode(texts) >= 0).all()


def test_an_untrained_word_has_no_row(table):
    assert (table.encode(["a photo of a zebra."]) < 0).any()


def test_a_caption_names_what_it_says(lexicon):
    rng = random.Random(0)
    sky = lexicon.background(WORDS[0])
    for _ in range(200):
        text, named = caption(lexicon, [3, 7], [sky], rng)
        assert set(named) <= {3, 7, sky}
        for concept in named:
            assert any(name in text for name in lexicon.names[concept])


def test_a_scene_without_objects_is_described_by_its_background(lexicon):
    sky = lexicon.background("sky")
    for seed in range(20):
        assert caption(lexicon, [], [sky], random.Random(seed))[1] == [sky]


def test_one_prompt_for_each_concept(lexicon):
    prompts = concept_prompts(lexicon, random.Random(1))
    assert len(prompts) == len(lexicon.names) == 35
    for prompt, names in zip(prompts, lexicon.names, strict=True):
        assert any(name in prompt for name in names)


def test_a_vocabulary_that_the_demo_cannot_draw_is_refused(vocabulary):
    other = dataclasses.replace(vocabulary, classes=vocabulary.classes[::-1])
    with pytest.raises(InputError, match="20 classes"):
        read_lexicon(TEMPLATES, other)
    volcano = dataclasses.replace(vocabulary, backgrounds={"mine": ("sky", "volcano")})
    with pytest.raises(InputError, match="volcano"):
        read_lexicon(TEMPLATES, volcano)
