import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip_wsss.acquire import download
from clip_wsss.acquire.archives import open_members
from clip_wsss.acquire.download import acquire, fetch, read_receipt
from clip_wsss.acquire.registry import Source, check_split, find_source, ids_digest
from clip_wsss.core.errors import InputError
from clip_wsss.runs.settings import Sources

CONTENT = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
REGISTRY = Path(__file__).parents[3] / "config" / "sources.yaml"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0)


@pytest.fixture
def data(server):
    (server.folder / "data.bin").write_bytes(CONTENT)
    return server


def source(*urls, md5=MD5, path=None):
    return Source("thing", path, urls, "data.bin", None, md5)


def test_file_arrives_whole_and_nothing_else_stays(data, tmp_path):
    path = fetch(source(f"{data.url}/data.bin"), tmp_path / "into")
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["data.bin"]
    assert fetch(source(f"{data.url}/data.bin"), tmp_path / "into") == path
    assert len(data.requests) == 1  # the second call found it


def test_cut_connections_are_continued_where_they_ended(data, tmp_path):
    data.cut_after = 70_000
    path = fetch(source(f"{data.url}/data.bin"), tmp_path)
    assert path.read_bytes() == CONTENT
    starts = [asked for _, asked in data.requests]
    assert starts == [None] + [f"bytes={n}-" for n in (70_000, 140_000, 210_000, 280_000)]


def test_killed_download_continues(data, tmp_path):
    data.pause, data.step = 0.05, 20_000
    code = (
        "from pathlib import Path\n"
        "from clip_wsss.acquire.download import fetch\n"
        "from clip_wsss.acquire.registry import Source\n"
        f"fetch(Source('t', None, ('{data.url}/data.bin',), 'data.bin', None, '{MD5}'), "
        f"Path({str(tmp_path)!r}))"
    )
    part = tmp_path / "data.bin.part"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600  # against a hang only
        while (part.stat().st_size if part.exists() else 0) < 20_000:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    had = part.stat().st_size
    assert 0 < had < len(CONTENT)
    data.pause = 0
    assert fetch(source(f"{data.url}/data.bin"), tmp_path).read_bytes() == CONTENT
    assert data.requests[-1] == ("data.bin", f"bytes={had}-")


def test_server_without_ranges_starts_again(data, tmp_path):
    data.ranges = False
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    assert fetch(source(f"{data.url}/data.bin"), tmp_path).read_bytes() == CONTENT


def test_file_that_changed_on_the_server_is_fetched_anew(data, tmp_path):
    data.cut_after = 100_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", 0)
        with pytest.raises(InputError, match="will be continued"):
            fetch(source(f"{data.url}/data.bin"), tmp_path)
    changed = CONTENT[::-1]
    (data.folder / "data.bin").write_bytes(changed)
    data.cut_after = None
    md5 = hashlib.md5(changed).hexdigest()
    assert fetch(source(f"{data.url}/data.bin", md5=md5), tmp_path).read_bytes() == changed
    assert data.requests[-1][1] == "bytes=100000-"  # asked, and refused by If-Range


