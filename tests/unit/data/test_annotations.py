"""Files of image-level labels: read rightly, or refused with one line that says where."""

import io
import json
import os
import pickle

import numpy as np
import pytest
from stand_ins import coco_object, square

from clip_wsss.core.errors import InputError
from clip_wsss.data.annotations import read_labels, read_xml
from clip_wsss.data.coco import AnnotatedImage, Instance, check_boxes, rasterise, read_pictures

CLASSES = ("person", "dog", "cat")


def labels(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labels(path, CLASSES)


def refused(path, content, message):
    with pytest.raises(InputError, match=message) as error:
        labels(path, content)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))


CSVS = {
    "image,labels\na.jpg,dog;cat\nb,person\n": {"a": ["dog", "cat"], "b": ["person"]},
    '\ufeff"image","labels"\r\n"a.jpg","dog; cat"\r\n': {"a": ["dog", "cat"]},
    "image, label\na.tif,dog\na.tif, cat\n": {"a": ["dog", "cat"]},
    "image,label\na.jpg,dog\na,cat\n": {"a": ["dog", "cat"]},
    "image,labels\n\na,\n,\n": {"a": []},
    "image,labels,split\ntrain/a.jpg,dog,train\n": {"a": ["dog"]},
    "image,label,photographer,licence,sure\na,dog,N. Yes,unknown,1\na,cat,Pos,unknown,1.0\n": {
        "a": ["dog", "cat"]
    },
    "image,label,Image_ID,bbox_x1,fold,note\na,dog,7,0.2,0,-\na,cat,-8,0.9,1,\n": {
        "a": ["dog", "cat"]
    },
    "image,labels,wind\na,dog,12\nb,cat,-3\n": {"a": ["dog"], "b": ["cat"]},
    "image,person,dog,cat\na.jpg,0,1,1\nb.jpg,0.0,1.0,0\n": {"a": ["dog", "cat"], "b": ["dog"]},
    "filename,cat,dog,person\na.jpg,1,1,0\n": {"a": ["cat", "dog"]},
}


@pytest.mark.parametrize("content", CSVS)
def test_csvs_that_are_read(tmp_path, content):
    assert labels(tmp_path / "l.csv", content) == CSVS[content]


BAD_CSVS = {
    "image,label\na.jpg,dog,0.9\n": "line 2: has 3 values, but there are 2 columns",
    "image,labels\na.jpg,dog,cat\n": "line 2: has 3 values",
    "image,labels\na.jpg\n": "line 2: has 1 values",
    "image,label\ntrain/a.jpg,dog\nval/a.jpg,cat\n": "line 3: val/a.jpg has the id `a`, and so has",
    "image,labels\na\\b.jpg,dog\nc\\b.jpg,cat\n": "has the id `b`, and so has an image in another",
    "image,label\ni0.jpg,cat\ni0.png,dog\n": "line 3: i0.png has the id `i0`, and so has",
    "image,label,labels\na,dog,cat\n": "has the columns labels and label; keep one",
    "image,label,sure\n0,dog,0.9\n1,dog,\n": "has a column sure, but every row counts as a label",
    "image,labels,present\na,dog,1\nb,cat,0\n": "has a column present, but every row counts as",
    "image,label,present\na,dog,True\na,cat,False\n": "has a column present, but every row",
    "image,label,mine\na,dog,yes\na,cat,no\n": "has a column mine, but every row counts as",
    "image,label,conf\na,dog,97\na,cat,3\n": "has a column conf, but every row counts as a",
    **{
        f"image,label,{name}\na,dog,{yes}\na,cat,{no}\n": f"has a column {name}, but every row"
        for name, yes, no in (
            ("sign", "1", "-1"),
            ("certainty", "97", "3"),
            ("area_score", "97", "3"),
            ("sureness", "97 %", "3%"),
            ("sureness", '"97,5"', '"3,0"'),
            ("logit", "2.5", "-3.1"),
            ("status", "present", "Absent"),
            ("status", "pos", "neg"),
            ("status", "yes", "unknown"),
            ("status", "+", "-"),
        )
    },
    ",image,label\n0,a,dog\n": "has a column without a name, such as the index that pandas",
    "image,label,Score\na,dog,0.1\n": "has a column Score, but every row counts as a label",
    "image;label\na.jpg;dog\n": "needs the columns .* separated by commas",
    "image\tlabels\na.jpg\tdog\n": "needs the columns",
    "image,labels,labels\na,dog,cat\n": "two columns of one name",
    'image,labels\na,"dog\n': r"line 2: not CSV \(unexpected end of data\)",
    "image,labels\n,dog\n": "line 2: names no image",
    "": "needs the columns",
    "image,labels\nkäse,dog\n".encode("cp1252"): "is not UTF-8",
    "image,labels\na,dog\n".encode("utf-16"): "is UTF-16, not UTF-8",
    b"PK\3\4 an npz\0": "is a zip .as spreadsheets are., no text; save it as UTF-8",
    "image,person,dog\na,0,1\n": "lacks a column for the class cat",
    "image,person,dog,cat,cow\na,0,1,0,1\n": "has a column that is not a class, cow",
    "image,person,dog,cat\na,0,0.7,0\n": "line 2, dog: must be 0 or 1; got `0.7`",
    "image,person,dog,cat\na,0,1,0\na.jpg,1,0,0\n": "has two rows for a",
}


