import os
import shutil
from collections import namedtuple

import pytest
from stand_ins import write_archive

from clip_wsss.acquire.archives import in_folder, one, open_members, save_all
from clip_wsss.core.errors import InputError

FILES = {"a/b/one.txt": b"1", "a/b/two.txt": b"22", "a/c/one.txt": b"333"}
KINDS = ["archive.tar", "archive.tgz", "archive.zip", "folder"]


@pytest.fixture(params=KINDS)
def archive(request, tmp_path):
    write_archive(tmp_path / request.param, FILES)
    return tmp_path / request.param


def test_all_kinds_hold_the_same(archive):
    with open_members(archive) as members:
        assert {name: member.read() for name, member in members.items()} == FILES
        assert {name: member.size for name, member in members.items()} == {
            name: len(content) for name, content in FILES.items()
        }
        assert set(in_folder(members, "b")) == {"one", "two"}
        assert one(members, "c", "one.txt", source=archive).read() == b"333"
        with pytest.raises(InputError, match=r"holds 2 files called one\.txt"):
            one(members, "one.txt", source=archive)


def test_saved_files_are_whole_and_kept(archive, tmp_path):
    target = tmp_path / "out" / "two.txt"
    with open_members(archive) as members:
        save_all([(members["a/b/two.txt"], target)], reuse=False, what="test")
        assert target.read_bytes() == b"22"
        target.unlink()
        target.write_bytes(b"xx")
        members["a/b/two.txt"].save(target, reuse=True)
        assert target.read_bytes() == b"xx"  # of the right size: an earlier call's
        members["a/b/two.txt"].save(target, reuse=False)
        assert target.read_bytes() == b"22"
    assert sorted(path.name for path in target.parent.iterdir()) == ["two.txt"]


def test_folder_is_linked_and_never_written_to(tmp_path):
    write_archive(tmp_path / "folder", FILES)
    source, target = tmp_path / "folder/a/b/two.txt", tmp_path / "two.txt"
    (tmp_path / ".two.txt.part").hardlink_to(source)  # left behind by a killed call
    with open_members(tmp_path / "folder") as members:
        members["a/b/two.txt"].save(target, reuse=False)
        assert target.samefile(source)
        target.unlink()
        with pytest.MonkeyPatch.context() as patch:  # another disk
            patch.setattr(os, "link", lambda *arguments: (_ for _ in ()).throw(OSError))
            members["a/b/two.txt"].save(target, reuse=False)
    assert not target.samefile(source)
    assert target.read_bytes() == source.read_bytes() == b"22"


def read_all(path):
    with open_members(path) as members:
        return [member.read() for member in members.values()]


@pytest.mark.parametrize("kind", ["archive.tar", "archive.tgz", "archive.zip"])
def test_damaged_archive_is_one_line(kind, tmp_path):
    path = tmp_path / kind
    write_archive(path, {f"{number}.bin": os.urandom(5000) for number in range(9)})
    assert len(read_all(path)) == 9
    path.write_bytes(path.read_bytes()[:20_001])
    with pytest.raises(InputError, match=rf"{kind}: (a damaged archive|not a folder, tar)"):
        read_all(path)


def test_small_disk_is_said_before(archive, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 999, 1))
    with open_members(archive) as members:
        items = [(members["a/b/two.txt"], tmp_path / "out" / "two.txt")]
        if archive.name == "folder":  # links take no space
            save_all(items, reuse=False, what="test")
        else:
            with pytest.raises(InputError, match=r"test needs .* GB"):
                save_all(items, reuse=False, what="test")


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.jpg").write_bytes(b"a")
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc/JPEGImages").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "voc")
    with open_members(tmp_path / "voc") as members:
        assert [*members] == ["JPEGImages/a.jpg"]
        assert members["JPEGImages/a.jpg"].read() == b"a"
