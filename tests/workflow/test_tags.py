"""A data set without image-level labels, from its images to the tables."""

import csv
import json

import pytest

pytestmark = pytest.mark.workflow

# SEPL as the demo has it: the vote of superpixels, without a folder of regions.
RUNS = "name\ttexts\tcam\taffinity\tmasks\nvoted\tphoto\tsoftmax\tcaa\tsepl\n"


@pytest.fixture
def own(project):
    """The settings of TagCLIP in the config of the cut-down demo, which it gives its labels."""
    project.cut_down()
    project.config["compute"].update(shards=2)
    project.write_runs(RUNS)
    own = {"model": "demo", "texts": "clip-es", "votes": 2}
    project.config["dataset"].update(labels="tagclip", tagclip=own)
    return own


def test_the_plan_predicts_labels_and_scores_them(project, own):
    jobs = project.snakemake("-n").jobs
    assert jobs["tags"] == 2  # one a shard
    assert jobs["join_tags"] == jobs["score_tags"] == 1
    assert {"maps", "masks", "score", "tables", "report"} <= set(jobs)


@pytest.mark.long
def test_labels_are_predicted_before_they_are_read(project, own):
    result = project.snakemake()
    assert result.code == 0, result.text
    assert result.executed["tags"] == 2  # one a shard
    assert result.executed["join_tags"] == result.executed["score_tags"] == 1
    results = project.folder / "results/demo"
    (labels,) = results.glob("tags/*/labels.csv")
    assert len(list(csv.reader(labels.open()))) == 1 + 8
    (masks,) = results.glob("score/mask/sepl*/score.json")
    assert 0 < json.loads(masks.read_text())["miou"] <= 1
    (score,) = results.glob("score/tags/*/score.json")
    assert 0 < json.loads(score.read_text())["f1"] <= 1
    for name in ("tables/test.md", "report.html"):
        assert "image-level labels are predicted (tagclip" in (results / name).read_text("utf-8")
    assert project.snakemake("-n").nothing_to_do
    own["truth"] = "xml"  # another score of the same labels
    result = project.snakemake("-n")
    assert "score_tags" in result.jobs
    assert not {"tags", "join_tags", "maps"} & set(result.jobs)
    own["threshold"] = 0.9
    assert {"tags", "join_tags", "maps"} <= set(project.snakemake("-n").jobs)