@pytest.mark.parametrize("content", BAD_CSVS)
def test_csvs_that_are_refused(tmp_path, content):
    refused(tmp_path / "l.csv", content, BAD_CSVS[content])


def npy(value):
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


def one_hot(kind=np.float32):
    return {
        "2007_000032": np.array([0, 1, 1], kind),
        "b.jpg": np.array([0, 0, 0], kind),
        "c": np.asfortranarray(np.array([1, 0, 0], kind)),
    }


@pytest.mark.parametrize("kind", [np.float32, np.float64, ">f4", np.uint8, np.int64, bool])
@pytest.mark.parametrize(
    "write",
    [
        npy,
        lambda value: npy(np.array(value, dtype=object)),
        *(lambda value, p=p: pickle.dumps(value, p) for p in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
)
def test_dictionaries_of_one_hot_vectors(tmp_path, write, kind):
    found = labels(tmp_path / "cls_labels.npy", write(one_hot(kind)))
    assert found == {"2007_000032": ["dog", "cat"], "b": [], "c": ["person"]}


def test_ids_as_numbers(tmp_path):
    content = {2007000032: [0, 1, 0], np.int64(2008000001): (1, 0, 0), np.str_("d"): [0, 0, 1]}
    found = labels(tmp_path / "cls_labels.npy", npy(content))
    assert found == {"2007_000032": ["dog"], "2008_000001": ["person"], "d": ["cat"]}
    content = {"2023010101": [0, 1, 0], 2023010102: [1, 0, 0]}  # names of photographs, not VOC's
    found = labels(tmp_path / "cls_labels.npy", npy(content))
    assert found == {"2023010101": ["dog"], "2023010102": ["person"]}
    refused(tmp_path / "l.npy", npy({True: [0, 1, 0]}), "a key must be an image id; got True")


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_of_a_pickle_is_run(tmp_path):
    for write in (npy, pickle.dumps):
        for value in ({"a": Runs(tmp_path / "made")}, Runs(tmp_path / "made")):
            refused(
                tmp_path / "l.npy", write(value), "and nothing that runs .it asks for posix.mkdir"
            )
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(Runs(tmp_path / "made")))  # what it would have done
    assert (tmp_path / "made").exists()


def test_names_beside_those_of_arrays_are_refused(tmp_path):
    # numpy.core holds functions that run or read files.
    for module, name in (("numpy", "load"), ("builtins", "getattr"), ("numpy.core", "memmap")):
        content = f"c{module}\n{name}\n(Vx\ntR.".encode()
        refused(tmp_path / "l.npy", content, f"it asks for {module}.{name}")


BAD_NPYS = {
    "an array": (npy(np.zeros((2, 3))), "an array of float64"),
    "a list": (pickle.dumps([1]), "no dictionary"),
    "text": (b"image,labels", "must hold a dictionary"),
    "nothing": (b"", "must hold a dictionary"),
    "a cut": (npy(one_hot())[:-40], "must hold a dictionary"),
    "a vast array": (
        npy(one_hot()).replace(b"K\x03\x85", b"K\xff\x85"),
        "must hold a dictionary",
    ),
    "other length": (npy({"a": np.zeros(4)}), "labels of a must be a vector of 3 numbers"),
    "shares": (npy({"a": np.array([0, 0.5, 1])}), "labels of a must be 0 or 1"),
    "NaN": (npy({"a": np.array([0, np.nan, 1])}), "labels of a must be 0 or 1"),
    "names": (npy({"a": ["dog"]}), "labels of a must be a vector of 3 numbers"),
    "twice": (npy({"a": [0, 1, 0], "a.jpg": [0, 1, 0]}), "has two entries for a"),
    "odd key": (npy({(1, 2): [0, 1, 0]}), "a key must be an image id"),
}


@pytest.mark.parametrize("name", BAD_NPYS)
def test_dictionaries_that_are_refused(tmp_path, name):
    refused(tmp_path / "l.npy", *BAD_NPYS[name])


def coco(ids=int, **changes):
    data = {
        "images": [
            {"id": ids(7), "file_name": "val/b.jpg", "height": 24, "width": 32},
            {"id": ids(3), "file_name": "a.png", "height": 24, "width": 32},
        ],
        "annotations": [
            coco_object(1, ids(3), ids(18), [square(2, 2, 4)]),
            coco_object(2, ids(3), ids(1), [square(10, 2, 4)]),
            coco_object(3, ids(3), ids(18), [square(20, 2, 4)]),
        ],
        "categories": [{"id": ids(18), "name": "dog"}, {"id": ids(1), "name": "person"}],
    }
    return data | changes


@pytest.mark.parametrize("ids", [int, str])
def test_coco_json_as_labels(tmp_path, ids):
    found = labels(tmp_path / "l.json", json.dumps(coco(ids)))
    assert found == {"a": ["person", "dog"], "b": []}


def test_ids_of_a_coco_json_may_be_written_as_floats(tmp_path):
    data = coco()
    for item in (*data["annotations"], *data["images"], *data["categories"]):
        item["id"] = float(item["id"])
    assert labels(tmp_path / "l.json", json.dumps(data)) == {"a": ["person", "dog"], "b": []}
    for mixed in (data, data | {"images": coco()["images"]}):
        (picture,) = read_pictures(json.dumps(mixed).encode(), CLASSES, "l.json")
        assert [(one.label, one.id) for one in picture.instances] == [(1, 1), (0, 2), (1, 3)]


def test_polygons_in_percent_are_refused(tmp_path):
    # FAULTS 9
    def read(most, size, count=3):
        names = range(count)
        data = coco(
            images=[
                {"id": i, "file_name": f"{i}.png", "height": size, "width": size} for i in names
            ],
            annotations=[
                coco_object(i, i, 18, [[10, 10, 60, 10, 60, most if i == 1 else 50]]) for i in names
            ],
        )
        for item in data["annotations"]:
            item.pop("bbox", None)
        return read_pictures(json.dumps(data).encode(), CLASSES, "l.json")

    with pytest.raises(InputError, match="all polygons lie within 0 and 100, as shares of the im"):
        read(95, 300)
    for fine in ((90, 300), (101, 300), (95, 200), (95, 300, 2)):
        assert read(*fine)


def test_run_lengths_along_the_rows_are_refused():
    # FAULTS 9
    rows, columns = np.mgrid[:90, :120]
    disc = (rows - 40) ** 2 + (columns - 60) ** 2 < 30**2
    tower = columns // 10 == 4  # from top to bottom

    def region(mask):  # of pixels in the order of their bytes
        flat = mask.ravel()
        starts = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *starts, flat.size]).tolist()
        return {"size": [90, 120], "counts": [0] * bool(flat[0]) + counts}

    def drawn(mask):
        one = Instance(0, False, region(mask), 1)
        return AnnotatedImage("a.png", 90, 120, (one,))

    with pytest.raises(InputError, match="run lengths of object 1 seem to go along the rows, but"):
        check_boxes(drawn(disc))
    for mask in (disc, tower, tower | disc, columns < 7):
        check_boxes(drawn(mask.T))


