"""What a change computes again: on finished results, from the plan or from a real run."""

import ast
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import RUNS

pytestmark = [pytest.mark.workflow, pytest.mark.e2e, pytest.mark.xdist_group("small")]

PACKAGE = "src/clip_wsss"
LAST = {"tables": 1, "report": 1}


@pytest.fixture
def edited(small):
    """The small project; its files, config and runs table are put back after the test."""
    config = ast.literal_eval(repr(small.config))
    code = {path: path.read_bytes() for path in (small.folder / PACKAGE).glob("**/*.py")}
    yield small
    small.config = config
    for path, data in code.items():
        if path.read_bytes() != data:
            path.write_bytes(data)
    small.write_runs(RUNS)


def edit(project, module, old, new):
    path = project.folder / PACKAGE / f"{module}.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{module}: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


# ---- nothing -------------------------------------------------------------------------------


def comment(project):
    for path in (project.folder / PACKAGE).glob("**/*.py"):
        path.write_text(path.read_text("utf-8") + "\n# a comment\n", encoding="utf-8")
    for path in (project.folder / "workflow/scripts").glob("*.py"):
        path.write_text(path.read_text("utf-8") + "\n# a comment\n", encoding="utf-8")


def docstring(project):
    edit(project, "affinities/box_rule", '"""Union of the `boxes`', '"""All of the `boxes`')


def formatted(project):
    edit(
        project,
        "affinities/box_rule",
        "mask[y0:y1, x0:x1] = 1",
        "mask[\n            y0:y1, x0:x1\n        ] = 1",
    )


def touched(project):
    for folder in ("src", "workflow", "config", "profiles"):
        for path in (project.folder / folder).rglob("*"):
            os.utime(path)
    os.utime(project.folder / "Snakefile")


def device(project):
    project.config["compute"].update(device="auto")


def workers(project):
    project.config["compute"].update(workers=5, predictors=2)


def remarks(project):
    """Comments in a segmentor, a vocabulary and a runs table."""
    for name in ("segmentors/frozen-clip.yaml", "vocabularies/voc12.yaml"):
        path = project.folder / "config" / name
        path.write_text(path.read_text("utf-8") + "\n# a comment\n", encoding="utf-8")
    project.write_runs("# a comment\n" + RUNS)


# FAULTS 24 and 25
@pytest.mark.parametrize(
    "change", [comment, docstring, formatted, touched, device, workers, remarks]
)
def test_nothing(edited, change):
    scripts = {p: p.read_bytes() for p in (edited.folder / "workflow/scripts").glob("*.py")}
    try:
        change(edited)
        result = edited.snakemake("-n")
        assert result.nothing_to_do, result.text
    finally:
        for path, data in scripts.items():
            path.write_bytes(data)


# ---- a plan says it ------------------------------------------------------------------------


def renamed(project):
    for group in ("texts", "cam", "affinity", "masks", "segmentation", "inference"):
        entries = project.config[group]
        project.config[group] = {f"x-{name}": entries[name] for name in reversed(entries)}
    head, *rows = RUNS.splitlines()
    cells = [row.split("\t") for row in reversed(rows)]
    rows = [
        [c if i in (0, 1, 8, 9) or c == "-" else f"x-{c}" for i, c in enumerate(row)]
        for row in cells
    ]
    project.write_runs("\n".join(["\t".join(row) for row in ([head.split("\t"), *rows])]) + "\n")


def spelled(project):
    project.config["affinity"]["caa"] = {"threshold": 0.4, "layers": 3}
    project.config["texts"]["photo"]["template"] = 1
    project.write_runs(RUNS.replace("\tcrf\tcgl\t", "\tcrf,background_power=1.0\tcgl,mu=0.95\t"))


def scoring(project):
    project.config["masks"]["crf"]["scoring"] = "oracle"


