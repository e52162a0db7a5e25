import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from stand_ins import CAT, DOG, HEIGHT, WIDTH, box, jpeg, png, xml

from clip_wsss.core.errors import InputError
from clip_wsss.core.images import encode_label
from clip_wsss.data.annotations import read_labels_csv
from clip_wsss.data.datasets import open_dataset
from clip_wsss.data.vocabulary import read_vocabulary

VOCABULARY = "config/vocabularies/voc12.yaml"


class Folder:
    """A VOC-format folder of your own and the settings that open it."""

    def __init__(self, root):
        self.root = root
        self.settings = {
            "name": "own",
            "source": "folder",
            "root": str(root),
            "vocabulary": VOCABULARY,
            "labels": "xml",
            "size": "xml",
            "masks": "SegmentationClass",
        }
        for name in ("a", "b"):
            self.write(f"JPEGImages/{name}.jpg", jpeg(1))
            self.write(f"Annotations/{name}.xml", xml("dog", "cat", "dog"))
            self.write(f"SegmentationClass/{name}.png", png(box(DOG)))
        self.split("train", "b", "a")

    def write(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def split(self, name, *ids):
        self.write(f"ImageSets/Segmentation/{name}.txt", "\n".join(ids).encode())

    def open(self, **settings):
        return open_dataset(self.settings | settings)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "own")


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_voc_folder(folder):
    dataset = folder.open()
    assert dataset.ids("train") == ["b", "a"]  # the order of the list
    image = dataset.image("a")
    assert (image.shape, image.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert dataset.size("a") == (HEIGHT, WIDTH)
    assert dataset.labels("a") == [11, 7]  # dog before cat, as in the XML, and once
    assert np.array_equal(dataset.mask("a"), box(DOG))
    assert dataset.check("train", need_masks=True) == []
    assert dataset.name == "own"


def test_folder_is_only_read(folder):
    def state():
        files = sorted(path for path in folder.root.rglob("*"))
        return [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in files]

    before = state()
    dataset = folder.open()
    dataset.check("train", need_masks=True)
    with pytest.raises(InputError):
        dataset.ids("val")
    assert state() == before


def test_ignored_pixels_are_no_class(folder):
    folder.write("SegmentationClass/a.png", png(box(255, CAT)))
    assert set(np.unique(folder.open().mask("a"))) == {CAT, 255}


def test_data_set_without_masks(folder):
    dataset = folder.open(masks=None)
    assert dataset.mask("a") is None
    assert dataset.check("train", need_masks=True) == []


def test_other_image_files_and_colours(folder):
    (folder.root / "JPEGImages/b.jpg").unlink()
    Image.new("L", (WIDTH, HEIGHT), 7).save(folder.root / "JPEGImages/b.PNG")
    image = folder.open().image("b")
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert (image == 7).all()


def test_missing_image(folder):
    folder.split("train", "a", "gone")
    (line,) = folder.open().check("train")
    assert line.startswith(f"{folder.root}/JPEGImages/gone: no such image (.jpg, .jpeg, ")


def test_truncated_jpeg(folder):
    path = folder.write("JPEGImages/a.jpg", jpeg(1)[:-300])
    dataset = folder.open()
    assert dataset.size("a") == (HEIGHT, WIDTH)  # the header is whole
    with pytest.raises(InputError) as error:
        dataset.image("a")
    assert one_line(error).startswith(f"{path}: ")
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.jpg: not an image"):
        dataset.size("a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml(), "has no objects"),
        (xml("cat", "giraffe"), "unknown class `giraffe`; correct it, or add the class to config/"),
        (b"<annotation>", "not XML"),
    ],
)
def test_annotations_without_usable_labels(folder, content, message):
    path = folder.write("Annotations/a.xml", content)
    with pytest.raises(InputError, match=message) as error:
        folder.open().labels("a")
    assert one_line(error).startswith(str(path))
    assert folder.open().check("train") != []


def test_missing_annotation(folder):
    (folder.root / "Annotations/a.xml").unlink()
    dataset = folder.open()
    with pytest.raises(InputError, match=r"a\.xml: no such file; .*labels to a file"):
        dataset.labels("a")
    assert dataset.image("a").shape == (HEIGHT, WIDTH, 3)  # a test image has none