def test_coco_json_that_says_less(tmp_path):
    data = coco()
    for item in data["annotations"]:
        for key in ("id", "iscrowd", "segmentation", "area"):
            del item[key]
    for item in data["images"]:
        del item["height"], item["width"]
    assert labels(tmp_path / "l.json", json.dumps(data)) == {"a": ["person", "dog"], "b": []}
    (picture,) = read_pictures(json.dumps(data).encode(), CLASSES, "l.json")
    with pytest.raises(InputError, match=r"a\.png: has no height and width in the JSON"):
        rasterise(picture)


def test_a_category_without_an_annotation_may_be_missing_in_the_vocabulary(tmp_path):
    data = coco()
    data["categories"].insert(0, {"id": 0, "name": "animals"})  # as Roboflow writes the group
    assert labels(tmp_path / "l.json", json.dumps(data)) == {"a": ["person", "dog"], "b": []}


def test_what_is_to_be_ignored_is_drawn_as_a_crowd(tmp_path):
    content = json.dumps(coco(annotations=changed(ignore=1, score=1))).encode()
    assert labels(tmp_path / "l.json", content) == {"a": ["dog"], "b": []}  # as of a crowd
    (picture,) = read_pictures(content, CLASSES, "l.json")
    assert set(np.unique(rasterise(picture))) == {0, 255}