def new_row(project):
    project.write_runs(RUNS + "new\tfull\tphoto\tsoftmax\tcaa\t-\t-\t-\t0\t\n")


def removed_row(project):
    project.write_runs("".join(line for line in RUNS.splitlines(True) if "fixed" not in line))


@pytest.mark.parametrize("change", [renamed, spelled, scoring, new_row, removed_row])
def test_tables_and_report_only(edited, change):
    change(edited)
    result = edited.snakemake("-n")
    assert result.jobs == LAST, result.text


def flipped(project):
    project.config["inference"]["default"]["flip"] = True


def power(project):
    project.write_runs(RUNS.replace("softmax\tcaa\tcrf\t-", "softmax\tcaa,power=3\tcrf\t-"))


def weight(project):
    project.config["masks"]["crf"]["crf"]["bilateral_compat"] = 5


def mu(project):
    project.config["segmentation"]["cgl"]["mu"] = 0.8


def batch(project):
    """It changes the last bits of maps and of no texts (FAULTS 25)."""
    project.config["compute"]["batch"] = 1


TRAINED = {"segmentation": 1, "inference": 1, "score_predictions": 1}


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        (flipped, {"inference": 1, "score_predictions": 1}),
        # One pass for the row whose affinity changed, its masks and scores.
        (power, {"maps": 1, "masks": 1, "score": 1}),
        (weight, {"masks": 2, "score": 1, **TRAINED}),
        (mu, TRAINED),
        (batch, {"maps": 1, "masks": 2, "score": 1, **TRAINED}),
    ],
)
def test_what_follows_the_change(edited, change, jobs):
    change(edited)
    result = edited.snakemake("-n")
    assert result.jobs == {**jobs, **LAST}, result.text


def test_a_check_that_runs_again_makes_nothing_else_again(edited):
    edit(edited, "data/check", "FEW = 30", "FEW = 31")
    assert edited.snakemake("-n").jobs == {"check": 1, **LAST}, "the report shows what it found"
    mu(edited)
    assert edited.snakemake("-n").jobs == {"check": 1, **TRAINED, **LAST}


def test_without_the_checks_report_what_is_current_stays(edited):
    report = edited.folder / "results/demo/data/check.json"
    log = edited.folder / "results/demo/logs/data-check.log"
    content, state = report.read_bytes(), report.stat()
    report.unlink()  # as when a check is killed
    try:
        assert edited.snakemake("-n").jobs == {"check": 1}
        assert edited.snakemake("-n").jobs == {"check": 1}, "and it is not forgotten"
        log.rename(log.with_suffix(".kept"))  # as in a clone that has results and no logs
        assert edited.snakemake("-n").nothing_to_do
        mu(edited)
        assert edited.snakemake("-n").jobs == {"check": 1, **TRAINED, **LAST}
    finally:
        report.write_bytes(content)
        os.utime(report, ns=(state.st_atime_ns, state.st_mtime_ns))
        if not log.exists():
            log.with_suffix(".kept").rename(log)


# ---- a real run says it --------------------------------------------------------------------


def times(project, pattern):
    found = sorted((project.folder / "results/demo").glob(pattern))
    assert found, pattern
    return {path: path.stat().st_mtime_ns for path in found}


def kept(project, pattern):
    """Whether the last jobs with these logs kept what was there."""
    found = sorted((project.folder / "results/demo/logs").glob(pattern))
    assert found, pattern
    return ["nothing was computed" in path.read_text("utf-8") for path in found]


def made(project, job):
    """How many of its outputs the last such job made; Snakemake touches the others too."""
    logs = (project.folder / "results/demo/logs").glob("*.log")
    own = [log for log in logs if re.fullmatch(rf"{job}(-\d+)?", log.stem)]
    text = max(own, key=lambda log: log.stat().st_mtime_ns).read_text("utf-8")
    return len(re.findall(r"INFO made ", text))


