import hashlib
import json

import pytest

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import write_text
from clip_wsss.runs.sidecar import check, current, plan, read_sidecar, write_sidecar

STAMP = {
    "stage": "cam",
    "key": "softmax-0123abcd",
    "code": "0123456789abcdef",
    "numerics": {"threads": 1, "batch": (1, 2)},
    "settings": {"power": 2.0},
}


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def job(tmp_path):
    """A job that was done: its sidecar and its inputs."""
    for name in ("texts", "one", "two", "out/maps", "out/log"):
        write_text(tmp_path / name, name)
    inputs = {"texts": tmp_path / "texts", "shards": [tmp_path / "one", tmp_path / "two"]}
    outputs = {"maps": tmp_path / "out/maps", "log": tmp_path / "out/log"}
    write_sidecar(tmp_path / "out/sidecar.json", STAMP, outputs, inputs, "a processor")
    return tmp_path / "out/sidecar.json", inputs


def test_what_is_written(job):
    path, _ = job
    assert json.loads(path.read_text()) == {
        "format": 1,
        "stamp": {**STAMP, "numerics": {"threads": 1, "batch": [1, 2]}},
        "outputs": {"maps": sha("out/maps"), "log": sha("out/log")},
        "files": {"maps": "maps", "log": "log"},
        "inputs": {"texts": sha("texts"), "shards": sha(f"{sha('one')}\n{sha('two')}\n")},
        "device": "a processor",
    }
    assert check(path, STAMP) == read_sidecar(path)


def test_line_ends_of_lists_do_not_count(tmp_path):
    """Editors of other systems change them, and a byte order mark; nothing is made again."""
    inputs = {"list": tmp_path / "train.txt", "labels": [tmp_path / "labels.csv"]}
    for path in (inputs["list"], *inputs["labels"]):
        path.write_bytes(b"a,1\nb,2\n")
    write_sidecar(tmp_path / "sidecar.json", STAMP, {}, inputs)
    assert read_sidecar(tmp_path / "sidecar.json")["inputs"]["list"] == sha("a,1\nb,2\n")
    for name in ("train.txt", "labels.csv"):
        for data, same in (
            (b"a,1\r\nb,2\r\n", True),
            (b"\xef\xbb\xbfa,1\nb,2\n", True),
            (b"a,1\nb,3\n", False),
            (b"a,1\nb,2\n", True),
        ):
            (tmp_path / name).write_bytes(data)
            assert current(tmp_path / "sidecar.json", STAMP, inputs) is same


def test_the_bytes_name_no_place(job, tmp_path):
    path, inputs = job
    before = path.read_bytes()
    assert str(tmp_path) not in path.read_text()
    stamp = dict(reversed(STAMP.items()))
    outputs = {"log": path.parent / "log", "maps": path.parent / "maps"}
    write_sidecar(path, stamp, outputs, dict(reversed(inputs.items())), "a processor")
    assert path.read_bytes() == before


def test_outputs_in_other_folders_are_found(tmp_path):
    write_text(tmp_path / "a/maps", "maps")
    write_sidecar(tmp_path / "b/sidecar.json", STAMP, {"maps": tmp_path / "a/maps"}, {})
    (tmp_path / "a/maps").rename(tmp_path / "kept")
    with pytest.raises(InputError, match="maps: missing"):
        check(tmp_path / "b/sidecar.json", STAMP)
    (tmp_path / "kept").rename(tmp_path / "a/maps")
    check(tmp_path / "b/sidecar.json", STAMP)


@pytest.mark.parametrize("field", ["stage", "key", "code", "numerics"])
def test_another_plan_is_refused_in_one_line(job, field):
    path, inputs = job
    stamp = STAMP | {field: "other"}
    with pytest.raises(InputError, match=f"made with {field} .*, and the plan has") as caught:
        check(path, stamp)
    assert str(caught.value).endswith(
        f"make it again: rm {path}, and then run the config of these results again"
    )
    assert "\n" not in str(caught.value)
    assert not current(path, stamp, inputs)