def test_a_key_twice_is_refused(tmp_path):
    content = json.dumps(coco()).replace('"iscrowd": 0', '"iscrowd": 0, "iscrowd": 1', 1)
    refused(tmp_path / "l.json", content, "the key `iscrowd` is given twice")


def test_file_names_of_windows(tmp_path):
    content = json.dumps(coco()).replace("val/b.jpg", r"val\\b.jpg")
    assert labels(tmp_path / "l.json", content) == {"a": ["person", "dog"], "b": []}


def changed(**changes):
    return [coco()["annotations"][0] | changes]


BAD_JSONS = {
    "an image that is not listed": (coco(annotations=changed(image_id=9)), "is of image 9, which"),
    "a category": (
        coco(annotations=changed(category_id=9)),
        "is of category 9, which is not listed",
    ),
    "a class": (
        coco(categories=[{"id": 1, "name": "cow"}], annotations=changed(category_id=1)),
        "annotation 1 is of the category `cow`, which is missing in dataset.vocabulary; add it to",
    ),
    "a score": (coco(annotations=changed(score=0.9)), "annotation 1 has a score, as predictions"),
    "text to ignore": (coco(annotations=changed(ignore="1")), "ignore must be 0 or 1; got '1'"),
    "two of one id": (coco(images=coco()["images"][:1] * 2), "two images have the same id"),
    "two of one name": (
        coco(
            images=[{"id": n, "file_name": f"{n}/a.jpg"} for n in (3, 4)],
            annotations=[],
        ),
        "two images have the same file name",
    ),
    "no categories": (
        {"images": [], "annotations": []},
        "not a COCO instances file .no 'categories'",
    ),
    "two categories of one id": (
        coco(categories=[{"id": 1, "name": "dog"}, {"id": "1", "name": "cat"}]),
        "two categories have the same id",
    ),
    "an id of halves": (
        coco(annotations=changed(image_id=1.5)),
        "an id must be a whole number; got 1",
    ),
    "an id that is true": (coco(annotations=changed(image_id=True)), "a number or text; got True"),
    "an id of nothing": (coco(annotations=changed(category_id=None)), "or text; got None"),
    "an endless id": (
        json.loads(json.dumps(coco()).replace('"image_id": ', '"image_id": 1e400, "x": ')),
        "not a COCO instances file",
    ),
    "a crowd in text": (coco(annotations=changed(iscrowd="0")), "iscrowd must be 0 or 1; got '0'"),
    "a crowd of 2": (coco(annotations=changed(iscrowd=2)), "annotation 1: iscrowd must be 0 or 1"),
    **{
        f"a height of {side!r}": (
            coco(images=[coco()["images"][1] | {"height": side}], annotations=[]),
            rf"a\.png: height must be a whole number from 1 to 100000; got {side!r}",
        )
        for side in ("20", 20.0, -20, 0, 10**9, True)
    },
    "shares": (
        coco(annotations=changed(segmentation=[[0.1, 0.1, 0.9, 0.1, 0.9, 1]])),
        "all polygons lie within 0 and 1, as shares of the image; write pixels",
    ),
    "NaN": (
        coco(annotations=changed(segmentation=[[float("nan"), 1, 9, 1, 9, 9]])),
        "not a COCO instances file .NaN is not a number",
    ),
    "a list": ([], "not a COCO instances file .a list, where a mapping is wanted"),
    "no annotations": (coco(annotations=None), "file .annotations must be a list"),
    "a number": (coco(annotations=changed(segmentation=3)), "not a COCO instances file"),
}


@pytest.mark.parametrize("name", BAD_JSONS)
def test_jsons_that_are_refused(tmp_path, name):
    content, message = BAD_JSONS[name]
    refused(tmp_path / "l.json", json.dumps(content), message)


RING = square(2, 4, 12)  # x 2 to 14, y 4 to 16
DRAWN = np.zeros((24, 32), np.uint8)  # x 4 to 8, y 0 to 2
DRAWN[:2, 4:8] = 1


def run_lengths(pixels):
    ends = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    return {"size": [24, 32], "counts": np.diff([0, *ends, pixels.size]).tolist()}


ROW_BY_ROW, BY_COLUMN = (run_lengths(DRAWN.ravel(order)) for order in "CF")


