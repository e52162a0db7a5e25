"""Towers and trainings tried before the first map is made."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from clip_wsss.models.check import Asked, Prompts, check_models


def check_builds(
    models: Mapping[str, dict[str, Any]],
    attention: Sequence[Asked],
    entries: Mapping[str, dict[str, Any]],
    classes: int,
    prompts: Sequence[Prompts] = (),
    sizes: Sequence[Sequence[int]] = (),
) -> list[str]:
    """Look whether towers can be loaded, and trainings built.

    Args:
        models, attention, prompts: see `clip_wsss.models.check.check_models`.
        entries, classes, sizes: see `clip_wsss.segmentation.train.check_trainings`.

    Returns:
        A line for each that cannot; of the trainings once all towers can, which some are made of.
    """
    problems = check_models(models, attention, prompts)
    if entries and not problems:
        trainings = import_module("clip_wsss.segmentation.train")
        problems = trainings.check_trainings(entries, classes, sizes)
    return problems
