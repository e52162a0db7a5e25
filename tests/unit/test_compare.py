import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from dvc.repo import Repo
from made_results import (
    config,
    draw,
    ladder,
    plan,
    run,
    score,
    sign,
    sign_tables,
    write_measurement,
    write_results,
)

from clip_wsss.compare import compare, main
from clip_wsss.core.errors import InputError
from clip_wsss.score.measurements import Folder, Reader, difference
from clip_wsss.tables.write import write_tables


def write(root, runs, gain=0.0, **evaluation):
    made = plan(root, runs, config(**evaluation))
    write_results(made, gain)
    write_tables(made)
    sign_tables(made)
    return Folder(root)


def test_a_folder_against_itself(tmp_path):
    folder = write(tmp_path, ladder())
    found = compare(folder, folder)
    assert len(found.changed) == 0
    assert len(found.stages) == 15
    assert "- the same on both sides: 15 of 15 figures" in found.text()
    assert "more than noise" not in found.text()


def test_a_gain_is_found_in_every_stage_and_class(tmp_path):
    old, new = write(tmp_path / "a", ladder()), write(tmp_path / "b", ladder(), 0.15)
    found = compare(old, new)
    row = found.stages.set_index(["run", "stage"]).loc["crf", "mask"]
    tables = [pd.read_csv(tmp_path / f"{side}/tables/ladder.csv") for side in "ab"]
    figures = [table.set_index("run").loc["crf", "mask"] for table in tables]
    assert row[["a", "b"]].tolist() == figures
    assert row["difference"] == pytest.approx(figures[1] - figures[0], abs=2e-4)
    assert row["low"] > 0
    assert row["more_than_noise"] == "yes"
    classes = found.classes[(found.classes["run"] == "crf") & (found.classes["stage"] == "mask")]
    assert classes["class"].tolist() == ["background", "cat", "dog"]
    assert (classes["more_than_noise"] == "yes").all()
    assert classes["difference"].mean() == pytest.approx(row["difference"], abs=2e-4)


def test_shared_measurements_are_told_once(tmp_path):
    old, new = write(tmp_path / "a", ladder()), write(tmp_path / "b", ladder(), 0.15)
    found = compare(old, new)
    same = found.stages.set_index(["run", "stage"])["same_as"]
    assert same["crf", "refined"] == "caa"
    assert same["caa", "refined"] == ""
    lines = [line for line in found.text().splitlines() if "| refined |" in line]
    assert lines[0].startswith("| caa, crf, all, cgl | refined | ")


def test_a_changed_setting_is_named_at_the_stages_that_depend_on_it(tmp_path):
    old = write(tmp_path / "a", [run("cgl", None, affinity="caa", masks="crf", segmentation="cgl")])
    changed = run("cgl", None, affinity="caa", masks="crf", segmentation="cgl,mu=0.8", seeds=(0, 1))
    new = write(tmp_path / "b", [changed])
    words = compare(old, new).stages.set_index("stage")["changed"]
    assert words["segmentation"] == "mu: 0.95 -> 0.8; seeds: 0 -> 0 1"
    assert words[["initial", "refined", "mask"]].tolist() == ["", "", ""]


def test_scoring_is_named_at_the_maps_alone(tmp_path):
    old = write(tmp_path / "a", [run("a", None, masks="argmax")])
    new = write(tmp_path / "b", [run("a", None, masks="argmax,scoring=oracle")])
    words = compare(old, new).stages.set_index("stage")["changed"]
    assert words.tolist() == ["scoring: fixed -> oracle", ""]


def test_entries_may_be_called_otherwise(tmp_path):
    old = write(tmp_path / "a", [run("a", None, affinity="caa,layers=8")])
    new = write(tmp_path / "b", [run("a", None, affinity="corrected")])
    assert len(compare(old, new).changed) == 0


def test_runs_of_one_side_and_common_settings_are_listed(tmp_path):
    old = write(tmp_path / "a", ladder()[:2])
    new = write(tmp_path / "b", ladder()[1:3], bootstrap=100)
    found = compare(old, new)
    assert (found.removed, found.added) == (["plain"], ["caa"])
    assert found.settings == ["evaluation.bootstrap: 200 -> 100"]
    text = found.text()
    assert "- only in A: plain\n- only in B: caa\n" in text
    assert "- settings of both sides: evaluation.bootstrap: 200 -> 100" in text


