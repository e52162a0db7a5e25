"""Files of others: any bytes give a result or one line, and nothing in them is run."""

import io
import json
import os
import pickle
import random
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_wsss.acquire.archives import open_members
from clip_wsss.acquire.registry import find_source
from clip_wsss.core.archives import Archive, encode_image, write_archive
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import read_label, read_rgb
from clip_wsss.core.maps import ImageMaps, load_npz, read_maps, write_maps
from clip_wsss.core.pickles import look_into
from clip_wsss.core.plain import read_yaml
from clip_wsss.core.segmentors import read_segmentor_file
from clip_wsss.data.annotations import read_labels, read_xml, xml_size
from clip_wsss.data.lists import read_ids
from clip_wsss.data.vocabulary import read_vocabulary
from clip_wsss.models.weights import read_weights
from clip_wsss.runs.config import read_config
from clip_wsss.segmentation.weights import read_state

SEED = int(os.environ.get("CLIP_WSSS_FUZZ_SEED", "0"))
CASES = int(os.environ.get("CLIP_WSSS_FUZZ_CASES", "60"))  # of each kind
CLASSES = ("cat", "dog")

VOCABULARY = b"classes: [cat, dog]\nnames: {own: {cat: kitten}}\nbackgrounds: {some: [wall]}\n"
CONFIG = b"""inherits: [config/methods.yaml]
dataset: {name: own, source: images, root: data, vocabulary: v.yaml, labels: l.csv,
  splits: {pseudo: all}}
runs: {tables: [config/runs/images.tsv]}
compute: {threads: 1, device: cpu}
"""
SEGMENTOR = b"""model: {type: EncoderDecoder, decode_head: {type: FCNHead, channels: 8}}
train_pipeline: [{type: RandomFlip, prob: 0.5}]
train_dataloader: {batch_size: 2}
optim_wrapper: {optimizer: {type: SGD, lr: 0.01}}
param_scheduler: [{type: PolyLR, power: 0.9}]
checkpoint_interval: 10
"""
ZOO = b"""norm = dict(type='BN', requires_grad=True)
model = dict(type='EncoderDecoder', backbone=dict(type='ResNet', norm_cfg=norm, depth=18 + 0),
  decode_head=dict(type='FCNHead', channels=[8] * 2))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e-2))
"""
XML = b"""<annotation><size><width>30</width><height>20</height></size>
<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"""
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 3, 1, 3, 3]]}
    ],
}


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def tokens(mark: Path) -> list[bytes]:
    """Pieces that are something in one format or the other; each that is code would make a mark."""
    code = [
        f"!!python/object/apply:os.mkdir ['{mark}']",
        f"!!python/object/new:os.mkdir ['{mark}']",
        f"__import__('os').mkdir('{mark}')",
        f"(lambda: __import__('os').mkdir('{mark}'))()",
        f"_base_ = __import__('os').mkdir('{mark}')\n",
        f"import os\nos.mkdir('{mark}')\n",
        f"{{{{ fileDirname.__class__.__import__('os').mkdir('{mark}') }}}}",
        f"__use_yte__: true\n?__import__('os').mkdir('{mark}'): 1\n",
    ]
    plain = ["!!int x", "!!float x", "!!bool 1", "!!null x", "!!timestamp x", "!!binary x", "!!set"]
    plain += ["!!omap", "2001-99-99", "&a [*a]", "&a ", "*a", "? [1]\n: 2", "<<: [1]", "- ", ": "]
    plain += ["---\n", "%YAML 9.9\n", "\t", "1e999", ".nan", "1:60", "=", "9" * 5000, "[" * 400]
    plain += ["**a", "1 / 0", "9 ** 9 ** 9", "[0] * 10 ** 9", "'a' * -1", "None - 1", "\0", "1j"]
    plain += ["# coding: nope\n", "_base_ = ['\\0']\n", "_base_ = 'x.py'\n", "(" * 300, "-1", '"']
    plain += [
        "<!DOCTYPE a [<!ENTITY b 'bb'>]>",
        "&b;",
        "&#0;",
        "<![CDATA[",
        "<a>" * 400,
        "</object>",
    ]
    plain += ['<?xml version="1.0" encoding="hex"?>', '<?xml version="1.0" encoding="utf-7"?>']
    plain += ["null", "{", "true", '"../../x.jpg"', '"\\ud800"', "\r", "\u2028", ";", ",", "//"]
    return [text.encode() for text in (*code, *plain)] + [b"\xff\xfe", b"\xef\xbb\xbf", b"\xff"]


def changed(data: bytes, draw: random.Random, pieces: list[bytes]) -> bytes:
    """A file with one to four changes: bytes, cuts, repetitions, pieces in the place of words."""
    whole = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(whole) + 1)
        end = min(len(whole), start + draw.randrange(12))
        kind = draw.randrange(5)
        if kind == 0:
            whole[start:end] = draw.randbytes(end - start)
        elif kind == 1:
            whole[start:end] = whole[start:end] * 3
        elif kind == 2:
            del whole[start:end]
        else:
            whole[start : end if kind == 3 else start] = draw.choice(pieces)
    return bytes(whole)


