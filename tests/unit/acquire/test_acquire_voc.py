import os
import signal
import struct

import numpy as np
import pytest
import scipy.sparse
import stand_ins
from PIL import Image
from stand_ins import CAT, DOG, TRAIN_AUG, box, mat, write_archive

from clip_wsss.acquire import archives, sbd, voc
from clip_wsss.acquire.download import acquire
from clip_wsss.acquire.sbd import read_mask
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import read_label
from clip_wsss.data.datasets import open_dataset

LISTS = "ImageSets/Segmentation"


class Voc:
    """A VOC data set being made from stand-ins below one folder."""

    def __init__(self, folder):
        self.folder, self.root = folder, folder / "data" / "voc12"
        self.settings = {
            "registry": "config/sources.yaml",
            "verify_splits": False,
            "replace": {},
        }
        self.files = {"voc2012": stand_ins.voc_files(), "sbd": stand_ins.sbd_files()}
        self.suffixes = {"voc2012": ".tar", "sbd": ".tgz"}

    def build(self):
        receipts = {}
        for name, files in self.files.items():
            path = self.folder / f"{name}{self.suffixes.get(name, '')}"
            write_archive(path, files)
            self.settings["replace"][name] = {"path": str(path), "md5": None}
            receipts[name] = self.root / "archives" / f"{name}.json"
            acquire(name, self.settings, receipts[name])
        test = {name: receipts.pop(name) for name in ["voc2012-test"] if name in receipts}
        voc.build(self.root, receipts, self.settings)
        if test:
            voc.build_test(self.root, test, self.settings)

    def ids(self, split):
        return (self.root / LISTS / f"{split}.txt").read_text().split()

    def names(self, folder):
        return sorted(path.stem for path in (self.root / folder).iterdir())


@pytest.fixture
def made(tmp_path):
    return Voc(tmp_path)


def test_train_aug_is_both_sets_without_voc_val(made):
    made.build()
    assert made.ids("train_aug") == TRAIN_AUG
    assert made.ids("train") == stand_ins.VOC_TRAIN
    assert made.ids("val") == stand_ins.VOC_VAL


def test_only_what_the_splits_need_is_extracted(made):
    made.build()
    needed = sorted([*TRAIN_AUG, *stand_ins.VOC_VAL])
    for folder in ("JPEGImages", "Annotations", "SegmentationClassAug"):
        assert made.names(folder) == needed
    assert not (made.root / "SegmentationObject").exists()


def test_vocs_own_mask_wins_and_sbd_fills_the_rest(made):
    made.build()
    masks = made.root / "SegmentationClassAug"
    for name, value in (("2007_000002", CAT), ("2007_000003", CAT), ("2008_000010", DOG)):
        assert np.array_equal(read_label(masks / f"{name}.png"), box(value))
    with Image.open(masks / "2008_000010.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[3 * DOG : 3 * DOG + 3] == [64, 0, 128]


def test_result_opens_as_a_dataset(made):
    made.build()
    dataset = open_dataset(
        {
            "name": "voc12",
            "source": "voc12",
            "root": str(made.root),
            "vocabulary": "config/vocabularies/voc12.yaml",
            "labels": "xml",
            "size": "xml",
            "masks": "SegmentationClassAug",
        }
    )
    assert dataset.check("train_aug", need_masks=True) == []
    assert dataset.labels("2008_000010") == [7, 11]


def test_unpacked_folders_and_zips_do_as_well(made):
    made.suffixes = {"voc2012": "", "sbd": ".zip"}
    made.build()
    assert made.ids("train_aug") == TRAIN_AUG
    image = made.root / "JPEGImages" / "2008_000010.jpg"
    assert image.samefile(made.folder / "voc2012/VOCdevkit/VOC2012/JPEGImages/2008_000010.jpg")


def test_interrupted_build_goes_on(made, monkeypatch):
    save, count = archives.Member.save, 0

    def dies(self, target, reuse):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        save(self, target, reuse)

    monkeypatch.setattr(archives.Member, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        made.build()
    assert not (made.root / LISTS).exists()
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in made.root.rglob("*.xml")}
    assert kept
    made.build()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert made.ids("train_aug") == TRAIN_AUG


def test_other_sources_replace_what_was_there(made):
    made.build()
    made.files["sbd"]["benchmark_RELEASE/dataset/cls/2008_000010.mat"] = mat(box(CAT))
    made.suffixes["sbd"] = ".zip"  # another file, so another receipt
    made.build()
    mask = read_label(made.root / "SegmentationClassAug" / "2008_000010.png")
    assert np.array_equal(mask, box(CAT))


def test_lists_that_are_not_the_official_ones_are_refused(made):
    made.settings["verify_splits"] = True
    with pytest.raises(InputError, match="split train: the 2 ids found are not the official 1464"):
        made.build()
    assert not (made.root / "JPEGImages").exists()


@pytest.mark.parametrize(
    ("source", "gone", "message"),
    [
        ("voc2012", "JPEGImages/2008_000011.jpg", r"has no JPEGImages/2008_000011\.jpg \(1 of 5"),
        ("voc2012", "Annotations/2007_000003.xml", r"has no Annotations/2007_000003\.xml"),
        (
            "voc2012",
            "Segmentation/val.txt",
            r"holds 0 files called ImageSets/Segmentation/val\.txt",
        ),
        ("sbd", "cls/2008_000010.mat", r"has no cls/2008_000010\.mat"),
        ("sbd", "dataset/train.txt", r"has no benchmark_RELEASE/dataset/train\.txt beside cls"),
    ],
)
def test_incomplete_sources(made, source, gone, message):
    files = made.files[source]
    made.files[source] = {name: files[name] for name in files if not name.endswith(gone)}
    with pytest.raises(InputError, match=message):
        made.build()


def test_mask_that_is_no_mask(made):
    made.files["sbd"]["benchmark_RELEASE/dataset/cls/2008_000010.mat"] = b"nothing"
    with pytest.raises(InputError, match=r"2008_000010\.mat: no GTcls\.Segmentation"):
        made.build()


def test_a_mat_file_that_ends_the_process_of_its_reader_is_one_line(made, monkeypatch):
    """Damaged bytes end it within some hundred files: a segmentation fault in scipy.s parser."""
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match=r"\.mat: reading it ended the process that did, or"):
        made.build()


