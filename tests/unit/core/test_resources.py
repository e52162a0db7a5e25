"""A file that a config names: the user's, or the project's of that name."""

import os
from pathlib import Path

import pytest

from clip_wsss.core import resources
from clip_wsss.core.resources import checkout, find, is_file, missing, project, use_workflow

NAME = "config/templates/imagenet20.txt"
CLIP = "src/clip_wsss/demo/clip/model.json"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(resources.WORKFLOW, "")  # put back after the test, with what a test sets
    monkeypatch.delenv(resources.WORKFLOW)


def write(path, text="mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_file_of_the_user_comes_first_and_keeps_its_name(tmp_path):
    assert find(NAME) == project() / NAME
    assert find(NAME).is_file()
    write(tmp_path / NAME)
    assert find(NAME) == Path(NAME)


@pytest.mark.parametrize("name", ["config/no.txt", "openai", "config", "/no/such/file", "../no"])
def test_what_is_no_file_stays_as_it_is_written(name):
    assert find(name) == Path(name)


def test_a_name_that_no_file_can_have():
    assert not is_file("x" * 3000)
    assert find("x" * 3000).name == "x" * 3000


def test_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "INSTALLED", tmp_path / "package/project")
    assert checkout() == project(), "as long as there is no copy"
    write(tmp_path / "package/project" / NAME)
    assert project() == tmp_path / "package/project"
    assert find(NAME).read_text("utf-8") == "mine"
    assert checkout() is None
    assert find(CLIP).is_file()
    assert not (project() / CLIP).exists()


def test_a_workflow_that_lies_elsewhere(tmp_path):
    before = project()
    assert use_workflow("https://example.org/workflow") == before
    write(tmp_path / "clone" / NAME)
    assert use_workflow("clone") == tmp_path / "clone"
    assert find(NAME) == tmp_path / "clone" / NAME
    assert checkout() == tmp_path / "clone"


def test_what_is_no_file_says_what_it_is(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    os.mkfifo(tmp_path / "pipe.pt")
    assert missing("w.pt") == "there is no file w.pt"
    assert missing("folder.pt") == "folder.pt is a folder, not a file"
    assert missing("pipe.pt") == "pipe.pt is no ordinary file (a pipe or a device)"
    assert missing("config/templates") == "config/templates is a folder, not a file"
