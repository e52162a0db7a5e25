"""The whole DAG on a cut-down demo, and what a second run computes."""

import hashlib
import json

import pandas as pd
import pytest
from conftest import RUNS, Project

pytestmark = [pytest.mark.workflow, pytest.mark.e2e, pytest.mark.xdist_group("small")]

RESULTS = "results/demo"


@pytest.fixture
def edited(small):
    """The small project; its config and runs table are put back after the test."""
    config = json.dumps(small.config)
    yield small
    small.config = json.loads(config)
    small.write_runs(RUNS)


def test_everything_is_there(small):
    results = small.folder / RESULTS
    table = pd.read_csv(results / "tables/test.csv")
    assert list(table["run"][table["kind"] == "measured"]) == ["plain", "full"]
    metrics = sorted(path.name for path in results.glob("metrics/**/*.json"))
    assert "segmentation.json" in metrics
    for path in results.glob("metrics/**/*.json"):
        if not path.name.endswith("provenance.json"):
            assert path.with_suffix(".provenance.json").is_file()
    assert (results / "report.html").stat().st_size < 4_000_000
    masks = results / "masks/sharpest/softmax/caa-crf"
    assert len(list(masks.glob("labels/*.png"))) == 8
    assert len(list(masks.glob("confidence/*.png"))) == 8


def test_a_second_run_has_nothing_to_do(small):
    assert small.snakemake("-n").nothing_to_do


def test_a_changed_mu_costs_the_training_only(edited):
    edited.config["segmentation"]["cgl"]["mu"] = 0.8
    jobs = edited.snakemake("-n").jobs
    again = {"train", "predict", "evaluate_segmentation", "tables", "report", "all"}
    assert set(jobs) == again


def test_a_changed_crf_weight_costs_neither_cams_nor_prompts(edited):
    edited.config["masks"]["caa-crf"]["crf"]["bilateral_compat"] = 5
    jobs = edited.snakemake("-n").jobs
    assert "masks" in jobs
    assert not set(jobs) & {"demo_data", "image_features", "texts", "cams", "evaluate_maps"}


def test_another_split_costs_what_reads_it(edited):
    edited.config["dataset"]["splits"]["test"] = "val"
    jobs = edited.snakemake("-n").jobs
    assert not set(jobs) & {"image_features", "texts", "cams", "masks", "train", "predict"}


def test_a_changed_list_of_templates_costs_what_chooses_from_it(edited):
    listed = edited.folder / "config/templates/imagenet20.txt"
    text = listed.read_text(encoding="utf-8")
    listed.write_text(f"{text}a sketch of a {{}}.\n", encoding="utf-8")
    try:
        jobs = edited.snakemake("-n").jobs
    finally:
        listed.write_text(text, encoding="utf-8")
    assert jobs["texts"] == 1, "the other texts name their template"
    assert not set(jobs) & {"demo_data", "image_features"}


def test_a_new_row_computes_what_is_new(edited):
    row = "mine\tfull\tsharpest\tsoftmax\tcaa-crf,crf.iterations=5\t-\t0\t\n"
    edited.write_runs(RUNS + row)
    jobs = edited.snakemake("-n").jobs
    assert jobs == {"masks": 1, "evaluate_masks": 1, "tables": 1, "report": 1, "all": 1}


def test_a_truncated_image_stops_the_job_with_one_line(edited):
    image = sorted((edited.folder / "data/demo/JPEGImages").glob("*.jpg"))[0]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    try:
        edited.write_runs(RUNS + "mine\t-\tphoto\tsoftmax\tinitial\t-\t0\t\n")
        result = edited.snakemake()
        assert result.code != 0
        lines = [line for line in result.text.splitlines() if line.startswith("error: ")]
        assert lines
        assert all(image.name in line for line in lines)
    finally:
        image.write_bytes(whole)


def _hashes(folder):
    """File -> digest, without what differs by design: times, provenance, the report."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        aside = name.startswith(("logs/", "costs/")) or name.endswith(".provenance.json")
        aside = aside or name == "report.html" or "work" in name.split("/") or "cost" in path.name
        if path.is_file() and not aside:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_one_core_gives_the_same_bytes_as_two(small, tmp_path):
    other = Project(tmp_path / "project")
    other.cut_down()
    result = other.snakemake(cores=1)
    assert result.code == 0, result.text
    assert _hashes(other.folder / "data") == _hashes(small.folder / "data")
    mine, theirs = _hashes(small.folder / RESULTS), _hashes(other.folder / RESULTS)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