def coco_labels(path):
    return read_labels(path, CLASSES)


def sizes(path):
    return xml_size(read_xml(path), path)


def source(path):
    return find_source("own", {"registry": str(path), "replace": {}})


def listed(path):
    return read_ids(path, "JPEGImages", tuple, CLASSES)


TEXTS = {
    "yaml": (read_yaml, "a.yaml", SEGMENTOR),
    "vocabulary": (read_vocabulary, "v.yaml", VOCABULARY),
    "config": (read_config, "c.yaml", CONFIG),
    "segmentor": (read_segmentor_file, "s.yaml", SEGMENTOR),
    "zoo": (read_segmentor_file, "s.py", ZOO),
    "registry": (source, "r.yaml", b"splits: {}\nsources: {own: {title: a, url: 'http://a/b'}}\n"),
    "xml": (sizes, "a.xml", XML),
    "json": (coco_labels, "l.json", json.dumps(COCO).encode()),
    "csv": (coco_labels, "l.csv", b'image,labels\na.jpg,dog;cat\n"b.png",cat\n'),
    "list": (listed, "l.txt", b"a\nb.jpg\n2007_000032 1\n/JPEGImages/a.jpg /Masks/a.png\n"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_any_bytes_of_a_text_are_read_or_refused(kind, tmp_path, monkeypatch):
    read, name, content = TEXTS[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.yaml").write_bytes(VOCABULARY)
    draw, pieces = random.Random(f"{SEED} {kind}"), tokens(tmp_path / "mark")
    refused = fuzzed(read, tmp_path / name, content, draw, pieces)
    assert refused > CASES / 10, "the changes do something"
    assert not (tmp_path / "mark").exists()


def fuzzed(read, path, content, draw, pieces) -> int:
    """How many changed files were refused; each in one line, and none by another exception."""
    refused = 0
    for case in range(CASES):
        path.write_bytes(data := changed(content, draw, pieces))
        message = ""
        try:
            read(path)
        except InputError as error:
            message = str(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"seed {SEED}, case {case}: {data!r}") from error
        assert "\n" not in message, data
    return refused


def npy(value) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def test_any_bytes_of_a_binary_file_are_read_or_refused(tmp_path):
    draw = random.Random(SEED)
    rng = np.random.default_rng(SEED)
    maps = ImageMaps("a", (20, 30), np.array([0, 1]), rng.random((2, 3, 4), dtype=np.float32))
    write_maps(tmp_path / "maps.npz", [maps])
    label = np.zeros((4, 5), np.uint8)
    write_archive(tmp_path / "masks.zip", "masks", [encode_image("a", label, label)])
    torch.save({"a": torch.arange(4.0)}, tmp_path / "c.pth")
    torch.save({"a": torch.arange(4.0)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "l.npy").write_bytes(npy({"a": np.array([0.0, 1.0])}))

    def archive(path):
        return Archive(path).codes("a")

    for name, read in {
        "maps.npz": read_maps,
        "masks.zip": archive,
        "c.pth": look_into,
        "old.pth": look_into,
        "l.npy": coco_labels,
    }.items():
        content = (tmp_path / name).read_bytes()
        pieces = [
            b"PK\3\4",
            b"PK\1\2",
            b"\xff\xff\xff\x7f",
            b"\0\0\0\0",
            b"\x63",
            b"\x08",
            b"R",
            b".",
        ]
        assert fuzzed(read, tmp_path / name, content, draw, pieces) > CASES / 10, name


# ---- files that want to run something ------------------------------------------------------------


def hostile(mark: Path) -> dict[str, tuple[bytes, list]]:
    """Name -> a file that makes the mark when it is unpickled, and who reads such files."""
    both = io.BytesIO(), io.BytesIO()
    torch.save({"a": Runs(mark)}, both[0])
    torch.save({"a": Runs(mark)}, both[1], _use_new_zipfile_serialization=False)
    inside = io.BytesIO()
    np.savez(inside, ids=np.array([Runs(mark)], dtype=object))
    labels = [lambda path: read_labels(path, CLASSES)]
    return {
        "w.pt": (both[0].getvalue(), [read_weights, read_state, look_into]),
        "w.bin": (both[0].getvalue(), [read_weights, read_state, look_into]),
        "old.pth": (both[1].getvalue(), [read_weights, read_state, look_into]),
        "p.pt": (pickle.dumps(Runs(mark)), [read_weights, read_state, look_into]),
        "w.safetensors": (pickle.dumps(Runs(mark)), [read_weights]),
        "maps.npz": (inside.getvalue(), [load_npz, read_maps]),
        "l.npy": (npy({"a": Runs(mark)}), labels),
        "q.npy": (pickle.dumps({"a": Runs(mark)}), labels),
        "a.jpg": (pickle.dumps(Runs(mark)), [read_rgb]),
        "a.png": (b"%!PS\n(x) run", [read_rgb, read_label]),  # PostScript, which runs programs
        "s.py": (f"import os\nos.mkdir('{mark}')\n".encode(), [read_segmentor_file]),
        "c.py": (f"model = __import__('os').mkdir('{mark}')\n".encode(), [read_segmentor_file]),
        "s.yaml": (b"custom_imports: {imports: [antigravity]}\nmodel: {}\n", [read_segmentor_file]),
        "t.yaml": (f"a: !!python/object/apply:os.mkdir ['{mark}']\n".encode(), [read_yaml]),
        "u.yaml": (b"__use_yte__: true\n?1: 2\n", [read_yaml, read_config]),
    }


def test_nothing_that_a_file_holds_is_run(tmp_path):
    mark = tmp_path / "mark"
    for name, (content, readers) in hostile(mark).items():
        (tmp_path / name).write_bytes(content)
        for read in readers:
            with pytest.raises(InputError) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
            assert name in str(caught.value)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(mark)))  # what they would have done
    assert mark.exists()


LAUGHS = "".join(f"<!ENTITY a{n + 1} '{f'&a{n};' * 10}'>" for n in range(9))
BOMBS = {
    "b.xml": (f"<!DOCTYPE a [<!ENTITY a0 'ha'>{LAUGHS}]><a>&a9;</a>", read_xml, "not XML"),
    "e.xml": (
        "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/hostname'>]><a>&b;</a>",
        read_xml,
        "not XML",
    ),
    "b.yaml": (
        "a0: &a0 [ha]\n" + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n},' * 10}]\n" for n in range(9)),
        read_yaml,
        "holds more than 100000 values",
    ),
    "c.yaml": ("&a [*a]\n", read_yaml, "holds more than 100000 values"),
    "d.yaml": ("a: &a {b: *a}\n", read_yaml, "recursive"),
    "n.yaml": ("[" * 600, read_yaml, "not YAML that can be used"),
    "m.py": ("model = [0] * 10**12\n", read_segmentor_file, "would have to be executed"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_nothing(tmp_path, name):
    content, read, line = BOMBS[name]
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=line):
        read(tmp_path / name)


def test_a_pickle_that_asks_for_memory_gets_none(tmp_path):
    """C's unpickler takes 16 bytes for each number up to that of a memo: 64 GB."""
    (tmp_path / "c.pth").write_bytes(b"\x80\x02]r\xf0\xff\xff\xff.")
    with pytest.raises(InputError, match="is not a file of torch"):
        look_into(tmp_path / "c.pth")


# ---- archives (FAULTS 29) ------------------------------------------------------------------------


def zipped(path: Path, old: bytes = b"", new: bytes = b"", method: int = 0) -> Path:
    """A zip of one file, some bytes of which are replaced in both of its headers."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.txt", b"hello" * 9)
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def read_all(path):
    with open_members(path) as members:
        return [member.read() for member in members.values()]


SIZE, PETABYTE = (45).to_bytes(4, "little"), 10**15


def vast_tar(path):
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = PETABYTE
        archive.fileobj.write(info.tobuf())
        archive.fileobj.write(bytes(10240))
    return path


def twice(path):
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr("a.txt", b"1")
        archive.writestr("a.txt", b"2")
    return path


def method_99(path):
    data = bytearray(zipped(path).read_bytes())
    data[8], data[data.index(b"PK\1\2") + 10] = 99, 99
    path.write_bytes(data)
    return path


def encrypted(path):
    data = bytearray(zipped(path).read_bytes())
    data[6], data[data.index(b"PK\1\2") + 8] = 1, 1
    path.write_bytes(data)
    return path


def zip64(path):
    """Sizes that stand in an extra field, which is not there."""
    return zipped(path, SIZE + SIZE, b"\xff" * 8)


ODD_ARCHIVES = {
    "a petabyte in 45 bytes": (
        lambda p: zipped(p, SIZE + SIZE, SIZE + b"\xff\xff\xff\x7f"),
        "cannot hold 2147483647 bytes in 45",
    ),
    "a petabyte of a tar": (vast_tar, "a size in it is larger than any file|cannot be unpacked"),
    "an unknown method": (method_99, r"a\.txt is packed by the method 99, which is unknown here"),
    "encryption": (encrypted, r"a\.txt is encrypted"),
    "one name twice": (twice, r"holds two files called a\.txt"),
    "zip64 without its field": (zip64, "damaged|cannot be unpacked"),
    "another checksum": (
        lambda p: zipped(p, b"hello", b"jello"),
        r"a\.txt: cannot be unpacked \(Bad CRC-32",
    ),
    "a cut": (lambda p: zipped(p, b"PK\5\6", b"PK"), "not a folder, tar, tgz or zip archive"),
}


@pytest.mark.parametrize("kind", ODD_ARCHIVES)
def test_odd_archives_are_one_line(tmp_path, kind):
    make, line = ODD_ARCHIVES[kind]
    path = make(tmp_path / "archive")
    with pytest.raises(InputError, match=line) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert "replace" in str(caught.value)
    assert "\n" not in str(caught.value)
