"""The command `clip-wsss masks`: what it writes, keeps and makes again; a bad picture's cost."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic
from PIL import Image

from clip_wsss import cli, pictures
from clip_wsss.api import Segmenter, ZeroMapWarning
from clip_wsss.core.confidence import encode
from clip_wsss.core.errors import InputError
from clip_wsss.core.files import alone
from clip_wsss.core.images import read_label, write_label
from clip_wsss.export import GREY

CONFIG = synthetic.REPOSITORY / "config/config.yaml"
PRESET = f"{CONFIG}:clip-es,masks.crf.backend=fast"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three pictures below a path with a space, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("my pictures").mkdir()
    for name, mode in (("a b.jpg", "RGB"), ("grey.png", "L"), ("alpha.png", "RGBA")):
        pixels = rng.integers(0, 255, (24, 32, 4), dtype=np.uint8)
        Image.fromarray(pixels, "RGBA").convert(mode).save(Path("my pictures") / name)
    return Path("my pictures")


def call(capsys, *arguments):
    code = cli.main(["masks", *map(str, arguments), "--preset", PRESET, "--device", "cpu"])
    out = capsys.readouterr()
    return code, out.out, out.err


def rows(name: str) -> list[list[str]]:
    return list(csv.reader(Path("masks", name).read_text().splitlines()))


def changed() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path("masks").glob("*/*.png")}


def test_two_commands_do_not_write_into_one_folder(folder, capsys):
    # FAULTS 19
    Path("masks").mkdir()
    with alone(Path("masks")):
        code, _, error = call(capsys, folder, "--labels", "dog")
    assert code == 1
    assert error.splitlines()[-1].startswith("error: masks: another command is writing into it; wa")
    assert call(capsys, folder, "--labels", "dog")[1] == "masks: 3 made, 0 kept, 0 bad\n"


def test_a_damaged_jpeg_is_said(folder, capsys):
    # FAULTS 7
    data = (folder / "a b.jpg").read_bytes()
    (folder / "a b.jpg").write_bytes(data[: len(data) * 2 // 3] + b"\xff\xd9")
    _, out, error = call(capsys, folder, "--labels", "dog")
    assert out == "masks: 3 made, 0 kept, 0 bad\n"
    line = "warning: my pictures/a b.jpg: damaged (Corrupt JPEG data: "
    assert any(one.startswith(line) for one in error.splitlines())


def test_masks_are_written_and_kept(folder, capsys):
    (folder / "bad.jpg").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    code, out, error = call(capsys, folder, "--labels", "dog, person")
    assert code == 1
    assert out == "masks: 3 made, 0 kept, 1 bad\n"
    # Of noise a map may be 0 all over, which is a warning.
    (said,) = [line for line in error.splitlines() if not line.startswith("warning: masks: in ")]
    assert said.startswith("error: my pictures/bad.jpg: not an image of a known format")
    mask = Segmenter(PRESET, device="cpu")(folder / "a b.jpg", ["dog", "person"])
    np.testing.assert_array_equal(read_label("masks/labels/a b.png"), mask.label)
    grey = np.asarray(Image.open("masks/confidence/a b.png"))
    np.testing.assert_array_equal(grey, GREY[encode(mask.confidence)])
    assert rows("classes.csv")[:2] == [["value", "class"], ["0", "background"]]
    assert rows("classes.csv")[12] == ["11", "diningtable"]
    assert [row[:2] for row in rows("images.csv")[1:]] == [
        [name, "dog;person"] for name in ("a b", "alpha", "grey")
    ]
    before = changed()
    (folder / "bad.jpg").unlink()
    code, out, _ = call(capsys, folder, "--labels", "dog,person")
    assert (code, out) == (0, "masks: 0 made, 3 kept, 0 bad\n")
    assert changed() == before


def test_what_is_not_what_it_was_is_made_again(folder, capsys):
    call(capsys, folder, "--labels", "dog")
    Path("masks/confidence/grey.png").unlink()  # as if it had been stopped
    shutil.copy(folder / "grey.png", folder / "alpha.png")  # another picture of that name
    _, out, error = call(capsys, folder, "--labels", "dog")
    assert out == "masks: 2 made, 1 kept, 0 bad\n"
    assert error == "masks: other labels or pixels, made again: alpha\n"
    _, out, error = call(capsys, folder / "a b.jpg", "--labels", "cat")
    assert out == "masks: 1 made, 0 kept, 0 bad\n"
    assert error == (
        "masks: other labels or pixels, made again: a b\n"
        "masks: 2 kept of pictures that are not given: alpha, grey\n"
    )
    assert dict(row[:2] for row in rows("images.csv")[1:])["a b"] == "cat"
    _, out, _ = call(capsys, folder / "grey.png", "--labels", "dog", "--overwrite")
    assert out == "masks: 1 made, 0 kept, 0 bad\n"


def test_masks_of_other_settings_are_not_mixed(folder, capsys):
    call(capsys, folder / "grey.png", "--labels", "dog")
    other = ["--classes", "dog,cat"]
    code, _, error = call(capsys, folder, "--labels", "dog", *other)
    assert code == 1
    assert error.startswith("error: masks: holds masks of other settings (settings.json); give")
    assert call(capsys, folder, "--labels", "dog", *other, "--overwrite")[0] == 0
    assert json.loads(Path("masks/settings.json").read_text())["names"] == [
        ["dog", "dog"], ["cat", "cat"],
    ]  # fmt: skip
    assert set(np.unique(read_label("masks/labels/a b.png"))) <= {0, 1}


@pytest.mark.parametrize("name", ["settings.json", "classes.csv", "images.csv", "labels/grey.png"])
def test_files_of_others_are_not_replaced(folder, capsys, name):
    path = Path("masks", name)
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    code, _, error = call(capsys, folder, "--labels", "dog")
    assert code == 1
    what = "is there, but masks has no images.csv of this command"
    if name == "images.csv":
        what = "was not written by this version of this command"
    remedy = "give another --out, or replace it with --overwrite"
    assert error == f"error: masks/{name}: {what}; {remedy}\n"
    assert [one for one in Path("masks").rglob("*") if one.is_file()] == [path]
    assert path.read_text() == "precious"
    assert call(capsys, folder, "--labels", "dog", "--overwrite")[0] == 0


def test_an_emptied_list_is_said_and_nothing_is_lost(folder, capsys):
    # FAULTS 18
    call(capsys, folder, "--labels", "dog")
    before = changed()
    Path("masks/images.csv").write_text("")
    code, _, error = call(capsys, folder, "--labels", "dog")
    assert (code, error.count("\n"), changed()) == (1, 1, before)
    assert error.startswith("error: masks/images.csv: is empty, so nothing says what made the")


@pytest.mark.parametrize("damaged", ["labels", "confidence"])
def test_what_is_no_longer_whole_is_made_again(folder, capsys, damaged):
    # FAULTS 5
    call(capsys, folder, "--labels", "dog")
    whole = {name: Path("masks", damaged, name).read_bytes() for name in ("a b.png", "grey.png")}
    Path("masks", damaged, "a b.png").write_bytes(b"")
    Path("masks", damaged, "grey.png").write_bytes(whole["grey.png"][:-30])
    assert call(capsys, folder, "--labels", "dog")[1] == "masks: 2 made, 1 kept, 0 bad\n"
    assert {name: Path("masks", damaged, name).read_bytes() for name in whole} == whole


@pytest.mark.parametrize("changed", ["labels", "confidence"])
def test_what_someone_changed_is_kept_and_said_until_it_is_deleted(folder, capsys, changed):
    # FAULTS 5
    call(capsys, folder, "--labels", "dog")
    path = Path("masks", changed, "grey.png")
    made = path.read_bytes()
    write_label(path, np.full((24, 32), 7, np.uint8))
    own = path.read_bytes()
    for _ in range(2):
        code, out, error = call(capsys, folder, "--labels", "dog")
        assert (code, out) == (0, "masks: 0 made, 3 kept, 0 bad\n")
        assert error == (
            "warning: masks: changed since they were made, and kept: grey; delete such a PNG to "
            "have it made again\n"
        )
        assert path.read_bytes() == own
    path.unlink()
    assert call(capsys, folder, "--labels", "dog")[1] == "masks: 1 made, 2 kept, 0 bad\n"
    assert path.read_bytes() == made


def test_a_line_that_was_half_written_does_not_count(folder, capsys):
    # FAULTS 29
    call(capsys, folder, "--labels", "dog")
    lines = Path("masks/images.csv").read_text()
    Path("masks/images.csv").write_text(lines[:-5])
    code, out, error = call(capsys, folder, "--labels", "dog")
    assert (code, out, error) == (0, "masks: 1 made, 2 kept, 0 bad\n", "")
    assert Path("masks/images.csv").read_text() == lines


def test_a_name_that_no_list_can_hold_costs_its_picture_alone(folder, capsys):
    # FAULTS 28
    for name in (b"k\xe4.png", b"a\nb.png"):
        shutil.copy(folder / "grey.png", os.fsencode(folder) + b"/" + name)
    code, out, error = call(capsys, folder, "--labels", "dog")
    assert (code, out) == (1, "masks: 3 made, 0 kept, 2 bad\n")
    said = [line for line in error.splitlines() if line.startswith("error: ")]
    reason = "holds a control character or is not UTF-8; rename the file"
    assert said == [
        rf"error: my pictures: the file name of 'a\nb' {reason}",
        rf"error: my pictures: the file name of 'k\udce4' {reason}",
    ]
    assert call(capsys, folder, "--labels", "dog")[1] == "masks: 0 made, 3 kept, 2 bad\n"


def test_a_stop_before_the_settings_are_written_is_gone_on_from(folder, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "write_json", stop)
        assert call(capsys, folder, "--labels", "dog")[0] == 130
    assert call(capsys, folder, "--labels", "dog")[1] == "masks: 3 made, 0 kept, 0 bad\n"


def test_a_damaged_settings_file_or_a_file_for_the_folder_is_one_line(folder, capsys):
    call(capsys, folder, "--labels", "dog")
    Path("masks/settings.json").write_text("{")
    code, _, error = call(capsys, folder, "--labels", "dog")
    assert code == 1
    assert error.startswith("error: masks/settings.json: not JSON (")
    assert error.endswith("; give --overwrite\n")
    Path("file").write_text("precious")
    code, _, error = call(capsys, folder, "--labels", "dog", "--out", "file")
    assert code == 1
    assert error.startswith("error: file: cannot be made a folder (File exists); name another")
    assert Path("file").read_text() == "precious"
    Path("out").mkdir()
    Path("out/confidence").write_text("precious")
    for option in ([], ["--overwrite"]):
        code, out, error = call(capsys, folder, "--labels", "dog", "--out", "out", *option)
        assert (code, out) == (1, "")
        assert error.startswith(
            "error: out/confidence: cannot be made a folder (File exists); name"
        )
        assert not Path("out/images.csv").exists(), "said before the work"


@pytest.mark.parametrize("option", ["--workers", "--threads"])
def test_counts_below_one_are_refused(folder, capsys, option):
    with pytest.raises(SystemExit):
        call(capsys, folder, "--labels", "dog", option, "0")
    assert f"{option}: must be a whole number of at least 1; got 0" in capsys.readouterr().err


def test_no_spreadsheet_computes_names_of_pictures_and_classes(folder, capsys):
    # FAULTS 12
    for name in ("=1+1.png", "'-2.png"):
        shutil.copy(folder / "grey.png", name)
    Path("words.yaml").write_text(
        "{classes: ['=dog', cat], names: {clip-es: {'=dog': dog}}, backgrounds: {clip-es: [wall]}}"
    )
    words = ["=1+1.png", "'-2.png", "--labels", "=dog", "--classes", "words.yaml"]
    assert call(capsys, *words)[1] == "masks: 2 made, 0 kept, 0 bad\n"
    assert rows("classes.csv")[2] == ["1", "'=dog"]
    assert [row[:2] for row in rows("images.csv")[1:]] == [["'=1+1", "'=dog"], ["''-2", "'=dog"]]
    assert call(capsys, *words)[1] == "masks: 0 made, 2 kept, 0 bad\n"


def test_labels_of_a_table(folder, capsys):
    table = "image,labels\na b.jpg,person;dog\ngrey.png,dgo\ngone.png,cat\n"
    Path("labels.csv").write_text(table)
    code, out, error = call(capsys, folder, "--csv", "labels.csv")
    assert (code, out) == (1, "masks: 1 made, 0 kept, 2 bad\n")
    assert "alpha.png: has no labels" in error
    line = "warning: labels.csv: 1 of 3 rows are of pictures that are not given: gone\n"  # FAULTS 6
    assert error.startswith(line)
    assert "grey.png: unknown class `dgo`; did you mean `dog`?" in error
    assert rows("images.csv")[1][:2] == ["a b", "person;dog"]


def test_pictures_that_are_not_taken_are_said(folder, capsys):
    # FAULTS 6
    for name in ("dog/1.jpg", "dog/old/2.jpg", "masks/labels/3.jpg", "dog/notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "a b.jpg", folder / name)
    out = ["--out", Path.cwd() / folder / "masks"]  # whose pictures are masks
    code, _, error = call(capsys, folder, "--labels", "dog", *out)
    assert code == 0
    assert error == (
        "warning: my pictures: 2 not taken, in folders below it: dog/1.jpg, dog/old/2.jpg; name "
        "these folders, too\n"
    )
    _, _, error = call(capsys, folder, folder / "dog", folder / "dog/old", "--labels", "dog", *out)
    assert "not taken" not in error
    shutil.rmtree(folder / "masks")
    code, _, error = call(capsys, folder, "--by-folder", *out)
    assert code == 0
    assert error == (
        "warning: my pictures: 4 not taken, not in a folder of a class directly below it: a b.jpg, "
        "alpha.png, dog/old/2.jpg and 1 more; move them there\n"
    )


def test_labels_by_folder(folder, capsys):
    for name in ("dog", "cat"):
        (folder / name).mkdir()
        shutil.copy(folder / "a b.jpg", folder / name / "1.jpg")
    assert call(capsys, folder, "--by-folder")[0] == 0
    assert set(np.unique(read_label("masks/labels/cat/1.png"))) <= {0, 8}
    assert set(np.unique(read_label("masks/labels/dog/1.png"))) <= {0, 12}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["my pictures", "--labels", "dgo"], "unknown class `dgo`; did you mean `dog`?"),
        (["my pictures", "--labels", " ,"], "--labels: names no class"),
        (["my pictures", "--csv", "no.csv"], "no.csv: no such CSV"),
        (["nothing", "--labels", "dog"], "nothing: there is no such file or folder"),
        (["my pictures", "--by-folder"], "my pictures: must hold a folder for each class"),
        (["my pictures", "--labels", "dog", "--classes", "no.yaml"], "no.yaml: there is no such"),
        (["my pictures", "--labels", "dog", "--weights", "no.pt"], "no.pt: no such weight file"),
        (["my pictures", "my pictures/grey.png", "--labels", "dog"], "has the name of"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, line):
    code, _, error = call(capsys, *arguments)
    assert code == 1
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1


def test_weights_that_fail_leave_nothing_in_the_way(folder, capsys):
    assert call(capsys, folder, "--labels", "dog", "--weights", "no.pt")[0] == 1
    code, _, error = call(capsys, folder, "--labels", "dog", "--weights", "demo")
    assert code == 0
    assert error.startswith("warning: weights: demo: this CLIP has only seen")


def test_what_macos_writes_beside_pictures_is_none(folder):
    for name in ("._grey.png", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    found = [one.name for one in pictures.find_pictures([folder])]
    assert found == ["a b", "alpha", "grey"]
    assert [one.name for one in pictures.find_pictures([Path()], by_folder=True)] == [
        f"my pictures/{name}" for name in found
    ]


def test_find_pictures_takes_files_whatever_their_suffix(folder):
    (folder / "frame.ppm").write_bytes(b"x")
    assert [one.name for one in pictures.find_pictures([folder / "frame.ppm"])] == ["frame.ppm"]
    with pytest.raises(InputError, match="must hold pictures"):
        pictures.find_pictures([Path(__file__).parent])


def test_maps_of_zero_are_said(folder, capsys, monkeypatch):
    own = Segmenter._maps

    def zero(self, data):
        for id_, found in own(self, data):
            first = found.id.startswith("a")
            yield id_, replace(found, maps=found.maps * (0 if first else 1))

    monkeypatch.setattr(Segmenter, "_maps", zero)
    code, out, error = call(capsys, folder, "--labels", "dog,person")
    assert (code, out) == (0, "masks: 3 made, 0 kept, 0 bad\n")
    assert error.startswith("warning: masks: in 2 of 3 pictures (a b) a map is 0 all over")
    assert error.count("\n") == 1
    with pytest.warns(ZeroMapWarning, match="the map of dog, person is 0 all over"):
        mask = Segmenter(PRESET, device="cpu")(folder / "a b.jpg", ["dog", "person"])
    assert not mask.label.any()


def test_a_picture_that_does_not_fit_is_named_by_its_file(folder, capsys, monkeypatch):
    # FAULTS 17
    Image.new("RGB", (1000, 1000)).save(folder / "large.png")
    monkeypatch.setattr("clip_wsss.core.memory.available", lambda device: 3 * 10**8)
    code, out, error = call(capsys, folder, "--labels", "dog")
    assert (code, out) == (1, "masks: 3 made, 0 kept, 1 bad\n")
    assert error.startswith("error: my pictures/large.png: 1000 x 1000 pixels are ")
    assert "; scale it down, leave it out, " in error