def test_stages_that_cannot_be_compared_are_said_so(tmp_path):
    runs = [run("crf", None, affinity="caa", masks="crf")]
    old, new = write(tmp_path / "a", runs), write(tmp_path / "b", runs)
    mask = tmp_path / "b" / score(plan("", runs), "crf", "mask")
    write_measurement(mask, "mask", draw(0.8, 0), split="other")
    sign(plan(tmp_path / "b", runs))
    found = compare(old, new)
    assert "not comparable" in found.text()
    assert len(found.changed) == 1


def test_only_common_images_are_compared(tmp_path):
    runs = [run("crf", None, affinity="caa", masks="crf")]
    old, new = write(tmp_path / "a", runs), write(tmp_path / "b", runs)
    file = score(plan("", runs), "crf", "mask")
    counts = pd.read_parquet((tmp_path / "a" / file).with_name("counts.parquet"))
    fewer = counts[counts["id"] >= "i03"].reset_index(drop=True)
    write_measurement(tmp_path / "b" / file, "mask", fewer)
    sign(plan(tmp_path / "b", runs))
    found = compare(old, new)
    row = found.stages.set_index("stage").loc["mask"]
    assert row[["images", "a_images", "b_images", "other_truth"]].tolist() == [9, 12, 9, 0]
    assert found.changed["stage"].tolist() == ["mask"]
    text = found.text()
    assert "- the same on both sides: 2 of 3 figures\n" in text
    line = "A was scored on 12 images and B on 9: their figures are of these, B - A of the 9 in com"
    assert f"- mask: {line}" in text
    assert "(12 images)" in text
    assert "(9 images)" not in text  # which are those in common
    assert row["difference"] == row["low"] == row["high"] == 0  # where both are, they are the same
    assert row["a"] != row["b"]


def test_another_ground_truth_is_said(tmp_path):
    """Three times as many true pixels count in four images of one side, and no method changed."""
    runs = [run("crf", None, affinity="caa", masks="crf")]
    old, new = write(tmp_path / "a", runs), write(tmp_path / "b", runs)
    assert "ground truth" not in compare(old, new).text()
    file = score(plan("", runs), "crf", "mask")
    counts = pd.read_parquet((tmp_path / "a" / file).with_name("counts.parquet"))
    some = counts["id"] < "i04"
    counts.loc[some, "pixels"] *= 3
    write_measurement(tmp_path / "b" / file, "mask", counts)
    sign(plan(tmp_path / "b", runs))
    found = compare(old, new)
    assert found.stages.set_index("stage")["other_truth"].to_dict() == {
        "initial": 0, "refined": 0, "mask": 4,
    }  # fmt: skip
    assert (
        "- mask: the ground truth differs in 4 of 12 images, and B - A is of that" in found.text()
    )
    assert found.changed["stage"].tolist() == ["mask"]


def test_common_images_are_compared_at_the_power_of_the_maps(tmp_path):
    """At power 1 the two are the same."""
    for name, quality, first in (("a", 0.9, "i00"), ("b", 0.6, "i03")):
        maps = [draw(0.5, 0).assign(power=1.0), draw(quality, 0).assign(power=2.0)]
        counts = pd.concat(maps).query(f"id >= '{first}'").reset_index(drop=True)
        write_measurement(tmp_path / name / "score.json", "initial", counts)
    reader = Reader(Folder(tmp_path), 20, 0)
    files = {one: [f"{one}/score.json"] for one in "ab"}
    known = reader.figure("initial", files["b"], background_power=2).ids
    wanted = [reader.figure("initial", files[one], "fixed", 2, known) for one in "ab"]
    found = difference(*(reader.figure("initial", files[one], "fixed", 2) for one in "ab"))
    assert found.value == wanted[0].value - wanted[1].value > 0.1
    assert found.images == 9
    assert not found.seeds, "one of each"
    assert reader.figure("initial", files["a"]).power == 1, "unless another is said"