def test_part_that_is_complete_already_is_only_checked(data, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert fetch(source(f"{data.url}/data.bin"), tmp_path).read_bytes() == CONTENT


def test_part_that_is_too_long_is_thrown_away(data, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(source(f"{data.url}/data.bin"), tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_is_refused_and_kept_aside(data, tmp_path):
    (data.folder / "data.bin").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"thing: .*another md5 than .*data\.bin\.bad") as error:
        fetch(source(f"{data.url}/data.bin"), tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / "data.bin.bad").read_bytes() == b"something else"
    assert not (tmp_path / "data.bin").exists()
    (data.folder / "data.bin").write_bytes(CONTENT)
    assert fetch(source(f"{data.url}/data.bin"), tmp_path).read_bytes() == CONTENT


def test_damaged_file_on_disk_is_set_aside_and_fetched_again(data, tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1])
    assert fetch(source(f"{data.url}/data.bin"), tmp_path).read_bytes() == CONTENT
    assert (tmp_path / "data.bin.bad").exists()


def test_a_folder_where_the_archive_belongs_is_one_line(data, tmp_path):
    (tmp_path / "data.bin").mkdir()
    with pytest.raises(InputError, match="is a folder, not a file"):
        fetch(source(data.url), tmp_path)


def test_mirrors_are_tried_in_order(data, tmp_path):
    (data.folder / "wrong.bin").write_bytes(b"wrong")
    data.status["gone.bin"] = 404
    urls = [f"{data.url}/{name}" for name in ("gone.bin", "wrong.bin", "data.bin")]
    assert fetch(source(*urls), tmp_path).read_bytes() == CONTENT
    assert [name for name, _ in data.requests] == ["gone.bin", "wrong.bin", "data.bin"]


def test_mirror_continues_what_another_began(data, tmp_path):
    (data.folder / "slow.bin").write_bytes(CONTENT)
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    data.status["slow.bin"] = 403
    urls = (f"{data.url}/slow.bin", f"{data.url}/data.bin")
    assert fetch(source(*urls), tmp_path).read_bytes() == CONTENT
    assert data.requests[-1] == ("data.bin", "bytes=1000-")


def test_faulty_server_is_asked_again(data, tmp_path):
    data.status["data.bin"] = 503
    with pytest.raises(InputError, match="HTTP 503"):
        fetch(source(f"{data.url}/data.bin"), tmp_path)
    assert len(data.requests) == download.ATTEMPTS


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/data.bin", "no address"])
def test_missing_network_is_one_line_with_a_way_out(url, tmp_path):
    with pytest.raises(
        InputError, match=r"check the network.*sources\.replace\.thing\.path"
    ) as error:
        fetch(source(url), tmp_path)
    assert "\n" not in str(error.value)


def test_full_disk_is_said_before_it_happens(data, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 900, 100))
    with pytest.raises(InputError, match=r"data\.bin needs .* GB .*are free"):
        fetch(source(f"{data.url}/data.bin"), tmp_path)
    assert not (tmp_path / "data.bin.part").exists()


def test_disk_that_fills_up_stops_at_once(data, tmp_path, monkeypatch):
    def full(file, chunk):
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise InputError(f"{file.name}: cannot be written ({error.strerror})")

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(InputError, match="No space left"):
        fetch(source(f"{data.url}/data.bin"), tmp_path)
    assert len(data.requests) == 1


def test_write_error_names_the_file(tmp_path):
    class Full:
        name = "archive.part"

        def write(self, chunk):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"archive\.part: cannot be written \(No space left"):
        download._write(Full(), b"x")