def test_a_mat_file_that_takes_for_ever_is_one_line(made, monkeypatch):
    """64 bytes that ask for 10^9 structures without a field."""
    content = mat(np.zeros((2, 2), np.uint8))
    header, name = content[:128], b"GTcls"
    flags = struct.pack("<4I", 6, 8, 2, 0)  # of class 2, a structure
    sizes = struct.pack("<2I2i", 5, 8, 10**9, 1)
    called = struct.pack("<2I8s", 1, len(name), name)
    fields = struct.pack("<HHi2I", 5, 4, 1, 1, 0)  # their names have a byte each; there are none
    array = flags + sizes + called + fields
    made.files["sbd"]["benchmark_RELEASE/dataset/cls/2008_000010.mat"] = (
        header + struct.pack("<2I", 14, len(array)) + array
    )
    monkeypatch.setattr(sbd, "SECONDS", 0.3)
    with pytest.raises(
        InputError, match=r"000010\.mat: reading it .* took more than 0\.3 s; replac"
    ):
        made.build()


def test_mat_file_gives_its_segmentation():
    mask = np.random.default_rng(0).integers(0, 21, (7, 5), dtype=np.uint8)
    assert np.array_equal(read_mask(mat(mask)), mask)


@pytest.mark.parametrize(
    "kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "logical", "sparse"]
)
def test_mat_files_of_every_kind_of_number(kind):
    mask = np.random.default_rng(0).integers(0, 21, (7, 5), dtype=np.uint8)
    if kind == "sparse":
        given = scipy.sparse.csc_matrix(mask.astype(float))
    elif kind == "logical":
        given = mask = mask > 10
    else:
        given = mask.astype(kind)
    found = read_mask(mat(given))
    assert found.dtype == np.uint8
    assert np.array_equal(found, mask)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((3, 3), 1.5), "must hold the numbers 0 to 20 only"),
        (np.full((3, 3), 21, np.uint8), "must hold the numbers 0 to 20 only"),
        (np.full((3, 3), -1, np.int8), "must hold the numbers 0 to 20 only"),
        (np.full((3, 3), np.nan), "must hold the numbers 0 to 20 only"),
        (np.zeros((3, 3, 3), np.uint8), "must be a matrix of numbers"),
        (np.zeros((3, 3), complex), "must be a matrix of numbers; got complex128"),
        (np.array([["a", "b"], ["c", "d"]], dtype=object), "must be a matrix of numbers"),
    ],
)
def test_mat_files_of_something_else(given, message):
    with pytest.raises(ValueError, match=message):
        read_mask(mat(given))


