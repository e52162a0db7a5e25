"""The whole DAG on a cut-down demo, and what a second run computes."""

import json

import pandas as pd
import pytest
from conftest import RUNS, Project, hashes

from clip_wsss.core.archives import Archives

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
    measured = table[table["kind"] == "measured"]
    assert list(measured["run"]) == ["plain", "full", "fixed", "truth"]
    full = measured.set_index("run")["segmentation_of_full"]
    assert full["truth"] == 100
    assert full["full"] > 0
    for path in results.glob("score/**/score.json"):
        for name in ("counts.parquet", "provenance.json", "sidecar.json"):
            assert path.with_name(name).is_file()
    assert (results / "report.html").stat().st_size < 4_000_000
    index = pd.read_csv(results / "tables/index.csv").set_index(["run", "stage"])["folder"]
    for folder in index:
        assert (results / folder / "settings.yaml").is_file()
    masks = Archives(sorted((results / index["full", "masks"]).glob("*.zip")))
    assert len(masks) == 8
    assert all(archive.confidence(name).max() <= 1 for name, archive in masks.items())


def test_who_shares_the_run_shares_a_worker(request):
    """With pytest 9.2, pytest-xdist 3.8.0 makes the small demo on each worker, and says nothing."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("needs -n and --dist loadgroup, as in make test")
    assert request.node.nodeid.endswith("@small")


def test_a_second_run_has_nothing_to_do(small):
    assert small.snakemake("-n").nothing_to_do


def test_another_split_costs_what_reads_it(edited):
    edited.config["dataset"]["splits"]["test"] = "val"
    assert edited.snakemake("-n").jobs == {"tables": 1, "report": 1}


def test_a_changed_list_of_templates_costs_what_chooses_from_it(edited):
    listed = edited.folder / "config/templates/imagenet20.txt"
    text = listed.read_text(encoding="utf-8")
    listed.write_text(f"{text}a sketch of a {{}}.\n", encoding="utf-8")
    try:
        jobs = edited.snakemake("-n").jobs
    finally:
        listed.write_text(text, encoding="utf-8")
    assert jobs["texts"] == 1
    assert jobs["maps"] == 1, "the other texts name their template"
    assert not set(jobs) & {"demo_data", "features"}


def test_a_truncated_image_stops_the_job_with_one_line(project):
    project.cut_down()
    project.write_runs("name\ttexts\tcam\nbare\tphoto\tsoftmax\n")
    assert project.snakemake("--", "data/demo/ImageSets/Segmentation/train.txt").code == 0
    image = sorted((project.folder / "data/demo/JPEGImages").glob("*.jpg"))[0]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    result = project.snakemake()
    assert result.code != 0
    lines = [line for line in result.text.splitlines() if line.startswith("error: ")]
    assert lines
    assert all(image.name in line and "(log: results/demo/logs/" in line for line in lines)
    told = [line for line in result.text.splitlines() if image.name in line]
    assert told == lines, "once for each job"


@pytest.mark.long
def test_one_core_gives_the_same_bytes_as_two(small, tmp_path):
    other = Project(tmp_path / "project")
    other.cut_down()
    result = other.snakemake(cores=1)
    assert result.code == 0, result.text
    assert hashes(other.folder / "data") == hashes(small.folder / "data")
    mine, theirs = hashes(small.folder / RESULTS), hashes(other.folder / RESULTS)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
