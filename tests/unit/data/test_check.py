"""The check before work: everything that is wrong, at once, and what is odd."""

import io
import json
import logging
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from stand_ins import CAT, DOG, HEIGHT, WIDTH, box, jpeg, png, xml

from clip_wsss.core.errors import InputError
from clip_wsss.core.images import encode_grey, encode_label, voc_palette
from clip_wsss.data.check import Use, check, shortened, write_check
from clip_wsss.data.datasets import open_dataset

EVERYTHING = {"train": Use(labels=True, masks=True)}


class Own:
    """Images a, b and c with a dog each, and their masks."""

    def __init__(self, root):
        self.root = root
        self.settings = {
            "name": "own",
            "source": "folder",
            "root": str(root),
            "vocabulary": "config/vocabularies/voc12.yaml",
            "labels": "xml",
            "size": "xml",
            "masks": "SegmentationClass",
        }
        for name in "abc":
            self.write(f"JPEGImages/{name}.jpg", jpeg(1))
            self.write(f"Annotations/{name}.xml", xml("dog"))
            self.mask(name, box(DOG))
        self.write("ImageSets/Segmentation/train.txt", b"a\nb\nc\n")

    def write(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def mask(self, name, values):
        self.write(f"SegmentationClass/{name}.png", encode_label(values))

    def check(self, uses=EVERYTHING, workers=1, **settings):
        return check(open_dataset(self.settings | settings), uses, workers)


@pytest.fixture
def own(tmp_path):
    return Own(tmp_path / "own")


def test_data_that_fit(own):
    own.write("Annotations/c.xml", xml("cat", "dog"))
    own.mask("c", np.maximum(box(DOG), box(CAT)[::-1]))
    found = own.check()
    assert found["errors"] == []
    assert found["splits"]["train"] == {
        "images": 3,
        "without_class": 0,
        "labels": {"cat": 1, "dog": 3},
        "masks": {"cat": 1, "dog": 3},
        "class_in_mask_only": 0,
        "class_in_labels_only": 0,
        "smallest": f"{WIDTH} x {HEIGHT}",
        "largest": f"{WIDTH} x {HEIGHT}",
        "sizes": [[HEIGHT, WIDTH]],
    }
    truth, labels = found["warnings"][:2]
    few = "split train: 3 images; intervals over so few images mean little"
    assert few in found["warnings"]
    assert truth.startswith("split train: no ground truth of aeroplane, bicycle")
    assert labels.startswith("split train: no image has aeroplane")


def test_trainings_are_tried_with_the_most_unlike_sizes(own, tmp_path):
    sizes = {"a": (40, 50), "b": (30, 70), "c": (60, 20)}
    for name, (height, width) in sizes.items():
        image = np.zeros((height, width, 3), np.uint8)
        Image.fromarray(image).save(own.root / f"JPEGImages/{name}.jpg")
    given = []
    for split in ("train", None):
        dataset = open_dataset(own.settings | {"size": "image", "splits": {"pseudo": split}})
        path = tmp_path / "check.json"
        write_check(dataset, {"train": Use()}, path, others=lambda found: given.append(found) or [])
        assert json.loads(path.read_text())["splits"]["train"]["sizes"] == [[30, 70], [60, 20]]
    assert given == [[[30, 70], [60, 20]], []]


def test_imported_masks_from_which_nothing_can_be_learnt(own, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    uses = {"train": Use(labels=True, imports=[(str(folder), None)])}

    def found(*values):
        for name, value in zip("abc", values, strict=True):
            mask = box(DOG) if value is None else np.full((HEIGHT, WIDTH), value, np.uint8)
            (folder / f"{name}.png").write_bytes(encode_label(mask))
        report = own.check(uses)
        return report["errors"], [one for one in report["warnings"] if str(folder) in one]

    assert found(None, None, 0) == ([], [])
    (error,), said = found(255, 255, 255)
    assert error.startswith(f"split train: every mask of {folder} is 255 (ignored) all over, which")
    assert said == []
    (error,), _ = found(255, 0, 0)
    assert error.startswith(f"split train: no mask of {folder} holds a class, only 0 and 255; a")
    errors, (line,) = found(255, None, 255)
    assert errors == []
    assert line.startswith(f"split train: 2 of 3 masks of {folder} are 255 (ignored) all over; no")


def test_an_xml_of_another_image_is_said(own):
    """As a copy under another name has it, whose labels look right."""
    # FAULTS 1, 6

    def said(*filenames):
        for name, filename in zip("abc", filenames, strict=True):
            body = xml("dog").decode()
            named = f"<annotation><filename>{filename}</filename>"
            own.write(f"Annotations/{name}.xml", body.replace("<annotation>", named).encode())
        return [line for line in own.check()["warnings"] if "XML" in line]

    assert said("a.jpg", "C:\\data\\b.png", "") == []
    assert said("a", "x/b.jpg", " c.jpeg ") == []
    assert said("a.jpg", "a.jpg", "c.tar.jpg") == [
        "split train: 2 of 3 XMLs name another image as their filename (b.xml: a.jpg), so their "
        "labels may be another image's"
    ]
    unused = own.check({"train": Use(masks=True)})["warnings"]
    assert not any("XML" in line for line in unused)


def test_regions_that_are_none_are_said(own, tmp_path):
    # FAULTS 2
    one = np.zeros((1, HEIGHT, WIDTH), bool)
    one[0, 3:9, 3:9] = True

    def said(**regions):
        for name, array in regions.items():
            np.savez(tmp_path / f"{name}.npz", regions=array)
        uses = {"train": Use(regions=[str(tmp_path)])}
        return [line for line in own.check(uses)["warnings"] if "region" in line]

    assert said(a=one, b=one, c=one) == []
    assert said(b=one & False, c=one[:0]) == [
        f"split train: 2 of 3 files of {tmp_path} hold no region (b, c), so that none votes there"
    ]


def test_an_object_of_several_names_is_refused(own):
    double = xml("dog").replace(b"<name>dog</name>", b"<name>dog</name><name>cat</name>")
    own.write("Annotations/b.xml", double)
    (line,) = own.check()["errors"]
    assert line.endswith("b.xml: an object has several names; keep one of each")


def damaged(how):
    """A JPEG of noise with a fault that its header does not show."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=95)
    data = file.getvalue()
    middle = len(data) // 2
    if how == "zeros at the end":
        return data[:middle] + bytes(len(data) - middle)
    if how == "padded":
        return data + bytes(4096)
    if how == "zeros":
        return data[:middle] + bytes(1024) + data[middle + 1024 :]
    return data[:middle] + b"\xff\xd9"


@pytest.mark.parametrize("left", [0.05, 0.5, 0.999])
def test_a_jpeg_that_is_cut_off_is_refused(own, left):
    # FAULTS 7, 26: else the job of its maps would be the first to say so
    data = damaged("padded")[:-4096]
    own.write("JPEGImages/b.jpg", data[: int(left * len(data))])
    (line,) = own.check(size="image", masks=None)["errors"]
    assert re.search(r"JPEGImages/b\.jpg: not a whole image \(", line)


@pytest.mark.parametrize("how", ["zeros", "cut"])
def test_a_damaged_jpeg_is_said(own, how, capfd):
    # FAULTS 7
    own.write("JPEGImages/b.jpg", damaged(how))
    found = own.check(size="image", masks=None)
    assert found["errors"] == []
    (line,) = [line for line in found["warnings"] if "JPEG" in line]
    assert line.startswith("split train: 1 of 3 JPEGs are damaged (b: Corrupt JPEG data: ")
    assert "JPEG" not in capfd.readouterr().err


def test_a_jpeg_that_ends_in_zeros_is_refused(own):
    # FAULTS 7, 18
    own.write("JPEGImages/b.jpg", damaged("padded"))
    settings = own.settings | {"size": "image", "masks": None}
    assert own.check(**settings)["errors"] == []
    assert not [line for line in own.check(**settings)["warnings"] if "JPEG" in line]
    assert open_dataset(settings).image("b").std() > 0
    own.write("JPEGImages/b.jpg", damaged("zeros at the end"))
    (line,) = own.check(**settings)["errors"]
    assert line.endswith("b.jpg: ends in zeros, as after a power cut; replace the file")
    with pytest.raises(InputError, match=r"b\.jpg: ends in zeros"):
        open_dataset(settings).image("b")


def test_a_suffix_of_another_case_is_said(own, tmp_path):
    """Of images any case counts."""
    for old, new in (
        ("JPEGImages/a.jpg", "JPEGImages/a.JFIF"),
        ("SegmentationClass/a.png", "SegmentationClass/a.PNG"),
        ("Annotations/b.xml", "Annotations/b.Xml"),
        ("JPEGImages/c.jpg", "JPEGImages/c.heic"),
    ):
        (own.root / old).rename(own.root / new)
    root = own.root
    assert own.check()["errors"] == [
        f"{root}/SegmentationClass/a.png: a.PNG is there, with a suffix of another case; rename it",
        f"{root}/Annotations/b.xml: b.Xml is there, with a suffix of another case; rename it",
        f"{root}/JPEGImages/c: no such image, but c.heic is there; save it as one of .jpg, .jpeg, "
        ".png, .bmp, .webp, .tif, .tiff, .gif, .jfif",
    ]
    (tmp_path / "l.csv").write_text("image,labels\na,dog\nb,dog\n")
    own.write("ImageSets/Segmentation/train.txt", b"a\nb\n")
    (line,) = own.check({"train": Use(True)}, labels=str(tmp_path / "l.csv"))["errors"]
    assert "b.Xml is there" in line, "its size would not be compared"


def test_a_root_without_lists(own):
    shutil.rmtree(own.root / "ImageSets")
    (line,) = own.check()["errors"]
    assert line == (
        f"{own.root}/ImageSets/Segmentation/train.txt: no such list of images; dataset.root "
        f"({own.root}) must hold ImageSets/Segmentation, or set dataset.splits to lists by their "
        "paths (.txt), or to all"
    )


def test_what_pillow_says_of_damaged_metadata_is_not_shown(own):
    """Which named no image, but a line of its source."""
    data = jpeg(1)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # five entries, and none is there
    marker = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    own.write("JPEGImages/a.jpg", data[:2] + marker + data[2:])
    image = f"{own.root}/JPEGImages/a.jpg"
    code = f"from clip_wsss.core.images import image_size; image_size({image!r})"
    quiet = f"from clip_wsss.core.errors import leave_out_warnings as f; f(); {code}"
    for line, said in ((code, True), (quiet, False)):
        call = [sys.executable, "-c", line]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        assert ("UserWarning" in done.stderr) == said, done.stderr


def test_all_errors_at_once_whatever_the_processes(own):
    own.write("Annotations/a.xml", xml("unicorn"))
    own.write("SegmentationClass/b.png", png(box(99)))
    (own.root / "JPEGImages/c.jpg").unlink()
    Image.new("F", (WIDTH, HEIGHT)).save(own.root / "JPEGImages/d.tif")
    own.write("Annotations/d.xml", xml("dog"))
    own.mask("d", box(DOG)[1:])
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(own.root / "JPEGImages/e.jpg", exif=exif)
    own.write("Annotations/e.xml", xml("dog"))
    own.mask("e", box(DOG))
    own.write("ImageSets/Segmentation/train.txt", b"a\nb\nc\nd\ne\n")
    found = own.check({"train": Use(True, True), "val": Use()})
    wanted = [
        "a.xml: unknown class `unicorn`",
        "b.png: holds the value 99",
        "JPEGImages/c: no such image",
        "d.tif: floating point",
        "e.jpg: EXIF orientation 6",  # rather than that its XML has another size
        "val.txt: no such list of images; set dataset.splits to lists that exist (there: train)",
    ]
    assert len(found["errors"]) == len(wanted)
    for line, part in zip(found["errors"], wanted, strict=True):
        assert part in line
        assert "\n" not in line
    assert own.check({"train": Use(True, True), "val": Use()}, workers=3) == found


def test_a_folder_that_all_splits_lack_is_one_error(own):
    found = own.check({"train": Use(True, True), "val": Use()}, root="nowhere")
    assert found["errors"] == ["nowhere: no such folder; set dataset.root"]


def test_what_the_runs_do_not_use_is_not_asked_for(own):
    shutil.rmtree(own.root / "SegmentationClass")
    shutil.rmtree(own.root / "Annotations")
    assert own.check({"train": Use()})["errors"] == []
    assert len(own.check({"train": Use(labels=True)})["errors"]) == 3
    assert len(own.check({"train": Use(masks=True)})["errors"]) == 3
    assert own.check({"train": Use(masks=True)}, masks=None)["errors"] == []


def test_bad_images_that_may_be_left_out_are_warnings(own):
    own.write("JPEGImages/b.jpg", b"")
    found = own.check(on_bad_image="skip")
    assert found["errors"] == []
    assert next(line for line in found["warnings"] if "b.jpg" in line).startswith("left out: ")
    for name in "ac":
        own.write(f"JPEGImages/{name}.jpg", b"")
    assert len(own.check(on_bad_image="skip")["errors"]) == 3, "none is left"


def test_scored_images_must_get_masks(own):
    # FAULTS 10
    own.write("ImageSets/Segmentation/score.txt", b"a\nb\n")
    own.write("ImageSets/Segmentation/pseudo.txt", b"c\na\n")
    uses = {"pseudo": Use(labels=True), "score": Use(masks=True)}
    splits = {"pseudo": "pseudo", "score": "score"}
    (line,) = own.check(uses, splits=splits)["errors"]
    assert line.startswith("dataset.splits.score: b of score are not in pseudo (splits.pseudo), so")
    own.write("ImageSets/Segmentation/pseudo.txt", b"c\na\nb\n")
    assert own.check(uses, splits=splits)["errors"] == []
    own.write("ImageSets/Segmentation/score.txt", b"b" * 10**6)  # a list that is no list
    errors = own.check(uses, splits=splits)["errors"]
    assert errors[-1].startswith("dataset.splits.score: bbb")
    assert max(map(len, errors)) < 3000


def test_masks_and_labels_that_disagree_are_counted(own):
    own.write("Annotations/b.xml", xml("dog", "cat"))
    own.mask("c", np.maximum(box(DOG), box(CAT)[::-1]))
    found = own.check()
    assert found["errors"] == []
    numbers = found["splits"]["train"]
    assert (numbers["class_in_mask_only"], numbers["class_in_labels_only"]) == (1, 1)
    for words in (
        "1 of 3 images have a class in the mask that is missing from the labels (c: cat)",
        "1 of 3 images have a class in the labels that is missing from the mask (b: cat)",
    ):
        assert f"split train: {words}" in found["warnings"]


def test_masks_whose_numbers_are_shifted_are_an_error(own):
    own.mask("a", box(DOG + 1))
    assert own.check()["errors"] == [], "one of three"
    own.mask("b", box(DOG + 1))
    (line,) = own.check()["errors"]
    assert line.startswith(
        "split train: in 2 of 3 images the mask holds no class of the labels (a: horse in the "
        "mask, dog in the labels)"
    )


@pytest.fixture
def fuller(own):
    """Four images, of which three show two classes; all of class 1 where they show one."""
    own.settings["vocabulary"] = str(own.root / "words.yaml")
    own.write("words.yaml", b"{classes: [person, cat, dog], names: {}, backgrounds: {}}")
    own.write("JPEGImages/d.jpg", jpeg(1))
    own.write("ImageSets/Segmentation/train.txt", b"a\nb\nc\nd\n")
    for name, labels in zip("abcd", (["person"], ["person", "cat"]) * 2, strict=True):
        own.write(f"Annotations/{name}.xml", xml(*labels))
    return own


def rows(*values):
    """A mask with as many stripes of the same height."""
    return np.repeat(np.array(values, np.uint8), HEIGHT // len(values))[:, None].repeat(WIDTH, 1)


def about_background(found):
    """Errors and warnings that name the background."""
    return found["errors"], [one for one in found["warnings"] if "(background)" in one]


def write_masks(own, folder, alone, both):
    """Those of the images of one class, and of two."""
    for name, mask in zip("abcd", (alone, both) * 2, strict=True):
        own.write(f"{folder}/{name}.png", encode_label(mask))


@pytest.mark.parametrize("folder", ["SegmentationClass", "theirs"])
def test_masks_in_which_the_background_is_1(fuller, folder):
    path = f"{fuller.root}/theirs"
    theirs = folder == "theirs"
    uses = {"train": Use(True, not theirs, imports=[(path, None)] if theirs else [])}
    alone, both = rows(1, 1, 1, 2), rows(1, 2, 3, 255)
    alone[:2] = both[:2] = 0  # such as a border that is ignored
    write_masks(fuller, folder, alone, both)
    errors, said = about_background(fuller.check(uses))
    of = f"of {path} " if theirs else ""
    assert said == []
    assert errors == [
        f"split train: no mask {of}holds 0 (background) in more than 8.3% of its pixels, and all 4 "
        "hold 1; 0 of 4 show just the classes of the labels, and 4 would with 1 less; if 1 is the "
        "background, subtract 1 from all values but 255, and make 0 255"
    ]
    alone[:4] = 0
    write_masks(fuller, folder, alone, both)
    assert about_background(fuller.check(uses)) == ([], []), "0 is more than a border"
    alone[:4], alone[-6:], both[8:16] = 1, 1, 2
    write_masks(fuller, folder, alone, both)
    assert about_background(fuller.check(uses)) == ([], []), "classes that fit the labels"


def test_few_masks_without_a_background_may_be_chance(fuller):
    write_masks(fuller, "SegmentationClass", rows(1, 2), rows(1, 2, 3))
    assert len(fuller.check()["errors"]) == 1
    fuller.write("ImageSets/Segmentation/train.txt", b"a\nb\nc\n")
    assert fuller.check()["errors"] == []


def test_masks_without_a_background_may_be_right(fuller):
    line = "split train: no mask holds 0 (background)"
    remedy = "if another value is the background, write 0 in its place"
    write_masks(fuller, "SegmentationClass", rows(1, 1), rows(1, 2))
    assert about_background(fuller.check()) == ([], [f"{line}; {remedy}"])
    write_masks(fuller, "SegmentationClass", rows(1, 255), rows(1, 255, 2, 255, 255, 255))
    assert about_background(fuller.check()) == (
        [],
        [f"{line}, and 58% of all pixels are 255 (ignored); {remedy}"],
    )


def test_background_and_ignored_that_are_exchanged_are_said(fuller):
    """Though the border of one image is wide."""
    # FAULTS 1
    alone, both = rows(0, *11 * [255]), rows(0, *11 * [255])
    alone[6:9], both[6:9], both[9:12] = 1, 1, 2
    write_masks(fuller, "SegmentationClass", alone, both)
    wide = alone.copy()
    wide[:4] = 0
    fuller.mask("a", wide)
    errors, (line,) = about_background(fuller.check())
    assert errors == []
    assert line.startswith(
        "split train: no mask but 1 of 4 holds 0 (background) in more than 10.0% of its pixels, an"
    )
    assert line.endswith("(ignored); if another value is the background, write 0 in its place")


def test_confidences_of_ignored_pixels_count_nowhere(own, tmp_path):
    # FAULTS 4
    for name in "abc":
        mask = box(DOG)
        mask[0] = 255
        (tmp_path / f"{name}.png").write_bytes(encode_label(mask))
        confidence = np.where(mask == 255, 255, 80).astype(np.uint8)
        (tmp_path / "conf").mkdir(exist_ok=True)
        (tmp_path / "conf" / f"{name}.png").write_bytes(encode_grey(confidence))
    use = Use(labels=True, imports=[(str(tmp_path), str(tmp_path / "conf"))], mu=0.95)
    (line,) = own.check({"train": use})["errors"]
    assert line.startswith("split train: no imported confidence is above 0.314, so that no pixel ")


def test_masks_without_a_class_are_an_error(own):
    for name in "abc":
        own.mask(name, box(255))  # white for the object, as binary masks have it
    (line,) = own.check()["errors"]
    assert line.startswith("split train: no mask holds a class, only 0 and 255")


def test_palettes_are_compared_with_the_vocabulary(own, tmp_path):
    image = Image.fromarray(box(DOG).astype(np.uint8))
    image.putpalette(np.roll(voc_palette(), 1, axis=0).tobytes())
    image.save(own.root / "SegmentationClass/a.png")
    (line,) = own.check()["errors"]
    assert "a.png: its palette gives 0 the colour (224, 224, 192), which is that of 255" in line


def test_imported_masks_are_read(own, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.png").write_bytes(png(box(DOG)))
    uses = {"train": Use(labels=True, imports=[(str(folder), None), (str(folder), str(folder))])}
    (line,) = own.check(uses)["errors"]
    assert "theirs/c.png: no such mask" in line


def test_imported_masks_with_other_classes_than_the_labels(own, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    uses = {"train": Use(labels=True, imports=[(str(folder), None)])}
    for name, mask in (("a", box(CAT)), ("b", box(CAT)), ("c", box(DOG))):
        (folder / f"{name}.png").write_bytes(encode_label(mask))
    (line,) = own.check(uses)["errors"]
    assert line.startswith(f"split train: in 2 of 3 images the mask of {folder} holds no class of")
    assert "(a: cat in the mask, dog in the labels)" in line
    (folder / "b.png").write_bytes(encode_label(np.maximum(box(DOG), box(CAT)[::-1])))
    assert own.check(uses)["errors"] == []


@pytest.mark.parametrize(("white", "said"), [(100, True), (255, False)])
def test_confidences_that_all_are_low_are_a_warning(own, tmp_path, white, said):
    for folder, values in (("masks", box(DOG)), ("sure", np.full((HEIGHT, WIDTH), white))):
        (tmp_path / folder).mkdir()
        for name in "abc":
            write = encode_label if folder == "masks" else encode_grey
            (tmp_path / folder / f"{name}.png").write_bytes(write(values))
    imports = [(str(tmp_path / "masks"), str(tmp_path / "sure"))]
    found = own.check({"train": Use(labels=True, imports=imports)})
    assert found["errors"] == []
    line = "split train: no imported confidence is above 0.392; a confidence of 1 must be stored"
    assert any(one.startswith(line) for one in found["warnings"]) is said
    errors = own.check({"train": Use(labels=True, imports=imports, mu=0.95)})["errors"]
    line = (
        "split train: no imported confidence is above 0.392, so that no pixel counts in a training"
    )
    assert [one.startswith(f"{line} with mu: 0.95; lower mu") for one in errors] == [True] * said


def test_one_class_without_background_words_is_a_warning(own):
    # FAULTS 3
    own.write("Annotations/c.xml", xml("cat", "dog"))
    use = {"train": Use(labels=True, bare=["photo"])}
    line = "split train: 2 of 3 images have one class, and the texts photo have no background"
    assert any(one.startswith(line) for one in own.check(use)["warnings"])
    for name in "ab":
        own.write(f"Annotations/{name}.xml", xml("cat", "dog"))
    assert not any("background words" in one for one in own.check(use)["warnings"])


def test_report_is_a_file_and_errors_are_lines(own, tmp_path, caplog):
    dataset = open_dataset(own.settings)
    with caplog.at_level(logging.WARNING):
        write_check(dataset, EVERYTHING, tmp_path / "check.json")
    assert "3 images; intervals" in caplog.text
    first = (tmp_path / "check.json").read_bytes()
    assert json.loads(first) == own.check()
    write_check(open_dataset(own.settings), EVERYTHING, tmp_path / "check.json", workers=2)
    assert (tmp_path / "check.json").read_bytes() == first
    names = [f"gone{number}" for number in range(60)]
    own.write("ImageSets/Segmentation/train.txt", "\n".join(names).encode())
    with pytest.raises(InputError) as error:
        write_check(open_dataset(own.settings), EVERYTHING, tmp_path / "check.json")
    lines = str(error.value).split("\n")
    assert len(lines) == 51
    assert lines[-1] == "and 70 more", "each lacks its image and its XML"
    assert shortened(["a"]) == ["a"]


def test_negatives(own):
    own.write("Annotations/b.xml", xml())
    own.mask("b", box(0))
    (line,) = own.check()["errors"]
    assert "b.xml: has no objects" in line
    assert "dataset.negatives to background" in line
    found = own.check(negatives="background")
    assert found["errors"] == []
    assert found["splits"]["train"]["without_class"] == 1


def test_labels_without_any_class_are_an_error_with_negatives_too(own):
    for name in "abc":
        own.write(f"Annotations/{name}.xml", xml())
    (line,) = own.check({"train": Use(labels=True)}, negatives="background")["errors"]
    assert line.startswith("split train: the labels of dataset.labels give no image a class")
    own.write("Annotations/a.xml", xml("dog"))
    assert own.check({"train": Use(labels=True)}, negatives="background")["errors"] == []


def test_coco_json_gives_labels_and_masks(own):
    from stand_ins import coco_object, square

    names = ["a", "b", "c"]
    content = {
        "images": [
            {"id": n, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
            for n, name in enumerate(names)
        ],
        "annotations": [coco_object(1, 0, 5, [square(2, 2, 4)])],
        "categories": [{"id": 5, "name": "dog"}],
    }
    own.write("all.json", json.dumps(content).encode())
    settings = {"labels": str(own.root / "all.json"), "masks": "all.json", "size": "image"}
    found = own.check(**settings, negatives="background", workers=2)
    assert found["errors"] == []
    assert found["splits"]["train"]["labels"] == {"dog": 1}
    mask = open_dataset(own.settings | settings).mask("a")
    assert np.array_equal(np.argwhere(mask == DOG)[[0, -1]], [[2, 2], [5, 5]])
    content["annotations"][0]["bbox"] = [20, 10, 4, 4]
    own.write("all.json", json.dumps(content).encode())
    line = own.check(**settings, negatives="background")["errors"][0]
    assert (
        "all.json: a.jpg: the segmentation of object 1 spans x 2 to 6 and y 2 to 6, but its" in line
    )
    del content["annotations"][0]["bbox"]
    content["images"][1]["width"] = 7
    own.write("all.json", json.dumps(content).encode())
    (line,) = own.check(**settings, negatives="background")["errors"]
    assert f"all.json, image b: is 7 x {HEIGHT}, but its image is {WIDTH} x {HEIGHT}" in line


def test_labels_that_are_still_to_be_predicted_are_not_looked_at(own):
    own.write("Annotations/c.xml", b"no XML")
    settings = {"labels": "tagclip", "tagclip": {"truth": None}, "size": "image"}
    found = own.check({"train": Use(masks=True)}, **settings)
    assert found["errors"] == []
    assert found["splits"]["train"]["labels"] == {}
    assert found["splits"]["train"]["masks"] == {"dog": 3}


def test_confidences_of_which_background_alone_reaches_mu(own, tmp_path):
    for name in "abc":
        label = box(DOG)
        own.write(f"theirs/{name}.png", encode_label(label))
        own.write(f"sure/{name}.png", encode_grey(np.where(label == 0, 255, 100).astype(np.uint8)))
    folders = [(str(own.root / "theirs"), str(own.root / "sure"))]

    def said(mu):
        report = own.check({"train": Use(imports=folders, mu=mu)})
        assert report["errors"] == []
        return [line for line in report["warnings"] if "confidence" in line]

    (line,) = said(0.95)
    assert line.startswith("split train: no imported confidence of a class is above 0.392, so that")
    assert said(0.3) == []


def test_images_in_further_folders_are_said_to_be_left_out(own):
    own.write("JPEGImages/more/d.jpg", jpeg(1))
    uses = {"all": Use()}
    (line,) = own.check(uses, splits={"pseudo": "all"})["warnings"]
    assert line.startswith(f"{own.root / 'JPEGImages'}: 1 images in folders within it are left out")
    assert "more/d.jpg" in line
    assert own.check({"train": Use()}, splits={"pseudo": "train"})["warnings"] == []


def test_a_validation_that_the_training_sees_is_said(own):
    own.write("ImageSets/Segmentation/val.txt", b"c\n")
    uses = {"train": Use(), "val": Use()}
    (line,) = own.check(uses, splits={"pseudo": "train", "val": "val"})["warnings"]
    assert line == (
        "dataset.splits.val: c of val are in train (splits.pseudo) too, so predictions are scored "
        "on images of the training"
    )
    own.write("ImageSets/Segmentation/train.txt", b"a\nb\n")
    assert own.check(uses, splits={"pseudo": "train", "val": "val"})["warnings"] == []


def test_objects_that_labelme_deleted_are_none(own):
    path = own.root / "Annotations/a.xml"
    gone = "<object><name>cat</name><deleted>1</deleted></object>"
    kept = "<object><name>cow</name><deleted>0</deleted></object>"
    path.write_text(path.read_text().replace("</annotation>", f"{gone}{kept}</annotation>"))
    vocabulary = open_dataset(own.settings).vocabulary.classes
    labels = open_dataset(own.settings).labels("a")
    assert sorted(vocabulary[label] for label in labels) == ["cow", "dog"]


def test_columns_of_labels_that_are_not_used_are_said(own, tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("image,label,review\na,dog,good\nb,dog,rejected\nc,dog,good\n")
    found = own.check({"train": Use(labels=True)}, labels=str(path))
    assert found["errors"] == []
    line = (
        f"{path}: the columns review are not used: every row counts as a label, whatever they say"
    )
    assert line in found["warnings"]
    path.write_text("image,label\na,dog\nb,dog\nc,dog\n")
    found = own.check({"train": Use(labels=True)}, labels=str(path))
    assert not any("not used" in line for line in found["warnings"])


def test_true_labels_of_predicted_ones_are_read_before(own, tmp_path):
    path = tmp_path / "true.csv"
    settings = {
        "labels": "tagclip",
        "tagclip": {"truth": str(path)},
        "size": "image",
        "splits": {"score": "train"},
    }
    path.write_text("image,labels\na,dog\nb,wolf\n")
    said = own.check({"train": Use()}, **settings)["errors"]
    assert len(said) == 2
    assert all(line.startswith("dataset.tagclip.truth: ") for line in said)
    assert any(f"{path}: has no row" in line or "c: has no row" in line for line in said)
    assert any("wolf" in line for line in said)
    path.write_text("image,labels\na,dog\nb,cat\nc,dog\n")
    assert own.check({"train": Use()}, **settings)["errors"] == []


@pytest.mark.parametrize("folder", ["", "theirs"])
def test_palettes_that_contradict_each_other_are_an_error(own, tmp_path, folder):
    """As programs write them that number colours anew in every file."""
    place = tmp_path / folder if folder else own.root / "SegmentationClass"
    place.mkdir(exist_ok=True)
    use = Use(imports=[(str(place), None)]) if folder else Use(masks=True)
    vocabulary = tmp_path / "words.yaml"
    vocabulary.write_text("classes: [a, b]\nnames: {plain: {a: a, b: b}}\nbackgrounds: {}\n")
    settings = {"vocabulary": str(vocabulary), "labels": "tagclip", "tagclip": {"truth": None}}
    red, green, grey = (250, 0, 0), (0, 250, 0), (9, 9, 9)

    def errors(last):
        for name, colours in {"a": (red, green), "b": (red, green), "c": last}.items():
            label = np.zeros((HEIGHT, WIDTH), np.uint8)
            label[0], label[1] = 1, 2
            image = Image.fromarray(label)
            image.putpalette([0, 0, 0, *colours[0], *colours[1]])
            image.save(place / f"{name}.png")
        return own.check({"train": use}, **settings)["errors"]

    (line,) = errors((green, red))
    assert line == (
        f"split train: the palettes of the masks {f'of {place} ' if folder else ''}contradict each "
        f"other: the colour {green} is 2 in a and 1 in c; save all with one palette"
    )
    assert errors((red, green)) == errors((grey, green)) == errors((red, red)) == []