def test_size_disagreement(folder):
    path = folder.write("Annotations/a.xml", xml("cat", width=HEIGHT, height=WIDTH))
    with pytest.raises(InputError) as error:
        folder.open().image("a")
    assert one_line(error).startswith(f"{path}: says {HEIGHT} x {WIDTH}, but a.jpg is {WIDTH} x ")
    assert folder.open(size="image").size("a") == (HEIGHT, WIDTH)
    folder.write("Annotations/a.xml", b"<annotation><object><name>cat</name></object></annotation>")
    with pytest.raises(InputError, match="gives no width and height"):
        folder.open().size("a")


def test_strange_masks(folder):
    path = folder.write("SegmentationClass/a.png", png(box(21)))
    with pytest.raises(
        InputError, match="holds the value 21, but the vocabulary has 20 classes"
    ) as e:
        folder.open().mask("a")
    assert one_line(e).startswith(str(path))
    folder.write("SegmentationClass/a.png", png(box(1)[:-1]))
    with pytest.raises(InputError, match=r"a\.png: is 32 x 23, but its image is 32 x 24"):
        folder.open().mask("a")
    path.unlink()
    with pytest.raises(InputError, match=r"a\.png: no such mask"):
        folder.open().mask("a")


def test_lists_that_cannot_be_used(folder):
    dataset = folder.open()
    with pytest.raises(InputError, match=r"val\.txt: no such list .*\(there: train\)"):
        dataset.ids("val")
    with pytest.raises(InputError, match=r"sss\.txt: no such list"):
        dataset.ids(300 * "s")
    with pytest.raises(InputError, match=r"nowhere: no such folder; set dataset\.root"):
        folder.open(root="nowhere").ids("train")
    with pytest.raises(InputError, match="folder; run the workflow, which makes it, or set"):
        folder.open(root="nowhere", source="demo").ids("train")
    folder.split("empty")
    folder.split("twice", "a", "b", "a")
    folder.split("paths", "/JPEGImages/a.jpg /SegmentationClassAug/b.png")
    folder.split("again", "a.jpg", "JPEGImages/a.jpg")
    folder.split("none", "a -1", "# b")
    for split, message in (
        ("empty", r"empty\.txt: the list is empty"),
        ("twice", r"twice\.txt: lists a more than once"),
        ("paths", r"paths\.txt, line 1: holds paths that are not those of an image and its mask"),
        ("again", r"again\.txt: lists a more than once"),
        ("none", r"none\.txt: the list is empty"),
    ):
        with pytest.raises(InputError, match=message):
            dataset.ids(split)