@pytest.mark.parametrize(
    ("region", "box"),
    [
        ([[18, 24, 24, 18, 2, 2, 8, 8]], [18, 2, 6, 6]),  # x1, x2, ..., y1, y2, ...
        ([[2, 18, 2, 24, 8, 24, 8, 18]], [18, 2, 6, 6]),  # y1, x1, y2, x2, ...
        ([RING], [2, 4, 31, 31]),
        ([RING], [14, 16, 1, 1]),
        (ROW_BY_ROW, [4, 0, 4, 2]),
    ],
)
def test_polygons_that_contradict_their_bbox_are_refused(region, box):
    content = json.dumps(coco(annotations=changed(segmentation=region, bbox=box))).encode()
    (picture,) = read_pictures(content, CLASSES, "l.json")
    with pytest.raises(
        InputError, match=r"a\.png: the segmentation of object 1 spans x .*, but its bbox"
    ):
        check_boxes(picture)


@pytest.mark.parametrize(
    ("region", "box"),
    [
        ([RING], [2, 4, 12, 12]),
        (BY_COLUMN, [4, 0, 4, 2]),
        ([RING], [2, 4, 12, 20]),
        ([square(2, 4, 4), square(10, 12, 4), [30, 20]], [2, 4, 12, 12]),  # the last is no polygon
        ([square(2, 4, 1)], [3, 5, 2, 2]),  # a pixel or two
        *(
            ([RING], box)
            for box in (None, [], [0, 0, 0, 0], [20, 20, 0, 5], [1, 2], "box", [10**400] * 4)
        ),
        ([[1, 2, 3, 4]], [20, 20, 4, 4]),  # covers nothing
        ([[20, 2, 90, 2, 90, 8]], [20, 2, 12, 6]),  # up to the border
        ({"size": [24, 32], "counts": [768]}, [20, 20, 4, 4]),
    ],
)
def test_a_bbox_that_fits_or_says_nothing(region, box):
    content = json.dumps(coco(annotations=changed(segmentation=region, bbox=box))).encode()
    (picture,) = read_pictures(content, CLASSES, "l.json")
    check_boxes(picture)


@pytest.mark.parametrize(
    "region",
    [
        None,
        [],
        [[1, 2, "a", 4, 5, 6]],
        [1, 2, 3, 4, 5, 6],
        {"counts": "04L", "size": [9, 9]},
        {"size": [24, 32]},
        {"counts": [1, 2]},
    ],
)
def test_regions_that_cannot_be_drawn(region):
    content = json.dumps(coco(annotations=changed(segmentation=region))).encode()
    (picture,) = read_pictures(content, CLASSES, "l.json")
    with pytest.raises(InputError, match=r"a\.png: the segmentation of object 1 cannot") as error:
        rasterise(picture)
    assert "\n" not in str(error.value)


def test_json_that_is_none(tmp_path):
    for content in (b"", b"{", b"\xff\xfe{", b"[" * 100_000):
        refused(tmp_path / "l.json", content, "not a COCO instances file")


def test_files_that_would_block(tmp_path):
    for name in ("l.csv", "l.npy", "l.json", "a.xml"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="is a named pipe, not a file"):
            read_xml(tmp_path / name) if name == "a.xml" else read_labels(tmp_path / name, CLASSES)


def test_xml_with_a_namespace_or_deeper_objects(tmp_path):
    path, item = tmp_path / "a.xml", "<object><name>dog</name></object>"
    path.write_text(f'<annotation xmlns="http://voc">{item}</annotation>')
    assert read_xml(path).findtext("object/name") == "dog"
    path.write_text(f"<annotation><!-- --><objects>{item}</objects></annotation>")
    with pytest.raises(
        InputError, match=r"a\.xml: its `object` elements must be directly below the root"
    ):
        read_xml(path)


def test_xml_in_other_encodings(tmp_path):
    text = "<annotation><object><name>käse</name></object></annotation>"
    for encoding in ("utf-8", "utf-16", "latin-1"):
        head = f'<?xml version="1.0" encoding="{encoding}"?>'
        (tmp_path / "a.xml").write_bytes((head + text).encode(encoding))
        assert read_xml(tmp_path / "a.xml").findtext("object/name") == "käse"
    (tmp_path / "a.xml").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="not XML"):
        read_xml(tmp_path / "a.xml")
    (tmp_path / "a.xml").write_text('<?xml version="1.0" encoding="none"?><a/>')
    with pytest.raises(InputError, match="not XML"):
        read_xml(tmp_path / "a.xml")
