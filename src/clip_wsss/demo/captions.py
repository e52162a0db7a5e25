"""Words of the demo: concepts and their names, captions of scenes, and the tokens that they use.

A concept is something a caption can name: a kind of object, one of ten kinds of background, or one
of five words that are not in any scene. Every concept has several names, so that all renames,
synonyms and background words of the demo's runs are trained. In the first world the kinds of object
are the 20 classes, and all names and templates are as good as each other. In the second they are
what pictures are called most often (man, woman, tv, monitor), with the frequencies of `spoken.py`.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import open_clip

from clip_wsss.core.errors import InputError
from clip_wsss.core.resources import find
from clip_wsss.data.datasets import Vocabulary
from clip_wsss.demo import spoken
from clip_wsss.demo.scenes import CLASSES
from clip_wsss.demo.sprites import sprite_names
from clip_wsss.demo.textures import WORDS

# Other names that a user may want to try in a prompt.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "aeroplane": ("airplane", "plane", "aircraft"),
    "bicycle": ("bike",),
    "bird": ("avian",),
    "boat": ("ship",),
    "bus": ("coach",),
    "car": ("automobile",),
    "cat": ("kitten",),
    "chair": ("seat",),
    "cow": ("cattle",),
    "diningtable": ("dining table", "table"),
    "dog": ("puppy",),
    "horse": ("pony",),
    "motorbike": ("motorcycle",),
    "person": ("people", "human", "person with clothes"),
    "pottedplant": ("potted plant", "plant"),
    "sheep": ("lamb",),
    "sofa": ("couch",),
    "train": ("locomotive",),
    "tvmonitor": ("tv monitor", "television", "screen", "monitor"),
}
_BACKGROUNDS: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "cloud"),
    "wall": ("wall",),
    "building": ("building", "house"),
    "tree": ("tree",),
    "rock": ("rock", "mountain"),
    "grass": ("grass",),
    "sea": ("sea", "ocean", "water", "lake", "river"),
    "ground": ("ground", "land"),
    "road": ("road", "street"),
    "railway": ("railway", "railroad"),
}
_NEVER_SEEN = ("keyboard", "helmet", "valley", "bridge", "sign")
_JOINTS = (" and ", ", ", " with ", " near ")
_PLACES = (" on ", " in front of ", " near ", " with ", " and ")


@dataclass(frozen=True)
class Lexicon:
    """What captions are made of.

    Attributes:
        templates: sentences with {} for what they name, the look that they speak of (nothing: any)
            and how often they are used.
        spoken: the names of what a scene shows (a sprite, a background's word, a word never seen),
            and how often each is used.
        concepts: what each concept is made of, keys of `spoken`; objects come first, then the ten
            backgrounds, then the words never seen.
        objects: number of the concepts that are objects.
        keywords: percentage of objects that a caption calls by two of their names.
    """

    templates: Mapping[str, tuple[int, str]]
    spoken: Mapping[str, Mapping[str, int]]
    concepts: tuple[tuple[str, ...], ...]
    objects: int
    keywords: int = 0

    @cached_property
    def concept(self) -> dict[str, int]:
        """The concept of each key of `spoken`."""
        return {key: number for number, keys in enumerate(self.concepts) for key in keys}

    @cached_property
    def names(self) -> tuple[dict[str, int], ...]:
        """The names of each concept, summed over what it is made of, the most frequent first."""
        totals = [
            sum((Counter(self.spoken[key]) for key in keys), Counter()) for keys in self.concepts
        ]
        return tuple(dict(total.most_common()) for total in totals)

    @cached_property
    def words(self) -> dict[str, int]:
        """All names, numbered."""
        return {
            name: k for k, name in enumerate(dict.fromkeys(n for one in self.names for n in one))
        }

    @property
    def never_seen(self) -> range:
        """Indices of the concepts that are not in any scene."""
        return range(self.objects + len(WORDS), len(self.concepts))


@dataclass(frozen=True)
class Text:
    """A caption or a prompt, the names in it and the look that it speaks of."""

    text: str
    names: tuple[str, ...]
    look: str = ""


def read_lexicon(templates: Path, vocabulary: Vocabulary, world: int = 1) -> Lexicon:
    """Gather all names that the demo's runs may use.

    Args:
        templates: a file with one template a line.
        vocabulary: its renames and background words are trained, whatever the list.
        world: of the scenes.

    Raises:
        InputError: if its classes are not the demo's, or a name, a background word or a template
            is none of the demo's.
    """
    if vocabulary.classes != CLASSES:
        raise InputError(f"{vocabulary.path}: the demo needs the 20 classes of PASCAL VOC in order")
    lines = find(templates).read_text(encoding="utf-8").splitlines()
    sentences = tuple(line for line in lines if line.strip() and not line.startswith("#"))
    lexicon = _even(sentences, vocabulary) if world == 1 else _natural()
    unknown = {word for words in vocabulary.backgrounds.values() for word in words}
    unknown -= set(lexicon.words)
    if unknown:
        raise InputError(f"{vocabulary.path}: the demo cannot draw {', '.join(sorted(unknown))}")
    if strange := set(sentences) - set(lexicon.templates):
        raise InputError(f"{templates}: the demo has no frequency of {', '.join(sorted(strange))}")
    table, renames = (
        TokenTable(lexicon),
        [t for texts in vocabulary.names.values() for t in texts.values()],
    )
    for name in (*CLASSES, *renames):
        if (table.encode([name]) < 0).any():
            raise InputError(f"{vocabulary.path}: the demo has no such word: {name}")
    return lexicon


def _even(sentences: tuple[str, ...], vocabulary: Vocabulary) -> Lexicon:
    """The first world: half of the time the usual name, else any."""
    spoken: dict[str, dict[str, int]] = {}
    for name, sprites in sprite_names().items():
        renames = (texts[name] for texts in vocabulary.names.values())
        for sprite in sprites:
            spoken[sprite] = _half((name, *renames, *_SYNONYMS.get(name, ())))
    spoken |= {word: _half(_BACKGROUNDS[word]) for word in WORDS}
    spoken |= {word: {word: 1} for word in _NEVER_SEEN}
    concepts = (*sprite_names().values(), *((word,) for word in (*WORDS, *_NEVER_SEEN)))
    return Lexicon(dict.fromkeys(sentences, (1, "")), spoken, concepts, len(CLASSES))


def _half(names: Sequence[str]) -> dict[str, int]:
    first, *others = dict.fromkeys(names)
    return {first: len(others) + 2, **dict.fromkeys(others, 1)}


def _natural() -> Lexicon:
    """The second world: objects of one most frequent name are one concept."""
    spoken_of: dict[str, Mapping[str, int]] = {}
    usual: dict[str, list[str]] = {}
    for name, sprites in sprite_names(2).items():
        for sprite in sprites:
            spoken_of[sprite] = spoken.SPRITE_NAMES.get(sprite, spoken.CLASS_NAMES[name])
            usual.setdefault(next(iter(spoken_of[sprite])), []).append(sprite)
    spoken_of |= spoken.BACKGROUND_NAMES | {word: {word: 1} for word in _NEVER_SEEN}
    concepts = (*map(tuple, usual.values()), *((word,) for word in (*WORDS, *_NEVER_SEEN)))
    return Lexicon(spoken.TEMPLATES, spoken_of, concepts, len(usual), keywords=8)


def concept_prompts(lexicon: Lexicon, rng: random.Random, usual: bool = False) -> list[Text]:
    """Return one prompt for each concept, name and template drawn as often as they are used.

    Args:
        lexicon: what they are made of.
        rng: what draws.
        usual: take the most frequent name and template instead.
    """
    plain = {text: often for text, (often, look) in lexicon.templates.items() if not look}
    prompts = []
    for names in lexicon.names:
        name = next(iter(names)) if usual else _draw(rng, names)
        template = next(iter(plain)) if usual else _draw(rng, plain)
        prompts.append(Text(template.format(name), (name,)))
    return prompts


def _draw(rng: random.Random, frequencies: Mapping[str, int]) -> str:
    return rng.choices(list(frequencies), list(frequencies.values()))[0]


def caption(
    lexicon: Lexicon,
    objects: Sequence[str],
    backgrounds: Sequence[str],
    rng: random.Random,
    look: str = "",
) -> Text:
    """Return a caption of a scene.

    It names all objects, or (4 times in 10) one of them, and the backgrounds 6 times in 10. A
    scene without objects is described by its backgrounds; one without either by no word. What
    looks like no plain picture is said to 6 times in 10.

    Args:
        lexicon: what it is made of.
        objects: sprites.
        backgrounds: words of them.
        rng: what draws.
        look: of the scene.
    """
    shown = list(objects)
    if len(shown) > 1 and rng.randrange(10) < 4:
        shown = [rng.choice(shown)]
    rng.shuffle(shown)
    text, said = "", []
    for position, key in enumerate(shown):
        names = [_draw(rng, lexicon.spoken[key])]
        if lexicon.keywords and rng.randrange(100) < lexicon.keywords:
            names.append(_draw(rng, lexicon.spoken[key]))
        names = list(dict.fromkeys(names))
        text += (rng.choice(_JOINTS) if position else "") + rng.choice((" ", ",")).join(names)
        said += names
    if backgrounds and (not said or rng.randrange(10) < 6):
        names = [_draw(rng, lexicon.spoken[key]) for key in backgrounds]
        places = " and ".join(names)
        text = text + rng.choice(_PLACES) + places if text else places
        said += names
    spoken_of = look if look and rng.randrange(10) < 6 else ""
    fitting = {t: often for t, (often, about) in lexicon.templates.items() if about == spoken_of}
    return Text(_draw(rng, fitting).format(text), tuple(said), spoken_of)


class TokenTable:
    """The rows of CLIP's token embedding that the demo's texts use.

    Attributes:
        rows: (n,) int64, sorted ids of CLIP's byte-pair vocabulary.
    """

    def __init__(self, lexicon: Lexicon):
        names = list(lexicon.words)
        texts = [*names, *_JOINTS, *_PLACES]
        texts += [template.format(name) for template in lexicon.templates for name in names]
        self.rows = np.unique(tokenizer()(texts).numpy())
        self._position = np.full(int(self.rows[-1]) + 1, -1)
        self._position[self.rows] = np.arange(len(self.rows))

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return (n, 77) int64 positions in `rows`, -1 for a token that is not there.

        The last token of a text keeps the highest number, by which CLIP finds it.
        """
        return self._position[tokenizer()(texts).numpy()]


@lru_cache(maxsize=1)
def tokenizer():
    """Return CLIP's standard tokenizer, context length 77."""
    return open_clip.get_tokenizer("ViT-B-32")