def costs(project):
    """What the jobs took of which something is in use."""
    table = pd.read_csv(project.folder / "results/demo/tables/cost.csv")
    timed = table[(table["jobs"] > 0) & (table["stage"] != "all")]
    return dict(zip(timed["folder"], timed["seconds"], strict=True))


def contents(project, *patterns):
    """What files hold; the provenance of a measurement says when it was made."""
    root = project.folder / "results/demo"
    found = [path for pattern in patterns for path in root.glob(pattern)]
    return {path: path.read_bytes() for path in found if path.is_file()}


def test_a_new_variant_costs_one_pass_and_nothing_of_the_others(edited):
    edited.write_runs(RUNS + "new\tfull\tphoto\tsoftmax\tcaa,power=3\t-\t-\t-\t0\t\n")
    before = {**times(edited, "cam/*/*.npz"), **times(edited, "masks/*/*.zip")}
    measured = contents(edited, "score/**/*")
    result = edited.snakemake()
    assert result.executed == {"maps": 1, "score": 1, **LAST}, result.text
    assert made(edited, "score") == 1
    now = contents(edited, "score/**/*")
    assert {path: now[path] for path in measured} == measured
    after = {**times(edited, "cam/*/*.npz"), **times(edited, "masks/*/*.zip")}
    assert {path: after[path] for path in before} == before
    assert edited.snakemake("-n").nothing_to_do
    edited.write_runs(RUNS)
    assert edited.snakemake().executed == LAST, "a removed variant costs no pass"
    assert edited.snakemake("-n").nothing_to_do


def test_a_new_training_costs_no_prediction_of_the_others(edited):
    before = contents(edited, "inference/**/*", "score/segmentation/**/*", "texts/**/*")
    timed = costs(edited)
    edited.write_runs(RUNS.replace("all-pixels\tdefault\t0", "all-pixels\tdefault\t0 1"))
    result = edited.snakemake()
    assert result.executed == {**TRAINED, **LAST}, result.text
    assert made(edited, "inference-1") == made(edited, "score_predictions") == 1
    after = costs(edited)  # FAULTS 15: what the others took is still known
    assert {**after, **timed} == after
    new = {re.sub(r"-\d+$", "", name) for name in after.keys() - timed.keys() if "/" not in name}
    assert new == {"inference-1", "score_predictions"}
    after = contents(edited, "inference/**/*", "score/segmentation/**/*", "texts/**/*")
    assert {path: after[path] for path in before} == before
    assert edited.snakemake("-n").nothing_to_do
    edited.write_runs(RUNS)
    assert edited.snakemake().executed == LAST
    assert edited.snakemake("-n").nothing_to_do


def test_changed_code_of_scoring_measures_all_again(edited):
    edit(edited, "score/metrics", "tuple(sorted({", "list(sorted({")
    result = edited.snakemake("-n")
    assert result.jobs == {"score": 1, "score_predictions": 1, **LAST}, result.text


def test_a_measurement_that_is_gone_is_made_again_alone(edited):
    before = contents(edited, "score/**/*")
    gone = next((edited.folder / "results/demo/score/mask").glob("crf*/counts.parquet"))
    gone.unlink()
    result = edited.snakemake(gone.relative_to(edited.folder).as_posix())
    assert result.executed == {"score": 1}, result.text
    assert made(edited, "score") == 1
    after = contents(edited, "score/**/*")
    changed = [path for path in before if after[path] != before[path]]
    assert changed == [gone.with_name("provenance.json")]
    assert edited.snakemake().code == 0


