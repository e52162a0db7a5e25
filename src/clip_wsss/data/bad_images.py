"""What a bad image does, by the data set's `on_bad_image`: end the job, or be listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_wsss.core.errors import InputError

if TYPE_CHECKING:
    from clip_wsss.data.datasets import Dataset


def may_be_left_out(dataset: Dataset) -> bool:
    """Whether an image that cannot be used is left out (`skip`) or ends the job (`fail`)."""
    return dataset.settings.get("on_bad_image", "fail") == "skip"


def left_out(dataset: Dataset, error: InputError) -> str:
    """The reason that an image is listed with when it is left out.

    Raises:
        InputError: `error` itself, where no image may be left out.
    """
    if not may_be_left_out(dataset):
        raise error
    return str(error)