def test_the_command_prints_and_writes(tmp_path, capsys):
    write(tmp_path / "a", ladder()[:2])
    write(tmp_path / "b", ladder()[:2], 0.2)
    out = tmp_path / "out"
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (out / "comparison.md").read_text() == printed
    assert printed.startswith("# B - A: what ")
    assert len(pd.read_csv(out / "stages.csv")) == 2
    assert len(pd.read_csv(out / "classes.csv")) == 6
    (tmp_path / "file").write_text("precious")
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: {tmp_path / 'file'}: cannot be made a folder (File exists); name another"
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["comparison.md", "stages.csv", "classes.csv"])
def test_tables_of_others_are_not_replaced(tmp_path, capsys, name):
    write(tmp_path / "a", ladder()[:1])
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("precious")
    call = [str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(out)]
    assert main(call) == 1
    what = f"is there, but {out} has no comparison.md of this command"
    if name == "comparison.md":
        what = "was not written by this version of this command"
    remedy = "give another --out, or replace it with --overwrite"
    assert capsys.readouterr().err == f"error: {out / name}: {what}; {remedy}\n"
    assert [one.read_text() for one in out.iterdir()] == ["precious"]
    assert main([*call, "--overwrite"]) == main(call) == 0


@pytest.mark.parametrize("name", ["comparison.md", "stages.csv", "classes.csv"])
def test_a_folder_in_the_place_of_a_table_is_said_before_the_work(
    tmp_path, capsys, monkeypatch, name
):
    (tmp_path / "out" / name).mkdir(parents=True)
    monkeypatch.setattr("clip_wsss.compare.compare", None)
    assert main([str(tmp_path), str(tmp_path), "--out", str(tmp_path / "out"), "--overwrite"]) == 1
    line = f"error: {tmp_path / 'out' / name}: is no file that could be replaced; name another\n"
    assert capsys.readouterr().err == line


def test_a_folder_without_results_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.endswith("tables/runs.json: no such file; run snakemake first\n")
    assert error.count("\n") == 1


def test_results_of_an_earlier_version_are_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/runs.json").write_text('{"resamples": 9, "seed": 0, "runs": []}')
    write(tmp_path / "new", ladder()[:1])
    assert main([str(tmp_path / "new"), str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "tables/runs.json was written by another version of this suite; compare" in error
    assert error.count("\n") == 1


def test_what_was_changed_by_hand_is_not_compared(tmp_path):
    # FAULTS 5
    old, new = write(tmp_path / "a", ladder()[:1]), write(tmp_path / "b", ladder()[:1])
    file = tmp_path / "b" / score(plan("", ladder()[:1]), "plain", "initial")
    for path in (file, file.with_name("counts.parquet"), tmp_path / "b/tables/runs.json"):
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        line = rf"{re.escape(str(path))}: changed since the job that made it; make it again: rm "
        with pytest.raises(InputError, match=line):
            compare(old, new)
        path.write_bytes(before)
    compare(old, new)
    for name in ("sidecar.json", "counts.parquet"):
        file.with_name(name).rename(tmp_path / "kept")
        with pytest.raises(InputError, match=rf"{name}: no such file; run snakemake first"):
            compare(old, new)
        (tmp_path / "kept").rename(file.with_name(name))


def git(*arguments):
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *name, *arguments], check=True, capture_output=True)


def test_git_revisions(tmp_path, monkeypatch, capsys):
    """The first in DVC's cache alone, the second in Git, and no checkout of either."""

    def compared(*revisions):
        status = main(list(revisions))
        return status, *capsys.readouterr()

    made = plan(tmp_path / "results/demo", ladder()[:2])
    assert made.scores, "planned where the vocabulary is"
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    write_results(made)
    write_tables(made)
    sign_tables(made)
    Path("results.dvc").write_text("outs:\n- path: results/demo\n")
    Path(".gitignore").write_text("/results/demo\n")
    with Repo.init() as repo:
        repo.commit("results.dvc", force=True)
    git("add", "-A")
    git("commit", "-q", "-m", "by DVC")
    shutil.rmtree("results")
    write_results(made, 0.2)
    write_tables(made)
    sign_tables(made)
    git("rm", "-q", "results.dvc", ".gitignore")
    git("add", "-A")
    git("commit", "-q", "-m", "by Git")
    status, text, error = compared("HEAD~1", "HEAD")
    assert (status, error) == (0, "")
    assert "# B - A: what results/demo at HEAD changes against results/demo at HEAD~1" in text
    assert "| plain | initial | " in text
    assert compared("HEAD~1", "results/demo")[1].splitlines()[2:] == text.splitlines()[2:]
    status, _, error = compared("HEAD", "no-such-branch")
    assert (status, error) == (1, "error: no-such-branch: neither a folder nor a git revision\n")
    shutil.rmtree(".dvc/cache")
    status, _, error = compared("HEAD~1", "HEAD")
    assert status == 1
    assert error.startswith("error: results/demo at HEAD~1: there is no tables/runs.json")
