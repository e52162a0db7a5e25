"""The classes of a data set, what prompts call them, and background words."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.core.images import Colour, voc_palette
from clip_wsss.core.plain import read_yaml
from clip_wsss.core.resources import find

IGNORE = 255  # ignore index of ground truth: borders, crowds
# Names of what is not a class: as one of the classes they would shift the others by one.
NO_CLASSES = {"background", "bg", "void", "unlabeled", "unlabelled", "ignore", "ignored"}


@dataclass(frozen=True)
class Vocabulary:
    """Classes of a data set and the words that prompts use for them.

    Attributes:
        classes: the C foreground classes; class c has the mask value c + 1.
        names: list name -> {class: text}, complete and in class order.
        backgrounds: list name -> background words.
        path: the file it was read from, for messages.
        colours: colour -> value of the masks: the background, the classes, and 255.
    """

    classes: tuple[str, ...]
    names: dict[str, dict[str, str]]
    backgrounds: dict[str, tuple[str, ...]]
    path: str = ""
    colours: Mapping[Colour, int] = field(default_factory=dict)

    def texts(self, name: str) -> dict[str, str]:
        """What every class is called in the list `name`. Raises InputError if there is none."""
        return _entry(self.names, name, "names", self.path)

    def background(self, name: str) -> tuple[str, ...]:
        """The background words of the list `name`. Raises InputError if there is none."""
        return _entry(self.backgrounds, name, "backgrounds", self.path)


def _entry(lists: Mapping, name: str, group: str, path: str):
    if name not in lists:
        known = ", ".join(lists) or "none"
        raise InputError(f"{path}: {group} has no list `{name}`; it has {known}")
    return lists[name]


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read a vocabulary: classes in the order of their ids, renames, background words, colours.

    The lists `plain` (no renames) and `none` (no background words) need not be written, nor
    `colours` (class, `background` or `ignored` -> [red, green, blue]), which are VOC's.

    Raises:
        InputError: the file is missing, malformed, or renames a class that it does not have.
    """
    return make_vocabulary(read_yaml(path), str(path))


def open_vocabulary(name: str | Path) -> Vocabulary:
    """A vocabulary of the suite by its name (voc12, coco14), or a file; see `read_vocabulary`."""
    own = find(f"config/vocabularies/{name}.yaml")
    return read_vocabulary(own if own.is_file() else name)


def make_vocabulary(content: Any, path: str) -> Vocabulary:
    """A vocabulary from what its file holds; see `read_vocabulary`.

    Args:
        content: of the file.
        path: of the file, for messages.
    """
    keys = {"classes", "names", "backgrounds"}
    if not isinstance(content, dict) or not keys <= set(content) <= keys | {"colours"}:
        raise InputError(
            f"{path}: needs exactly the keys classes, names and backgrounds, and if wanted colours"
        )
    classes = content["classes"]
    if not _is_words(classes) or not 1 <= len(classes) < 255:
        raise InputError(f"{path}: classes must be a list of 1 to 254 names, all of them text")
    if twice := duplicates(classes):
        raise InputError(f"{path}: classes lists {', '.join(twice)} more than once; keep one")
    for name in classes:
        if name != name.strip():
            raise InputError(f"{path}: classes: `{name}` has spaces around it; remove them")
        if name.strip("_ ").casefold() in NO_CLASSES:
            raise InputError(
                f"{path}: classes lists `{name}`; remove it: 0 is the background and 255 what is "
                "ignored, and the first class has the value 1"
            )
    names = {"plain": {key: key for key in classes}}
    for group in ("names", "backgrounds"):
        if not isinstance(content[group] or {}, dict):
            raise InputError(f"{path}: {group} must be a mapping of lists by name")
    for name, renames in (content["names"] or {}).items():
        if not isinstance(renames, dict) or not _is_words(list(renames.values())):
            raise InputError(f"{path}: names.{name} must map class names to text")
        if unknown := [key for key in renames if key not in classes]:
            raise InputError(
                f"{path}: names.{name} renames {', '.join(map(str, unknown))}, which is not "
                "among the classes; correct the spelling"
            )
        names[name] = {key: renames.get(key, key) for key in classes}
    for name, called in names.items():
        _check_told_apart(called, f"{path}: {'classes' if name == 'plain' else f'names.{name}'}")
    backgrounds: dict[str, tuple[str, ...]] = {"none": ()}
    for name, words in (content["backgrounds"] or {}).items():
        check_background(words, names, f"{path}: backgrounds.{name}")
        backgrounds[name] = tuple(words)
    colours = _colours(content.get("colours") or {}, classes, path)
    return Vocabulary(tuple(classes), names, backgrounds, path, colours)


def _check_told_apart(called: Mapping[str, str], where: str) -> None:
    """Refuse two classes of the same words: their maps would be equal, and the first would win."""
    found: dict[str, str] = {}
    for name, words in called.items():
        key = told(words)
        if key in found:
            raise InputError(
                f"{where}: {found[key]} and {name} have the same words in prompts, `{words}`, by "
                "which CLIP cannot tell them apart; give each its own"
            )
        found[key] = name


def check_background(words: Any, names: Mapping[str, Mapping[str, str]], where: str) -> None:
    """Refuse what is no list of background words, or names a class, whose pixels it would take.

    Args:
        words: of the background.
        names: what prompts call the classes, by the name of the list; `plain`: the classes.
        where: for messages.

    Raises:
        InputError: it is no list of words, or one is listed twice or is what a class is called.
    """
    if not _is_words(words):
        raise InputError(f"{where} must be a list of words")
    if twice := duplicates(map(told, words)):
        raise InputError(
            f"{where} lists `{twice[0]}` more than once, which would count as often; keep one"
        )
    for name, called in names.items():
        place, found = "classes" if name == "plain" else f"names.{name}", class_words(called)
        for word in words:
            if (label := found.get(told(word))) is not None:
                raise InputError(
                    f"{where}: `{word}` is what prompts call {label} in {place}, too, by which "
                    "CLIP cannot tell the class from the background; take the word out"
                )


def class_words(called: Mapping[str, str]) -> dict[str, str]:
    """What prompts call classes -> which; synonyms in one sentence have commas between them."""
    return {
        told(part): label for label, text in called.items() for part in (text, *text.split(","))
    }


def told(words: str) -> str:
    """Words as tokenizers of CLIP tell them apart."""
    return " ".join(words.lower().split())


def _colours(given, classes: list[str], path: str) -> dict[Colour, int]:
    """Colour -> value of a mask: those that are given, else VOC's."""
    values = {"background": 0, **{name: place for place, name in enumerate(classes, 1)}}
    values["ignored"] = IGNORE
    if not isinstance(given, dict) or not set(given) <= set(values):
        raise InputError(
            f"{path}: colours must map classes, background or ignored to [red, green, blue]"
        )
    found: dict[Colour, int] = {}
    for name, value in values.items():
        colour = given.get(name, voc_palette()[value].tolist())
        if not (
            isinstance(colour, list)
            and len(colour) == 3
            and all(type(part) is int and 0 <= part <= 255 for part in colour)
        ):
            raise InputError(f"{path}: colours.{name}: must be three numbers from 0 to 255")
        if tuple(colour) in found:
            raise InputError(f"{path}: colours.{name}: is the colour of another class, too")
        found[tuple(colour)] = value
    return found


def _is_words(value) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)


def duplicates(items) -> list[str]:
    """What a list holds more than once."""
    return [item for item, count in Counter(items).items() if count > 1]
