import hashlib
import os

import pytest

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import atomic_path, sha256, write_json, write_rows, write_text


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as part:
        part.write_text("one")
        assert part.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_path(path) as part:
        part.write_text("half") + "no number"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_body_that_writes_nothing_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


def test_texts_are_utf8_and_json_is_sorted(tmp_path):
    write_text(tmp_path / "a.txt", "é")
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()
    write_json(tmp_path / "a.json", {"b": 1, "a": ["é"]})
    write_json(tmp_path / "b.json", {"a": ["é"], "b": 1})
    text = '{\n  "a": [\n    "é"\n  ],\n  "b": 1\n}\n'
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == text
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    write_json(tmp_path / "c.json", {"b": 1, "a": 2}, sort_keys=False)
    assert (tmp_path / "c.json").read_text() == '{\n  "b": 1,\n  "a": 2\n}\n'


def test_rows_of_a_csv_end_in_a_newline_alone(tmp_path):
    write_rows(tmp_path / "sub" / "a.csv", [("image", "labels"), ("é.jpg", 'a,"b"')])
    assert (tmp_path / "sub" / "a.csv").read_bytes() == ('image,labels\né.jpg,"a,""b"""\n'.encode())


def test_the_hash_of_a_file_and_of_a_folder(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write_text(first / "deep/b", "two")
    write_text(first / "a", "one")
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    assert sha256(first / "a") == one
    lines = f"{one}  a\n{two}  deep/b\n"
    assert sha256(first) == hashlib.sha256(lines.encode()).hexdigest()
    first.rename(second)
    assert sha256(second) == hashlib.sha256(lines.encode()).hexdigest()
    (second / "a").rename(second / "c")
    assert sha256(second) != hashlib.sha256(lines.encode()).hexdigest()


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(InputError, match=f"{name}: is no file that could be replaced"):
            write_text(tmp_path / name, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link", "pipe"]
    # A store of versions may have its own file behind a link: that stays as it is.
    (tmp_path / "stored").write_text("old")
    (tmp_path / "a.txt").symlink_to("stored")
    write_text(tmp_path / "a.txt", "new")
    assert ((tmp_path / "a.txt").read_text(), (tmp_path / "stored").read_text()) == ("new", "old")