def relaid(files, change):
    return {change(name): content for name, content in files.items()}


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.removeprefix(
            "benchmark_RELEASE/dataset/"
        ),  # torchvision, `dataset` itself
        lambda name: name.removeprefix("benchmark_RELEASE/"),
        lambda name: f"sbd/{name}",
    ],
)
def test_sbd_as_others_unpack_it(made, change):
    made.files["sbd"] = relaid(made.files["sbd"], change)
    made.suffixes["sbd"] = ""
    made.build()
    assert made.ids("train_aug") == TRAIN_AUG


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.removeprefix("VOCdevkit/VOC2012/"),
        lambda name: f"TrainVal/{name}",
        lambda name: name.replace("VOCdevkit/VOC2012", "VOC2012_train_val/VOC2012_train_val"),
    ],
)
def test_voc_as_others_unpack_it(made, change):
    made.files["voc2012"] = relaid(made.files["voc2012"], change)
    made.suffixes["voc2012"] = ""
    made.build()
    assert made.ids("train_aug") == TRAIN_AUG


def test_another_year_beside_it(made):
    other = relaid(made.files["voc2012"], lambda name: name.replace("VOC2012", "VOC2007"))
    made.files["voc2012"] |= dict.fromkeys(other, b"of another year")
    made.build()
    image = made.root / "JPEGImages" / "2008_000010.jpg"
    assert (
        image.read_bytes() == made.files["voc2012"]["VOCdevkit/VOC2012/JPEGImages/2008_000010.jpg"]
    )
    made.files["voc2012"] = relaid(
        made.files["voc2012"], lambda name: name.replace("VOC2012", "VOC2008")
    )
    made.suffixes["voc2012"] = ".zip"
    with pytest.raises(InputError, match=r"holds 2 files called ImageSets/Segmentation/train\.txt"):
        made.build()


def test_two_copies_of_sbd_are_refused(made):
    files = made.files["sbd"]
    made.files["sbd"] = files | relaid(files, lambda name: f"copy/{name}")
    with pytest.raises(InputError, match="must hold one folder called cls; it holds 2; name"):
        made.build()


def test_a_list_that_is_no_text(made):
    made.files["sbd"]["benchmark_RELEASE/dataset/val.txt"] = "ä".encode("latin-1")
    with pytest.raises(
        InputError, match=r"sbd\.tgz, benchmark_RELEASE/dataset/val.txt: is not UTF"
    ):
        made.build()


def test_test_images_come_from_a_local_folder(made):
    made.files["voc2012-test"] = {
        "VOC2012/JPEGImages/2008_000001.jpg": stand_ins.jpeg(1),
        "VOC2012/JPEGImages/2008_000099.jpg": stand_ins.jpeg(2),  # another task's
        "VOC2012/ImageSets/Segmentation/test.txt": b"2008_000001\n",
    }
    made.build()
    assert made.ids("test") == ["2008_000001"]
    assert (made.root / "JPEGImages" / "2008_000001.jpg").exists()
    assert not (made.root / "JPEGImages" / "2008_000099.jpg").exists()


def test_plain_folder_of_test_images(made):
    made.files["voc2012-test"] = {f"{name}.jpg": stand_ins.jpeg(3) for name in ("b", "a")}
    made.build()
    assert made.ids("test") == ["a", "b"]
    made.files["voc2012-test"] = {"readme.txt": b""}
    for path in (made.folder / "voc2012-test").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="holds no images"):
        made.build()


def test_what_else_lies_beside_the_files_is_not_taken_for_them(made):
    """Annotations of LabelMe, previews, and what macOS packs."""
    (image,) = (name for name in made.files["voc2012"] if name.endswith("/2008_000010.jpg"))
    for other in (image.replace(".jpg", ".json"), image.replace(".jpg", ".png")):
        made.files["voc2012"][other] = b"of another program"
    made.files["sbd"]["__MACOSX/benchmark_RELEASE/dataset/cls/._2008_000010.mat"] = b"x"
    made.build()
    found = (made.root / "JPEGImages" / "2008_000010.jpg").read_bytes()
    assert found == made.files["voc2012"][image]


def test_two_files_for_one_image_are_refused(made):
    (image,) = (name for name in made.files["voc2012"] if name.endswith("/2008_000010.jpg"))
    made.files["voc2012"][image.replace("JPEGImages/", "JPEGImages/copy/JPEGImages/")] = b"x"
    with pytest.raises(InputError, match=r"holds .*2008_000010\.jpg and .*; keep one, or name"):
        made.build()