@pytest.mark.long
def test_changed_code_of_a_mask_refinement(edited):
    """Masks are made again; a training whose masks came out the same keeps its checkpoint."""
    maps = times(edited, "affinity/*/*.npz")
    edit(edited, "masks/refinements/crf", "104.008, 116.669, 122.675", "104.008, 116.669, 122.676")
    result = edited.snakemake()
    assert result.code == 0, result.text
    assert result.executed["masks"] == 2, "the ground truth's need no mask refinement"
    assert result.executed["segmentation"] == 1
    assert not result.executed.keys() & {"maps", "texts"}
    assert kept(edited, "segmentation/*/seed0.log").count(True) == 1
    assert kept(edited, "masks/*/*.log") == [False] * 3
    assert times(edited, "affinity/*/*.npz") == maps
    assert edited.snakemake("-n").nothing_to_do
    edit(edited, "masks/refinements/crf", "104.008, 116.669, 122.676", "104.008, 116.669, 122.675")
    assert edited.snakemake().code == 0
    assert kept(edited, "segmentation/*/seed0.log").count(True) == 1


def test_changed_code_of_the_maps_costs_one_pass_for_all(edited):
    """Also where Snakemake has no record of what made the files: the sidecars know."""
    metadata = edited.folder / ".snakemake/metadata"
    aside = edited.folder / "metadata"
    edit(
        edited,
        "cams/backward",
        "cams.append(finite(torch.stack(own, dim=1)).relu())",
        "cams.append(finite(torch.stack(own, dim=1)).relu() + 0)",
    )
    for known in (True, False):
        if not known:
            shutil.move(metadata, aside)
        try:
            result = edited.snakemake("-n")
        finally:
            if not known:
                shutil.rmtree(metadata, ignore_errors=True)
                shutil.move(aside, metadata)
        assert result.jobs["maps"] == 1, "one job for all passes"
        assert result.jobs["masks"] == 2


# ---- files that were tampered with ---------------------------------------------------------


@pytest.mark.long
def test_an_archive_that_was_changed_by_hand_is_refused_with_what_makes_it_again(edited):
    path = next((edited.folder / "results/demo/masks").glob("crf*/*.zip"))
    whole, state = path.read_bytes(), path.stat()
    path.write_bytes(whole[:-1] + b"x")
    try:
        result = edited.snakemake()
        assert result.code != 0
        lines = [line for line in result.text.splitlines() if line.startswith("error: ")]
        assert lines
        assert all(path.name in line for line in lines)
        for remedy in {
            re.search(r"make it again: (rm .*), and then run", line)[1] for line in lines
        }:
            subprocess.run(remedy, shell=True, check=True, cwd=edited.folder)
        assert edited.snakemake().code == 0
        assert path.read_bytes() == whole
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert edited.snakemake().code == 0


@pytest.mark.long
def test_a_deleted_archive_is_made_again(edited):
    path = next((edited.folder / "results/demo/masks").glob("crf*/*.zip"))
    whole = path.read_bytes()
    path.unlink()
    result = edited.snakemake()
    assert result.code == 0, result.text
    assert path.read_bytes() == whole


@pytest.mark.long
def test_every_file_is_declared(edited, tmp_path):
    """Snakemake can delete all that its jobs have made."""
    copy = tmp_path / "copy"
    shutil.copytree(edited.folder, copy)
    here = edited.folder
    try:
        edited.folder = copy
        clean = [sys.executable, "-m", "clip_wsss", "clean", "--yes", "--configfile", "test.yaml"]
        edited.write_config()
        subprocess.run(clean, cwd=copy, check=True)
        assert edited.snakemake("--delete-all-output").code == 0
    finally:
        edited.folder = here
    left = [path for path in (copy / "results").rglob("*") if path.is_file()]
    left += [path for path in (copy / "data").rglob("*") if path.is_file()]
    left = [path.relative_to(copy).as_posix() for path in left]
    assert [name for name in left if not re.search(r"/(logs|benchmarks)/", name)] == []


def test_results_of_an_earlier_version_are_refused_in_one_line(project):
    (project.folder / "results/demo/cams").mkdir(parents=True)
    result = project.snakemake("-n")
    assert result.code != 0
    assert "results of an earlier version" in result.text
    assert "Traceback" not in result.text
