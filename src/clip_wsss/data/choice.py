"""Which images the report shows."""

from collections import Counter

from clip_wsss.core.errors import InputError
from clip_wsss.data.bad_images import left_out
from clip_wsss.data.datasets import Dataset

POOL = 2000  # images that the panels are chosen from, at most


def choose(dataset: Dataset, split: str, count: int) -> list[str]:
    """Images for the panels: some with one class and some with more, of as many classes as can be.

    Takes, one after the other, the image whose classes were shown least so far; the wish for one,
    two and three classes alternates. The choice is the same for every run, and known before any
    job has run.

    Raises:
        InputError: an image that cannot be used (with `on_bad_image: skip` it is passed over).
    """
    ids = dataset.ids(split)
    pool = {}
    for name in ids[:: max(1, len(ids) // POOL)]:
        if (labels := _labels(dataset, name)) is not None:
            pool[name] = labels
    shown: Counter[int] = Counter()
    chosen: list[str] = []
    while pool and len(chosen) < count:
        wanted = 1 + len(chosen) % 3
        name = min(
            pool,
            key=lambda name: (
                abs(len(pool[name]) - wanted),
                max((shown[label] for label in pool[name]), default=0),
                sum(shown[label] for label in pool[name]),
            ),
        )
        labels = pool.pop(name)
        if _labels(dataset, name, whole=True) is not None:
            chosen.append(name)
            shown.update(labels)
    return chosen


def _labels(dataset: Dataset, name: str, whole: bool = False) -> list[int] | None:
    """Classes of an image; None for one that may be left out, its pixels read if `whole`."""
    try:
        if whole:
            dataset.image(name)
        return dataset.labels(name)
    except InputError as error:
        left_out(dataset, error)
        return None
