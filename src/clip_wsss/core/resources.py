"""Files that a config names: the user's own, or those that come with the suite.

Vocabularies, templates, segmentors, runs tables, configs and the demo's CLIP lie in the project: a
checkout, or the copy of its files in an installed package (`setup.py` puts it there).
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "project"
# Of a workflow that lies elsewhere than the package. In the environment, since jobs are processes.
WORKFLOW = "CLIP_WSSS_WORKFLOW"


def project() -> Path:
    """The folder that holds Snakefile, workflow, config and profiles."""
    if WORKFLOW in os.environ:
        return Path(os.environ[WORKFLOW])
    return INSTALLED if INSTALLED.is_dir() else PACKAGE.parents[1]


def checkout() -> Path | None:
    """The project where it is not a package's copy, so that its Git commit says what it holds."""
    return None if project() == INSTALLED else project()


def use_workflow(folder: str | os.PathLike) -> Path:
    """Make the files beside a Snakefile the project, in this process and in its jobs.

    Args:
        folder: of the Snakefile; what is not a folder here, such as an address, changes nothing.

    Returns:
        The project.
    """
    if Path(folder).is_dir():
        os.environ[WORKFLOW] = os.path.abspath(folder)
    return project()


def find(name: str | os.PathLike) -> Path:
    """The file that a config means by a name.

    Args:
        name: a path, relative to the working directory or to the project.

    Returns:
        The path as it was written where there is such a file, else the project's file of that
        name, else the path as it was written: of what is missing, or is not a file.
    """
    path = Path(name)
    if os.path.isfile(path) or path.is_absolute():
        return path
    places = [project() / path]
    if path.parts[:2] == ("src", PACKAGE.name):  # an installed package has no src above it
        places.append(PACKAGE.joinpath(*path.parts[2:]))
    return next((place for place in places if os.path.isfile(place)), path)


def is_file(name: str | os.PathLike) -> bool:
    """Whether there is a file that a config means by a name; of names too long for one, no."""
    return os.path.isfile(find(name))


def missing(name: str | os.PathLike) -> str:
    """What is wrong with a name of which `is_file` is false, to be put into a message."""
    path = Path(name)
    places = (path, find(path), project() / path)
    if any(os.path.isdir(place) for place in places):
        return f"{name} is a folder, not a file"
    if any(os.path.exists(place) for place in places):
        return f"{name} is no ordinary file (a pipe or a device)"
    return f"there is no file {name}"
