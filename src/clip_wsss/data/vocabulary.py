"""The classes of a data set, what prompts call them, and background words."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from clip_wsss.core.errors import InputError
from clip_wsss.core.plain import read_yaml


@dataclass(frozen=True)
class Vocabulary:
    """Classes of a data set and the words that prompts use for them.

    Attributes:
        classes: the C foreground classes; class c has the mask value c + 1.
        names: list name -> {class: text}, complete and in class order.
        backgrounds: list name -> background words.
        path: the file it was read from, for messages.
    """

    classes: tuple[str, ...]
    names: dict[str, dict[str, str]]
    backgrounds: dict[str, tuple[str, ...]]
    path: str = ""

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


def read_vocabulary(path: str | os.PathLike) -> Vocabulary:
    """Read a vocabulary: classes in the order of their ids, renames, background words.

    The lists `plain` (no renames) and `none` (no background words) need not be written.

    Raises:
        InputError: the file is missing, malformed, or renames a class that it does not have.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or set(content) != {"classes", "names", "backgrounds"}:
        raise InputError(f"{path}: needs exactly the keys classes, names and backgrounds")
    classes = content["classes"]
    if not _is_words(classes) or not 1 <= len(classes) < 255:
        raise InputError(f"{path}: classes must be a list of 1 to 254 names, all of them text")
    if twice := duplicates(classes):
        raise InputError(f"{path}: classes lists {', '.join(twice)} more than once; keep one")
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
    backgrounds: dict[str, tuple[str, ...]] = {"none": ()}
    for name, words in (content["backgrounds"] or {}).items():
        if not _is_words(words):
            raise InputError(f"{path}: backgrounds.{name} must be a list of words")
        backgrounds[name] = tuple(words)
    return Vocabulary(tuple(classes), names, backgrounds, str(path))


def _is_words(value) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word for word in value)


def duplicates(items) -> list[str]:
    """What a list holds more than once."""
    return [item for item, count in Counter(items).items() if count > 1]