def test_other_images_are_for_the_job_to_see_and_not_for_readers(job):
    path, inputs = job
    stamp = STAMP | {"images": "2"}
    assert not current(path, stamp, inputs)
    assert plan(stamp, inputs) == plan(STAMP, inputs), "finished images of a shard are kept"
    check(path, stamp)
    outputs = {"maps": path.parent / "maps", "log": path.parent / "log"}
    write_sidecar(path, stamp, outputs, inputs)
    assert current(path, stamp, inputs)
    assert not current(path, STAMP | {"images": "3"}, inputs)


def test_the_sidecar_of_another_shard_is_refused(tmp_path):
    for shard in ("0001of0002", "0002of0002"):
        file = write_text(tmp_path / f"{shard}.npz", shard) or tmp_path / f"{shard}.npz"
        write_sidecar(tmp_path / f"{shard}.json", STAMP, {"maps": file}, {})
    first, second = tmp_path / "0001of0002.json", tmp_path / "0002of0002.json"
    check(second, STAMP, ["maps"])
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"0002of0002\.json: does not list the files"):
        check(second, STAMP, ["maps"])
    assert not current(second, STAMP, {}, {"maps": tmp_path / "0002of0002.npz"})
    assert current(first, STAMP, {}, {"maps": tmp_path / "0001of0002.npz"})


def test_a_sidecar_without_files_is_refused(job):
    path, inputs = job
    outputs = {name: path.parent / name for name in ("maps", "log")}
    assert current(path, STAMP, inputs, outputs)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outputs": {}, "files": {}}))
    with pytest.raises(InputError, match="does not list the files beside it"):
        check(path, STAMP)
    assert not current(path, STAMP, inputs, outputs)


def test_files_must_be_texts(job):
    path, _ = job
    record = json.loads(path.read_text())
    for name in ("files", "outputs"):
        path.write_text(json.dumps(record | {name: {"maps": 5, "log": "log"}}))
        with pytest.raises(InputError, match="not a sidecar of format 1"):
            read_sidecar(path)


def test_settings_are_information(job):
    path, inputs = job
    assert current(path, STAMP | {"settings": {}}, inputs)


def test_a_changed_or_missing_output_is_refused(job):
    path, inputs = job
    assert current(path, STAMP, inputs)
    (path.parent / "maps").write_text("other")
    with pytest.raises(InputError, match="maps: changed since the job that made it"):
        check(path, STAMP)
    assert check(path, STAMP, ["log"])
    assert not current(path, STAMP, inputs)
    (path.parent / "maps").unlink()
    with pytest.raises(InputError, match="maps: missing"):
        check(path, STAMP)
    with pytest.raises(InputError, match="does not say what scores is"):
        check(path, STAMP, ["scores"])


def test_changed_inputs_make_a_job_again(job, tmp_path):
    path, inputs = job
    first, second = inputs["shards"]
    assert not current(path, STAMP, inputs | {"shards": [second, first]})
    assert not current(path, STAMP, inputs | {"shards": [first]})
    assert not current(path, STAMP, inputs | {"images": first})
    assert not current(path, STAMP, {"texts": inputs["texts"]})
    (tmp_path / "texts").write_text("other")
    assert not current(path, STAMP, inputs)
    assert check(path, STAMP), "whoever reads the outputs does not need their inputs"


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', "inputs"])
def test_what_is_no_sidecar_is_refused(job, text):
    path, inputs = job
    if text == "inputs":
        text = json.dumps(read_sidecar(path) | {text: []})
    path.write_text(text)
    with pytest.raises(InputError, match="not a sidecar of format 1; make it again"):
        read_sidecar(path)
    assert not current(path, STAMP, inputs)
    path.unlink()
    with pytest.raises(InputError, match="missing, so make it again"):
        check(path, STAMP)
    assert not current(path, STAMP, inputs)