def test_list_of_ones_own_and_all_images(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("a\n\n")
    assert folder.open().ids(str(tmp_path / "mine.txt")) == ["a"]
    assert folder.open().ids("all") == ["a", "b"]
    folder.split("all", "b")
    assert folder.open().ids("all") == ["b"]  # a list of this name goes first


def test_lists_of_ones_own_data_are_read_early(folder, images):
    splits = {"pseudo": "train", "val": None}
    folder.open(splits=splits).check_lists()
    with pytest.raises(InputError, match=r"val\.txt: no such list"):
        folder.open(splits=splits | {"val": "val"}).check_lists()
    folder.open(splits={"val": "val"}, source="voc12").check_lists()  # still to be made
    with pytest.raises(InputError, match=r"none\.csv: no such CSV"):
        open_dataset(images | {"labels": "none.csv", "splits": {"pseudo": "all"}}).check_lists()
    with pytest.raises(InputError, match="no such folder of images"):
        open_dataset(images | {"root": "nowhere", "splits": {"pseudo": "all"}}).check_lists()
    predicted = {"labels": "tagclip", "tagclip": {"truth": "none.csv"}, "splits": {"pseudo": "all"}}
    with pytest.raises(
        InputError, match=r"^none\.csv: there are no such labels; correct dataset\.tag"
    ):
        open_dataset(images | predicted).check_lists()


def test_missing_folder(tmp_path):
    folder = Folder(tmp_path / "own")
    dataset = folder.open(root=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere/JPEGImages: no such folder"):
        dataset.image("a")
    with pytest.raises(InputError, match=r"nowhere: no such folder; set dataset\.root"):
        dataset.ids("train")


@pytest.fixture
def images(tmp_path):
    """A plain folder of images with a CSV of labels elsewhere."""
    root = tmp_path / "images"
    root.mkdir()
    for number, name in enumerate(("one.jpg", "two.JPEG")):
        (root / name).write_bytes(jpeg(number))
    (root / "notes.txt").write_text("no image")
    (root / "._one.jpg").write_text("what macOS writes beside one.jpg on other disks")
    labels = tmp_path / "labels.csv"
    labels.write_text("image,labels\none.jpg,cat;dog;cat\ntwo,person\n")
    return {
        "name": "mine",
        "source": "images",
        "root": str(root),
        "vocabulary": VOCABULARY,
        "labels": str(labels),
        "size": "image",
        "masks": None,
    }


def test_plain_folder_of_images(images):
    dataset = open_dataset(images)
    assert dataset.ids("all") == ["one", "two"]
    assert dataset.labels("one") == [7, 11]
    assert dataset.image("two").shape == (HEIGHT, WIDTH, 3)
    assert dataset.mask("one") is None
    assert dataset.check("all") == []
    assert dataset.split_file("all") is None


def test_image_without_row_and_row_without_image(images, tmp_path):
    (tmp_path / "labels.csv").write_text("image,labels\none,\nthree,cat\n")
    problems = open_dataset(images).problems("all")
    assert "has no labels" in problems["one"]
    assert "no such image" in problems["three"]
    assert "has no row" in problems["two"]
    assert all("\n" not in line for line in problems.values())


def test_two_files_of_one_id(images, tmp_path):
    (tmp_path / "images/one.png").write_bytes(png(box(1)))
    with pytest.raises(InputError, match=r"one\.png: one\.jpg has the same id `one`"):
        open_dataset(images).ids("all")


def test_plain_folder_wants_a_csv(images):
    with pytest.raises(InputError, match=r"dataset\.labels: a plain folder of images has no XML"):
        open_dataset(images | {"labels": "xml"})


def test_unknown_class_in_the_csv(images, tmp_path):
    (tmp_path / "labels.csv").write_text("image,labels\none,cow;unicorn\n")
    with pytest.raises(InputError, match=r"labels\.csv, image one: unknown class `unicorn`"):
        open_dataset(images).labels("one")


def test_a_csv_in_another_encoding(images, tmp_path):
    (tmp_path / "labels.csv").write_bytes("image,labels\nkäse,cow\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"labels\.csv: is not UTF-8; save it"):
        open_dataset(images).labels("one")


def test_csv_forms(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes("\ufeffimage,label\r\na.jpg,cat\r\nb,dog\r\na.jpg,dog\r\n".encode())
    assert read_labels_csv(path) == {"a": ["cat", "dog"], "b": ["dog"]}
    path.write_text("image,labels,split\nv1.2.jpg, cat ; dog ,train\n")
    assert read_labels_csv(path) == {"v1.2": ["cat", "dog"]}
    path.write_text("image,labels\na,cat\na.png,dog\n")
    with pytest.raises(InputError, match="has two rows for a;"):
        read_labels_csv(path)
    path.write_text("file,labels\na,cat\n")
    with pytest.raises(InputError, match="needs the columns image and labels"):
        read_labels_csv(path)
    with pytest.raises(InputError, match="no such CSV"):
        read_labels_csv(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["background", "__background__", "Background", "bg", "void"])
def test_what_is_no_class_is_refused_as_one(tmp_path, name):
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump({"classes": [name, "dog"], "names": {}, "backgrounds": {}}))
    with pytest.raises(
        InputError, match=f"classes lists `{name}`; remove it: 0 is the back"
    ) as error:
        read_vocabulary(path)
    assert one_line(error).startswith(str(path))


def test_colours_of_a_vocabulary(tmp_path):
    path = tmp_path / "words.yaml"
    words = {"classes": ["cat", "dog"], "names": {}, "backgrounds": {}}

    def read(colours):
        path.write_text(yaml.safe_dump(words | {"colours": colours}))
        return read_vocabulary(path).colours

    own = {"cat": [1, 2, 3], "ignored": [255, 255, 255]}
    assert read(own) == {(0, 0, 0): 0, (1, 2, 3): 1, (0, 128, 0): 2, (255, 255, 255): 255}
    for colours, message in (
        ({"cow": [1, 2, 3]}, "colours must map classes, background or ignored"),
        ({"cat": [1, 2]}, r"colours\.cat: must be three numbers from 0 to 255"),
        ({"cat": [1, 2, 256]}, r"colours\.cat: must be three numbers"),
        ({"cat": [0, 0, 0]}, r"colours\.cat: is the colour of another class, too"),
        ([1], "colours must map"),
    ):
        with pytest.raises(InputError, match=message):
            read(colours)


def test_what_a_worker_process_gets_is_small_and_the_same(folder):
    dataset = folder.open()
    size = len(pickle.dumps(dataset))
    assert dataset.labels("a") == pickle.loads(pickle.dumps(dataset)).labels("a")
    assert dataset.ids("all") == pickle.loads(pickle.dumps(dataset)).ids("all") == ["a", "b"]
    assert len(pickle.dumps(dataset)) == size, "without what it has read"


def test_tiffs_are_images(folder):
    (folder.root / "JPEGImages/b.jpg").unlink()
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(folder.root / "JPEGImages/b.TIF")
    assert folder.open().image("b")[0, 0].tolist() == [1, 2, 3]


def test_what_macos_writes_beside_files_is_no_image(folder, images):
    for name in (
        "JPEGImages/._a.jpg",
        "JPEGImages/.DS_Store",
        "ImageSets/Segmentation/._train.txt",
    ):
        folder.write(name, b"\0\5\x16\7")
    assert folder.open().ids("all") == ["a", "b"]
    assert not folder.open().check("train", need_masks=True)
    with pytest.raises(InputError, match=r"\(there: train\)"):
        folder.open().ids("test")
    Path(images["root"], "._new.jpg").write_bytes(b"\0\5\x16\7")
    assert open_dataset(images).ids("all") == ["one", "two"]


def test_an_exif_orientation_is_said_before_the_size(folder):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder.root / "JPEGImages/a.jpg", exif=exif)
    dataset = folder.open()
    for read in (dataset.image, dataset.size, dataset.mask):
        with pytest.raises(InputError, match=r"a\.jpg: EXIF orientation 6"):
            read("a")
    for settings in ({"orientation": "stored"}, {"source": "voc12"}):  # VOC's masks fit its pixels
        dataset = folder.open(**settings)
        assert dataset.image("a").shape[:2] == dataset.mask("a").shape == (HEIGHT, WIDTH)


def test_masks_and_xml_of_the_turned_image_are_said_to_be(folder):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder.root / "JPEGImages/a.jpg", exif=exif)
    dataset = folder.open(orientation="stored")
    folder.write("SegmentationClass/a.png", encode_label(np.zeros((WIDTH, HEIGHT), np.uint8)))
    with pytest.raises(InputError, match=r"x \d+ \(width x height\), as if EXIF had turned it,"):
        dataset.mask("a")
    path = folder.root / "Annotations/a.xml"
    width, height = (f"<{side}>{n}</{side}>" for side, n in (("width", WIDTH), ("height", HEIGHT)))
    turned = path.read_text().replace(width, f"<width>{HEIGHT}</width>")
    path.write_text(turned.replace(height, f"<height>{WIDTH}</height>"))
    with pytest.raises(InputError, match=r"as if EXIF had turned it, .*; correct the XML"):
        dataset.size("a")


def test_names_that_look_the_same_are_said_to(images, tmp_path):
    """As macOS stores an accent, and as a keyboard types it."""
    (tmp_path / "images/two.JPEG").rename(tmp_path / "images/cafe\u0301.jpg")
    (tmp_path / "labels.csv").write_text("image,labels\none,cat\ncaf\xe9.jpg,dog\n", "utf-8")
    problems = open_dataset(images).problems("all")
    assert problems.keys() == {"cafe\u0301", "caf\xe9"}
    line = "one of that look is made of other characters (Unicode NFC and NFD); copy"
    assert f"caf\xe9: no such image, but {line} its name" in problems["caf\xe9"]
    assert f"cafe\u0301: has no row, but {line} the file's name" in problems["cafe\u0301"]


def test_images_without_a_class(folder, images, tmp_path):
    folder.write("Annotations/a.xml", xml())
    assert folder.open(negatives="background").labels("a") == []
    (tmp_path / "labels.csv").write_text("image,labels\none,\ntwo,cat\n")
    dataset = open_dataset(images | {"negatives": "background"})
    assert dataset.labels("one") == []
    with pytest.raises(InputError, match="three: has no row"):
        dataset.labels("three")


def test_vocabulary():
    vocabulary = read_vocabulary(VOCABULARY)
    assert vocabulary.classes[0] == "aeroplane"
    assert list(vocabulary.names["clip-es"]) == list(vocabulary.classes)
    assert vocabulary.texts("clip-es")["bird"] == "bird avian"
    assert vocabulary.texts("plain")["bird"] == "bird"
    assert len(vocabulary.background("clip-es")) == 25
    assert vocabulary.background("none") == ()
    with pytest.raises(InputError, match="names has no list `clipes`; it has plain, clip-es"):
        vocabulary.texts("clipes")
    with pytest.raises(InputError, match="backgrounds has no list"):
        vocabulary.background("x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": []}, "1 to 254 names"),
        ({"classes": ["a", 1]}, "all of them text"),
        ({"classes": ["a", "a"]}, "classes lists a more than once"),
        ({"classes": ["a", "A"]}, "classes: a and A have the same words in prompts, `A`"),
        (
            {"classes": ["a", "b"], "names": {"x": {"a": "b"}}},
            r"names\.x: a and b have the same words in prompts, `b`",
        ),
        ({"names": {"x": {"b": "bee"}}}, r"names\.x renames b, which is not among"),
        ({"names": {"x": ["b"]}}, r"names\.x must map"),
        ({"backgrounds": {"x": "sky"}}, r"backgrounds\.x must be a list"),
        ({"backgrounds": {"x": ["sky", " "]}}, r"backgrounds\.x must be a list"),
        (
            {"backgrounds": {"x": ["sky", "Sky "]}},
            r"backgrounds\.x lists `sky` more than once, which would count as often",
        ),
        (
            {"classes": ["boat", "hot dog"], "backgrounds": {"x": ["sky", "Hot  dog"]}},
            r"backgrounds\.x: `Hot  dog` is what prompts call hot dog in classes, too, by which",
        ),
        (
            {
                "classes": ["person"],
                "names": {"long": {"person": "person with clothes,people,human"}},
                "backgrounds": {"x": ["people"]},
            },
            r"backgrounds\.x: `people` is what prompts call person in names\.long, too, by which",
        ),
        ({"extra": 1}, "needs exactly the keys"),
    ],
)
def test_strange_vocabularies(tmp_path, change, message):
    path = tmp_path / "words.yaml"
    good = {"classes": ["a"], "names": {"plain": {}}, "backgrounds": {"none": []}}
    path.write_text(yaml.safe_dump(good | change))
    with pytest.raises(InputError, match=message) as error:
        read_vocabulary(path)
    assert one_line(error).startswith(str(path))
    path.write_text("classes: [")
    with pytest.raises(InputError, match="not YAML"):
        read_vocabulary(path)
    with pytest.raises(InputError, match="there is no such file"):
        read_vocabulary(tmp_path / "none.yaml")


def test_parallel_check_finds_the_same(folder):
    folder.split("train", "a", "b", *(f"gone{number}" for number in range(20)))
    dataset = folder.open()
    assert dataset.problems("train", workers=4) == dataset.problems("train")
    assert len(dataset.check("train", workers=4)) == 20


@pytest.mark.parametrize("name", [b"a\nb.jpg", b"\xff.jpg", b"a\x7f.jpg"])
def test_file_names_that_no_table_can_hold_are_refused(folder, name):
    """FAULTS 22."""
    path = os.path.join(os.fsencode(folder.root / "JPEGImages"), name)
    with open(path, "wb") as file:
        file.write(jpeg(0))
    for path in (folder.root / "ImageSets/Segmentation").glob("all.txt"):
        path.unlink()
    with pytest.raises(InputError, match="holds a control character or is not UTF-8; rename"):
        folder.open().ids("all")
