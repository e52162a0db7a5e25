"""Lists of ids as the field ships them."""

import pytest

from clip_wsss.core.errors import InputError
from clip_wsss.data.lists import read_ids

FILES = {"2007_000032", "2007_000039", "my photo", "x.jpg", "a,b", "dog 1"}
CLASSES = ("dog", "cat")


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_ids(path, "JPEGImages", lambda: FILES, CLASSES)


READ = {
    "2007_000032\n2007_000039\n": ["2007_000032", "2007_000039"],
    "\ufeff2007_000032\r\n2007_000039\r\n": ["2007_000032", "2007_000039"],
    "2007_000032\r2007_000039": ["2007_000032", "2007_000039"],
    "# VOC's\n\n2007_000032\n  \n#2007_000039": ["2007_000032"],
    "2007_000032.jpg\n2007_000039.PNG\nscan.tiff": ["2007_000032", "2007_000039", "scan"],
    "x.jpg\n": ["x.jpg"],  # of x.jpg.png
    "v1.2\n": ["v1.2"],
    "2007_000032  1\n2007_000039 -1\n2007_000042  0": ["2007_000032", "2007_000042"],
    "2007_000032 0 14\n2007_000039.jpg 3": ["2007_000032", "2007_000039"],
    "2007_000032 dog cat": ["2007_000032"],
    "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png": ["2007_000032"],
    "JPEGImages/2007_000032.jpg": ["2007_000032"],
    "VOC2012\\JPEGImages\\2007_000032.jpg": ["2007_000032"],
    "my photo\nmy photo.jpg.bmp": ["my photo", "my photo.jpg"],
    "dog 1": ["dog 1"],  # an image that is there
    "not there": ["not there"],  # said to be missing where images are looked for
    "a,b": ["a,b"],
    "grüße": ["grüße"],
}


@pytest.mark.parametrize("content", READ)
def test_lists_that_are_read(tmp_path, content):
    assert read(tmp_path / "list.txt", content) == READ[content]


REFUSED = {
    "käse".encode("cp1252"): "list.txt: is not UTF-8; save it as UTF-8",
    "2007_000032".encode("utf-16"): "list.txt: is UTF-16, not UTF-8; save it",
    "2007_000032".encode("utf-16-le"): "list.txt: is UTF-16, not UTF-8; save it",
    "2007_000032".encode("utf-32"): "list.txt: is UTF-32, not UTF-8; save it",
    "2007_000032".encode("utf-16-be"): "list.txt: is UTF-16, not UTF-8; save it",
    b"PK\3\4\x14\0\0\0": r"list.txt: is a zip \(as spreadsheets are\), no text; save it",
    b"a\n/JPEGImages/a.jpg /Masks/b.png": "list.txt, line 2: holds paths that are not those",
    b"/JPEGImages/a.jpg /Masks/a.png 1 2": "list.txt, line 1: holds paths that are not those",
    b"val/a.jpg": "line 1: holds a path in val, but the images lie in JPEGImages",
    b"/a.jpg": "line 1: holds a path in /, but",
    # FAULTS 22
    b"a\x07b.jpg": r"line 1: the file name of 'a\\x07b' holds a control character",
    "a\u2028b".encode(): r"line 1: the file name of 'a\\u2028b' holds a control character",
    b"a.jpg,dog": "line 1: holds a comma; write one image id a line",
}


@pytest.mark.parametrize("content", REFUSED)
def test_lists_that_are_refused(tmp_path, content):
    with pytest.raises(InputError, match=REFUSED[content]) as error:
        read(tmp_path / "list.txt", content)
    assert "\n" not in str(error.value)


def test_the_folder_of_images_is_looked_at_only_where_a_line_asks(tmp_path):
    (tmp_path / "list.txt").write_text("a\nb\n")
    assert read_ids(tmp_path / "list.txt", "JPEGImages", lambda: 1 / 0, CLASSES) == ["a", "b"]