def test_local_copies(tmp_path):
    file = tmp_path / "copy.bin"
    file.write_bytes(CONTENT)
    assert fetch(source(path=file), tmp_path / "unused") == file
    assert fetch(source(path=tmp_path), tmp_path / "unused") == tmp_path
    assert not (tmp_path / "unused").exists()
    with pytest.raises(InputError, match=r"copy\.bin: its md5 is not"):
        fetch(source(path=file, md5="0" * 32), tmp_path)
    assert fetch(source(path=file, md5=None), tmp_path) == file
    with pytest.raises(InputError, match=r"sources\.replace\.thing\.path: there is no"):
        fetch(source(path=tmp_path / "nowhere"), tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is a named pipe, not a file"):
        fetch(source(path=tmp_path / "pipe"), tmp_path)


def settings(**replace):
    return {"registry": REGISTRY, "verify_splits": True, "replace": replace}


def test_registry_knows_the_official_sources():
    found = find_source("voc2012", settings())
    assert found.urls[0].startswith("http://host.robots.ox.ac.uk/")
    assert len(found.urls) == 3
    assert (found.file, found.size) == ("VOCtrainval_11-May-2012.tar", 1999639040)
    assert found.md5 == "6cd6e144f989b92b3379bac3b3de84fd"


def test_replacements():
    mirror = find_source("sbd", settings(sbd={"url": "https://mirror.example/x.tgz"}))
    assert mirror.urls == ("https://mirror.example/x.tgz",)
    assert (mirror.file, mirror.md5) == ("benchmark.tgz", "82b4d87ceb2ed10f6038a1cba92111cb")
    other = find_source("sbd", settings(sbd={"url": "https://mirror.example/x.tgz", "md5": None}))
    assert (other.md5, other.size) == (None, None)
    local = find_source("sbd", settings(sbd={"path": "/data/sbd"}))
    assert local.path == Path("/data/sbd")


@pytest.mark.parametrize(
    ("said", "md5", "size"),
    [
        ({}, "82b4d87ceb2ed10f6038a1cba92111cb", True),
        ({"md5": "registry"}, "82b4d87ceb2ed10f6038a1cba92111cb", True),
        ({"md5": None}, None, False),
        ({"md5": "a" * 32}, "a" * 32, False),
    ],
)
def test_a_null_checksum_of_a_config_is_unchecked(said, md5, size):
    """Also where the config has been written out with its defaults, and is read again."""
    given = {"registry": str(REGISTRY), "replace": {"sbd": {"path": "/data/sbd.tgz", **said}}}
    plain = Sources(**given).model_dump()
    for one in (plain, Sources(**plain).model_dump()):
        found = find_source("sbd", one)
        assert (found.md5, found.size is not None) == (md5, size)
        official = find_source("sbd", {**one, "replace": {}})
        assert (found.urls, found.file) == (official.urls, official.file)


def test_registry_with_a_gap(tmp_path):
    path = tmp_path / "sources.yaml"
    path.write_text("splits: {}\nsources: {sbd: {title: SBD, url: null}}")
    with pytest.raises(InputError, match=r"sources\.yaml: sbd\.mirrors: is missing"):
        find_source("sbd", settings() | {"registry": path})
    with pytest.raises(InputError, match="no such registry"):
        find_source("sbd", settings() | {"registry": tmp_path / "none.yaml"})


def test_unknown_source_and_missing_test_images():
    with pytest.raises(InputError, match="unknown source `sdb`; did you mean `sbd`"):
        find_source("voc2012", settings(sdb={"path": "x"}))
    with pytest.raises(InputError, match=r"sources\.replace\.voc2012-test\.path"):
        find_source("voc2012-test", settings())


def test_split_check():
    with pytest.raises(
        InputError, match="voc12, split val: the 2 ids found are not the official 1449"
    ):
        check_split(["a", "b"], "val", "voc12", settings())
    with pytest.raises(InputError, match="split val"):  # the right number is not enough
        check_split([str(n) for n in range(1449)], "val", "voc12", settings())
    with pytest.raises(InputError, match="split test"):
        check_split([str(n) for n in range(1456)], "test", "voc12", settings())
    check_split(["a"], "val", "voc12", settings() | {"verify_splits": False})


def test_digest_of_the_test_list_is_compared(monkeypatch):
    ids = ["2008_000002", "2008_000001"]
    text = "2008_000001\n2008_000002\n"  # sorted, one a line
    assert ids_digest(ids) == hashlib.sha256(text.encode()).hexdigest()
    known = "5e8fe0c14b2e6633fb2e3a0f5db65fb6b8f5217b574478bb21127a48fd33010f"
    monkeypatch.setattr("clip_wsss.acquire.registry.ids_digest", lambda ids: known)
    check_split([str(n) for n in range(1456)], "test", "voc12", settings())


@pytest.mark.parametrize("said", [True, False])
def test_more_bytes_than_the_registry_knows_stop_the_download(data, tmp_path, said):
    data.lengths = said
    given = replace(source(f"{data.url}/data.bin"), size=100_000)
    with pytest.raises(InputError, match=r"thing: cannot be downloaded .*100000") as error:
        fetch(given, tmp_path / "into")
    assert "\n" not in str(error.value)
    assert ("has 300000 bytes" in str(error.value)) == said
    assert not (tmp_path / "into/data.bin.part").exists()
    assert len(data.requests) == 1, "another try would bring the same"
    data.lengths = False  # the right number is no reason to stop
    path = fetch(replace(given, size=len(CONTENT)), tmp_path / "into")
    assert path.read_bytes() == CONTENT


def test_receipt(data, tmp_path):
    receipt = tmp_path / "archives" / "sbd.json"
    replaced = settings(sbd={"url": f"{data.url}/data.bin", "md5": MD5})
    acquire("sbd", replaced, receipt)
    path = read_receipt(receipt)
    assert path.parent == receipt.parent
    assert path.read_bytes() == CONTENT
    path.unlink()
    with pytest.raises(InputError, match=r"the archive is gone; delete .*sbd\.json"):
        read_receipt(receipt)


def test_a_mirror_is_not_blamed_for_the_bytes_of_another(data, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)  # of a mirror that was cut
    assert fetch(source(f"{data.url}/data.bin"), tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in data.requests] == ["bytes=1000-", None]


def test_upper_case_checksums_fit(data, tmp_path):
    path = fetch(source(f"{data.url}/data.bin", md5=MD5.upper()), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_server_without_lengths_sends_no_more_than_twice_the_registry(data, tmp_path):
    data.lengths = False
    given = replace(source(f"{data.url}/data.bin", md5=None), most=200_000)
    with pytest.raises(InputError, match="sends more than the 200000 bytes"):
        fetch(given, tmp_path)
    other = find_source("sbd", settings(sbd={"url": "https://mirror.example/x.tgz", "md5": None}))
    assert other.most == 2 * find_source("sbd", settings()).size


@pytest.mark.parametrize("about", [b"[]", b"null", b"", b"\xff"])
def test_notes_of_a_part_may_be_anything(data, tmp_path, about):
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    (tmp_path / "data.bin.part.json").write_bytes(about)
    assert fetch(source(f"{data.url}/data.bin"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"file": 5}'])
def test_a_damaged_receipt_is_one_line(tmp_path, content):
    receipt = tmp_path / "sbd.json"
    receipt.write_text(content)
    with pytest.raises(InputError, match=r"sbd\.json: not a receipt of a download; delete it"):
        read_receipt(receipt)
    receipt.unlink()
    receipt.mkdir()
    with pytest.raises(InputError, match=r"sbd\.json: is a folder"):
        read_receipt(receipt)


def test_an_address_without_a_file_name():
    given = settings(**{"voc2012-test": {"url": "https://host.example/"}})
    with pytest.raises(InputError, match=r"voc2012-test\.url: .* must end in the name of a file"):
        find_source("voc2012-test", given)


@pytest.mark.parametrize("target", ["nowhere", "link.jpg"])
def test_a_folder_with_a_broken_link_is_one_line(tmp_path, target):
    (tmp_path / "link.jpg").symlink_to(tmp_path / target)
    with (
        pytest.raises(InputError, match=r"link\.jpg: cannot be read \(.*; correct or remove it"),
        open_members(tmp_path),
    ):
        pass


def test_an_error_of_two_lines_is_said_in_one(tmp_path, monkeypatch):
    def loop(*arguments, **keywords):
        raise urllib.error.HTTPError("u", 302, "would lead to a loop.\nThe last:\nFound", {}, None)

    monkeypatch.setattr(urllib.request, "urlopen", loop)
    with pytest.raises(InputError, match=r"a loop\. The last: Found") as error:
        fetch(source("http://host.example/data.bin"), tmp_path)
    assert "\n" not in str(error.value)
