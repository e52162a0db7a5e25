"""Classes that are held out: those of a vocabulary that no label shows (docs/zero-shot.md)."""

from collections.abc import Mapping, Sequence
from typing import Any

from clip_wsss.core.errors import InputError
from clip_wsss.core.spelling import unknown


def unseen_keys(dataset: Mapping[str, Any], classes: Sequence[str]) -> list[int]:
    """The classes that `dataset.unseen` names, 0-based and in the vocabulary's order.

    Args:
        dataset: the block of the config.
        classes: of the vocabulary.

    Returns:
        Keys in [0, C); none where nothing is held out.

    Raises:
        InputError: a name that is not a class or is there twice, or no class is left to see.
    """
    names = list(dataset.get("unseen") or ())
    for place, name in enumerate(names):
        if name not in classes:
            raise InputError(f"dataset.unseen: {unknown('class', name, classes)}")
        if name in names[:place]:
            raise InputError(f"dataset.unseen: lists {name} more than once; keep one")
    if names and len(names) == len(classes):
        raise InputError("dataset.unseen: lists all classes; leave one to be seen")
    return [key for key, name in enumerate(classes) if name in names]
