"""Words of the demo: concepts and their names, captions of scenes, and the tokens that they use.

A concept is something a caption can name: one of the 20 classes, one of ten kinds of background,
or one of five words that are not in any scene. Every concept has several names, so that all
renames, synonyms and background words of the demo's runs are trained.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import open_clip

from clip_wsss.core.errors import InputError
from clip_wsss.core.resources import find
from clip_wsss.data.datasets import Vocabulary
from clip_wsss.demo.scenes import CLASSES
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
        templates: sentences with {} for what they name.
        names: the names of each concept, the usual one first; classes come first, in the order of
            their ids, then the ten backgrounds, then the words never seen.
    """

    templates: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]

    @property
    def never_seen(self) -> range:
        """Indices of the concepts that are not in any scene."""
        return range(len(CLASSES) + len(WORDS), len(self.names))

    def background(self, word: str) -> int:
        """Index of a background's concept."""
        return len(CLASSES) + WORDS.index(word)


def read_lexicon(templates: Path, vocabulary: Vocabulary) -> Lexicon:
    """Gather all names that the demo's runs may use.

    Args:
        templates: a file with one template a line.
        vocabulary: its renames and background words are trained, whatever the list.

    Raises:
        InputError: if its classes are not the demo's or a background word belongs to no concept.
    """
    if vocabulary.classes != CLASSES:
        raise InputError(f"{vocabulary.path}: the demo needs the 20 classes of PASCAL VOC in order")
    lines = find(templates).read_text(encoding="utf-8").splitlines()
    sentences = tuple(line for line in lines if line.strip() and not line.startswith("#"))
    objects = [
        (name, *(texts[name] for texts in vocabulary.names.values()), *_SYNONYMS.get(name, ()))
        for name in CLASSES
    ]
    concepts = [*objects, *(_BACKGROUNDS[word] for word in WORDS), *((w,) for w in _NEVER_SEEN)]
    known = {name for names in concepts for name in names}
    unknown = {word for words in vocabulary.backgrounds.values() for word in words} - known
    if unknown:
        raise InputError(f"{vocabulary.path}: the demo cannot draw {', '.join(sorted(unknown))}")
    return Lexicon(sentences, tuple(tuple(dict.fromkeys(names)) for names in concepts))


def concept_prompts(lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Return one prompt for each concept, name and template drawn at random."""
    return [
        rng.choice(lexicon.templates).format(_name(lexicon, concept, rng))
        for concept in range(len(lexicon.names))
    ]


def _name(lexicon: Lexicon, concept: int, rng: random.Random) -> str:
    """Half of the time the usual name, else any."""
    names = lexicon.names[concept]
    return names[0] if rng.randrange(2) else rng.choice(names)


def caption(
    lexicon: Lexicon, objects: Sequence[int], backgrounds: Sequence[int], rng: random.Random
) -> tuple[str, list[int]]:
    """Return a caption of a scene and the concepts that it names.

    It names all objects, or (4 times in 10) one of them, and the backgrounds 6 times in 10. A
    scene without objects is described by its backgrounds; one without either by no word.
    """
    named = list(objects)
    if len(named) > 1 and rng.randrange(10) < 4:
        named = [rng.choice(named)]
    rng.shuffle(named)
    text = "".join(
        (rng.choice(_JOINTS) if position else "") + _name(lexicon, concept, rng)
        for position, concept in enumerate(named)
    )
    if backgrounds and (not named or rng.randrange(10) < 6):
        places = " and ".join(_name(lexicon, concept, rng) for concept in backgrounds)
        text = text + rng.choice(_PLACES) + places if text else places
        named.extend(backgrounds)
    return rng.choice(lexicon.templates).format(text), named


class TokenTable:
    """The rows of CLIP's token embedding that the demo's texts use.

    Attributes:
        rows: (n,) int64, sorted ids of CLIP's byte-pair vocabulary.
    """

    def __init__(self, lexicon: Lexicon):
        names = [name for names in lexicon.names for name in names]
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
