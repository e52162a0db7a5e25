"""Folders of label PNGs: known answers, the figures of a run, and what does not fit in a line."""

import csv
from pathlib import Path

import numpy as np
import pytest
import synthetic
from PIL import Image

from clip_wsss import cli
from clip_wsss.core.errors import InputError
from clip_wsss.core.images import read_label, voc_palette
from clip_wsss.data.vocabulary import make_vocabulary
from clip_wsss.export import export_masks
from clip_wsss.score.folders import score_folders
from clip_wsss.score.measurements import Folder, Reader

WORDS = make_vocabulary({"classes": ["cat", "dog"], "names": {}, "backgrounds": {}}, "words")
TRUTH = {"a": [[0, 0, 1, 1], [0, 0, 1, 255]], "b": [[2, 2, 0, 0]]}
LABELS = {"a": [[0, 0, 1, 1], [0, 1, 0, 2]], "b": [[2, 0, 0, 0]]}
# By hand, the 255 left out: background 5 of 5 + 2 + 1, cat 2 of 2 + 1 + 1, dog 1 of 1 + 1.
IOU = {"background": 5 / 8, "cat": 2 / 4, "dog": 1 / 2}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Labels and truth of two images."""
    monkeypatch.chdir(tmp_path)
    write("labels", LABELS)
    write("my truth", TRUTH)
    return Path("labels"), Path("my truth")


def write(folder: str, masks: dict) -> None:
    Path(folder).mkdir(exist_ok=True)
    for name, mask in masks.items():
        Image.fromarray(np.array(mask, np.uint8)).save(Path(folder) / f"{name}.png")


def test_known_answers(folders):
    score = score_folders(*folders, WORDS)
    assert (score.images, score.unlabelled) == (2, 0)
    assert score.iou == pytest.approx(IOU)
    assert score.miou == pytest.approx(np.mean(list(IOU.values())))
    assert score.interval.low <= score.miou <= score.interval.high


def test_one_image_has_no_spread_and_a_class_without_truth_no_iou(folders):
    score = score_folders(*folders, WORDS, ids=["b"])
    assert score.iou == pytest.approx({"background": 2 / 3, "cat": np.nan, "dog": 0.5}, nan_ok=True)
    assert (
        score.interval.low == score.interval.high == score.miou == pytest.approx((2 / 3 + 0.5) / 2)
    )


def test_labels_that_share_no_class_with_the_truth_are_said(folders, capsys):
    Path("words.yaml").write_text("{classes: [cat, dog, cow], names: {}, backgrounds: {}}")
    command = ["score", "labels", "my truth", "--vocabulary", "words.yaml"]
    for shifted, said in ((LABELS["a"], False), ([[0, 0, 2, 2], [0, 0, 2, 0]], True)):
        write("labels", {"a": shifted, "b": [[3, 3, 0, 0]]})
        assert cli.main(command) == 0
        line = "warning: in 2 of 2 images that show a class in both the labels show none of the"
        assert capsys.readouterr().err.startswith(line) is said
    write("labels", {"a": [[0, 0, 0, 0], [0, 0, 0, 0]]})
    assert score_folders(*folders, WORDS, ids=["a"]).apart == (0, 0)


def test_classes_that_are_labelled_where_others_are_are_said(folders, capsys):
    # FAULTS 2: of two swapped classes that one image shows, the class is right in every image.
    Path("words.yaml").write_text("{classes: [cat, dog, cow], names: {}, backgrounds: {}}")
    command = ["score", "labels", "my truth", "--vocabulary", "words.yaml"]
    write("my truth", {"a": [[1, 1, 2, 2], [0, 0, 0, 0]], "b": [[1, 0, 0, 2]]})
    write("labels", {"a": [[2, 2, 1, 1], [0, 0, 0, 0]], "b": [[2, 2, 0, 0]]})
    assert cli.main(command) == 0
    assert capsys.readouterr().err.endswith(
        "warning: labels: the labels show dog where cat is (IoU 75%), cat where dog is (IoU 67%), "
        "as if values or colours of classes were others than in the ground truth\n"
    )
    words = make_vocabulary({"classes": ["cat", "dog"], "names": {}, "backgrounds": {}}, "words")
    found = score_folders(*folders, words).exchanged
    assert found == [("cat", "dog", 3 / 4), ("dog", "cat", 2 / 3)]
    # Each of the two is in both, in other places.
    write("labels", {"a": [[0, 0, 0, 0], [2, 2, 1, 1]], "b": [[0, 0, 0, 0]]})
    assert cli.main(command) == 0
    assert capsys.readouterr().err.endswith(
        "warning: every class has an IoU below 1%: none is found, or values are others in one "
        "folder\n"
    )


def test_a_truth_of_which_most_is_ignored_is_said(folders, capsys):
    """Such as that of which the values of background and ignored are exchanged."""
    Path("words.yaml").write_text("{classes: [cat, dog], names: {}, backgrounds: {}}")
    command = ["score", "labels", "my truth", "--vocabulary", "words.yaml"]
    write("my truth", {"a": [[255, 255, 1, 0], [0, 0, 1, 1]], "b": [[255, 255, 255, 2]]})
    for last, share in (([[255, 255, 0, 2]], 4), ([[255, 255, 255, 2]], 5)):
        write("my truth", {"b": last})
        assert score_folders(*folders, WORDS).ignored == pytest.approx(share / 12)
        assert cli.main(command) == 0
        assert f", {100 * share / 12:.2f} % of the ground truth ignored" in capsys.readouterr().out
    write("my truth", {"a": [[255, 255, 1, 255], [0, 0, 1, 1]]})
    assert cli.main(command) == 0
    assert "of its pixels" not in capsys.readouterr().err
    write("my truth", {"a": [[255, 255, 1, 255], [255, 0, 1, 1]]})
    assert cli.main(command) == 0
    assert "my truth: 58.3% of its pixels are 255 and left out; if" in capsys.readouterr().err


def test_a_truth_of_255_may_count_and_labels_of_255_are_missed(folders):
    with pytest.raises(InputError, match=r"a.png: holds the value 255, .*; --ignore names a value"):
        score_folders(*folders, WORDS, ignore=None)
    # The 0 of the truth left out, of which image a has four, and image b two.
    write("my truth", {"a": [[0, 0, 1, 1], [0, 0, 1, 1]]})
    score = score_folders(*folders, WORDS, ignore=0)
    assert score.iou == pytest.approx(
        {"background": np.nan, "cat": 2 / 4, "dog": 1 / 3}, nan_ok=True
    )
    write("labels", {"b": [[2, 255, 0, 0]]})
    with pytest.raises(InputError, match=r"b.png: holds the value 255, .*; --allow-255 counts 255"):
        score_folders(*folders, WORDS)
    score = score_folders(*folders, WORDS, ids=["b"], unlabelled=True)
    assert score.iou["dog"] == 0.5
    assert score.iou["background"] == 1, "255 is a false alarm of no class"
    assert score.unlabelled == 1 / 4


def test_truth_of_no_class_is_refused(folders):
    """As binary masks of 0 and 255 have it, where 255 is the object."""
    write("my truth", {"a": [[0, 0, 255, 255], [0, 0, 255, 255]], "b": [[255, 255, 0, 0]]})
    with pytest.raises(InputError, match="my truth: holds no pixel of a class, only the backgroun"):
        score_folders(*folders, WORDS)


def test_palettes_colours_and_processes_change_nothing(folders):
    wanted = score_folders(*folders, WORDS)
    for name, mask in LABELS.items():
        rgb = voc_palette()[np.array(mask)]
        Image.fromarray(rgb).save(folders[0] / f"{name}.png")
    assert score_folders(*folders, WORDS, workers=2) == wanted


@pytest.mark.parametrize(
    ("label", "line"),
    [
        ({"c": [[0]]}, "my truth: lacks c of the 3 images of labels; add them, name a list"),
        ({"a": [[0, 0]]}, "a.png: is 2 x 1, but my truth/a.png is 4 x 2 (width x height)"),
        ({"b": [[3, 0, 0, 0]]}, "b.png: holds the value 3, but there are 2 classes (0 to 2)"),
    ],
)
def test_what_does_not_fit_is_one_line(folders, label, line):
    write("labels", label)
    with pytest.raises(InputError) as error:
        score_folders(*folders, WORDS)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_lists_and_what_both_have(folders):
    write("labels", {"c": [[0]]})
    write("my truth", {"d": [[0]]})
    assert score_folders(*folders, WORDS, common=True).images == 2
    assert score_folders(*folders, WORDS, common=True, ids=["a", "c", "d"]).images == 1
    assert score_folders(*folders, WORDS, ids=["a", "b"]).iou == pytest.approx(IOU)
    with pytest.raises(InputError, match="my truth: lacks c of the 2 images listed"):
        score_folders(*folders, WORDS, ids=["a", "c"])
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        score_folders(Path("nowhere"), folders[1], WORDS)
    Path("made/labels").mkdir(parents=True)
    with pytest.raises(InputError, match=r"made: must hold label PNGs.*did you mean made/labels\?"):
        score_folders(Path("made"), folders[1], WORDS)
    for name in ("a", "b"):
        (folders[0] / f"{name}.png").unlink()
    with pytest.raises(InputError, match="labels: has no image that my truth has"):
        score_folders(*folders, WORDS, common=True)


def test_what_macos_writes_beside_files_is_no_image(folders):
    for folder in folders:
        for name in ("._a.png", ".DS_Store"):
            (folder / name).write_bytes(b"\0\5\x16\7")
    assert score_folders(*folders, WORDS).iou == pytest.approx(IOU)


def test_a_score_that_says_nothing_is_said_to(folders, capsys):
    # FAULTS 1
    Path("words.yaml").write_text("{classes: [cat, dog], names: {}, backgrounds: {}}")
    options = ["--vocabulary", "words.yaml"]
    assert cli.main(["score", "my truth", "my truth", *options, "--allow-255"]) == 0
    assert capsys.readouterr().err.endswith("warning: this folder was compared with itself\n")
    for path in Path("labels").glob("*.png"):
        Image.fromarray(np.zeros_like(read_label(path))).save(path)
    assert cli.main(["score", "labels", "my truth", *options]) == 0
    assert capsys.readouterr().err.endswith(
        "warning: labels: holds no class, but 0 and 255 only, in every image in which my truth has "
        "one\n"
    )


@pytest.mark.parametrize("place", ["labels", "my truth"])
def test_palettes_that_contradict_each_other_are_refused(folders, place):
    """As of a writer that keeps the colours that occur, and their places."""
    # FAULTS 2
    red, green = (200, 0, 0), (0, 200, 0)
    for name, colours in (("a", (red, green)), ("b", (green, red))):
        path = Path(place) / f"{name}.png"
        values = np.zeros_like(read_label(path))
        values[0, :2] = 1, 2
        mask = Image.fromarray(values, "P")
        mask.putpalette([0, 0, 0, *colours[0], *colours[1]])
        mask.save(path)
    with pytest.raises(
        InputError, match=rf"{place}: the palettes of its masks contradict each oth"
    ):
        score_folders(*folders, WORDS)


def test_the_command(folders, capsys):
    Path("words.yaml").write_text("{classes: [cat, dog], names: {}, backgrounds: {}}")
    Path("list.txt").write_text("a\nb\n")
    same = ["score", "labels", "my truth", "--vocabulary", "words.yaml", "--csv", "out/table.csv"]
    assert cli.main([*same, "--list", "list.txt"]) == 0
    out = capsys.readouterr().out
    assert (
        "0.00 % of the pixels unlabelled (255), 8.33 % of the ground truth ignored; interv" in out
    )
    assert "; intervals over so few images mean little\n" in out
    table = list(csv.reader(Path("out/table.csv").read_text().splitlines()))
    printed = out.splitlines()[: len(table)]
    assert [line.split() for line in printed] == table
    assert len(set(map(len, printed))) == 1, "the columns stand below one another"
    assert table[0] == ["class", "iou", "low", "high"]
    assert {name: iou for name, iou, *_ in table[1:]} == {
        "background": "62.50", "cat": "50.00", "dog": "50.00", "mIoU": "54.17",
    }  # fmt: skip
    Path("list.txt").write_text("b\n")
    assert cli.main([*same, "--list", "list.txt"]) == 0
    out = capsys.readouterr().out
    assert "cat" not in out
    assert "\n1 class without ground truth is not shown, and not in the mIoU\n" in out
    assert "cat,,," in Path("out/table.csv").read_text()
    Path("words.yaml").write_text("{classes: ['=cat', dog], names: {}, backgrounds: {}}")
    assert cli.main([*same, "--list", "list.txt"]) == 0
    assert "\n'=cat,,," in Path("out/table.csv").read_text(), "no spreadsheet computes it"
    capsys.readouterr()
    for bad in ("x", "256"):
        assert cli.main([*same, "--ignore", bad]) == 1
        assert capsys.readouterr().err == f"error: --ignore: must be 0 to 255 or none; got {bad}\n"
    Path("list.txt").write_text("a\nb\na.png\n")
    assert cli.main([*same, "--list", "list.txt"]) == 1
    assert capsys.readouterr().err == (
        "error: --list: lists a more than once; keep one line of each\n"
    )
    Path("list.txt").write_text("# none\n\n")
    assert cli.main([*same, "--list", "list.txt"]) == 1
    assert capsys.readouterr().err == (
        "error: --list: names no image; add ids to it, or leave it out\n"
    )


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (".", ".: is no file that could be replaced; name another"),
        ("file/x.csv", "file: cannot be made a folder (File exists); name another with --csv"),
        ("/proc/x.csv", "/proc: cannot be written into (No such file or directory); name another "),
        ("x" * 300, "File name too long; shorten the name"),
        ("my truth/a.png", "my truth/a.png: lies in my truth, which is only read; name another fi"),
        ("labels/new/x.csv", "labels/new/x.csv: lies in labels, which is only read; name another "),
        (
            "link/x.csv",
            "link/x.csv: lies in labels, which is only read; name another file with --csv",
        ),
        (
            "file",
            "file: is there, but is no file of this command; name another with --csv, or remo",
        ),
    ],
)
def test_where_no_table_can_be_is_said_before_the_work(folders, capsys, monkeypatch, place, line):
    Path("file").write_text("class,iou\nprecious")
    Path("link").symlink_to("labels")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    monkeypatch.setattr("clip_wsss.score.folders.score_folders", None)
    assert cli.main(["score", "labels", "my truth", "--csv", place]) == 1
    said = capsys.readouterr()
    assert line in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("option", "bad", "least"),
    [("--seed", "-1", 0), ("--workers", "0", 1), ("--seed", "x", 0)],
)
def test_numbers_that_cannot_be_are_refused(folders, capsys, option, bad, least):
    with pytest.raises(SystemExit):
        cli.main(["score", "labels", "my truth", f"{option}={bad}"])
    said = f"{option}: must be a whole number of at least {least}; got {bad}"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("many", ["100001", "1" * 5000])
def test_more_resamples_than_memory_holds_are_refused(folders, capsys, many):
    with pytest.raises(SystemExit):
        cli.main(["score", "labels", "my truth", "--bootstrap", many])
    said = capsys.readouterr().err
    assert f"--bootstrap: must be a whole number from 1 to 100000; got {many}\n" in said


def test_the_command_hands_its_options_on(folders, monkeypatch):
    seen = []

    def scored(*folders, **said):
        seen.append(said)
        return score_folders(*folders, **said)

    monkeypatch.setattr("clip_wsss.score.folders.score_folders", scored)
    Path("words.yaml").write_text("{classes: [cat, dog], names: {}, backgrounds: {}}")
    Path("list.txt").write_text("a\n")
    same = ["score", "labels", "my truth", "--vocabulary", "words.yaml"]
    assert cli.main(same) == 0
    own = "--list list.txt --common --ignore 0 --allow-255 --bootstrap 7 --seed 3 --workers 2"
    write("my truth", {"a": [[0, 0, 1, 1], [0, 0, 1, 1]]})
    assert cli.main([*same, *own.split()]) == 0
    names = ("ids", "common", "ignore", "unlabelled", "resamples", "seed", "workers")
    assert [tuple(said[name] for name in names) for said in seen] == [
        (None, False, 255, False, 1000, 0, 1),
        (["a"], True, 0, True, 7, 3, 2),
    ]


def test_exported_masks_score_as_in_the_tables(tmp_path):
    made = synthetic.build(tmp_path)
    masks = made.plan.graph.paths["crf"]["masks"]
    files = [made.root / file for file in made.plan.graph.shard_files(masks)]
    export_masks(files, tmp_path / "exported")
    truth, ids = made.dataset.root / "SegmentationClass", made.dataset.ids("train")
    score = score_folders(
        tmp_path / "exported/labels", truth, made.dataset.vocabulary, ids=ids, resamples=50
    )
    run = next(run for run in made.runs if run.name == "crf")
    figure = Reader(Folder(made.root), 50, 0).figure("mask", made.plan.graph.scores(run)["mask"])
    assert score.miou == figure.value
    assert score.interval == figure.interval
    np.testing.assert_array_equal(list(score.iou.values()), figure.class_iou)
