"""Rows whose labels are made online, on the cut-down demo from the data to the report."""

import pandas as pd
import pytest
from conftest import hashes

pytestmark = [pytest.mark.workflow, pytest.mark.e2e, pytest.mark.long]

RESULTS = "results/demo"
ROWS = """\
name\tbase\ttexts\tcam\taffinity\tmasks\tsegmentation\tinference
weclip\t-\tclip-es\tclip-es\tclip-es\tweclip\tweclip\tweclip
ranked\tweclip\tsharpest\tclip-es\tcorrected\tweclip\tweclip-corrected\tweclip
"""
RETRAINED = {
    **{"segmentation": 1, "inference": 1, "score_predictions": 1},
    **{"labels": 1, "score_labels": 1},
}
LAST = {"tables": 1, "report": 1}


def test_rows_with_labels_made_online(project):
    project.cut_down()
    project.write_runs(ROWS)
    for name in ("weclip", "weclip-corrected"):
        project.config["segmentation"][name]["online"]["dynamic_start"] = 2
    result = project.snakemake()
    assert result.code == 0, result.text
    results = project.folder / RESULTS
    table = pd.read_csv(results / "tables/test.csv").set_index("run")
    for stage in ("initial", "refined", "mask", "labels", "segmentation"):
        assert (table.loc[["weclip", "ranked"], stage] > 0).all(), stage
    assert "weclip" in (results / "report.html").read_text("utf-8")
    assert project.snakemake("-n").nothing_to_do

    # The same training refined: predicted, labelled and scored again, and nothing trained.
    project.write_runs(ROWS + ROWS.splitlines()[1].replace("weclip", "crf", 1) + "-crf\n")
    jobs = {key: one for key, one in project.snakemake("-n").jobs.items() if key not in LAST}
    assert jobs == {key: one for key, one in RETRAINED.items() if key != "segmentation"}
    project.write_runs(ROWS)

    # What the masks come out like is nothing to the training, how labels are made is.
    index = pd.read_csv(results / "tables/index.csv").set_index(["run", "stage"])["folder"]
    before = hashes(results)
    for archive in (results / index["weclip", "masks"]).glob("*.zip"):
        archive.unlink()
    jobs = project.snakemake("-n").jobs
    assert jobs["masks"] == 1
    assert "segmentation" not in jobs
    assert project.snakemake().code == 0
    assert hashes(results) == before
    project.config["segmentation"]["weclip"]["online"]["filter"] = "absolute"
    assert project.snakemake("-n").jobs == RETRAINED | LAST
    project.config["affinity"]["clip-es"]["power"] = 3
    jobs = project.snakemake("-n").jobs
    assert (jobs["maps"], jobs["masks"], jobs["segmentation"]) == (1, 1, 1)

    # A training that lost its files ends with the same bytes.
    project.config["segmentation"]["weclip"]["online"]["filter"] = "signed"
    project.config["affinity"]["clip-es"].pop("power")
    (results / index["ranked", "segmentation"] / "seed0/checkpoint.pth").unlink()
    assert project.snakemake().code == 0
    assert hashes(results) == before
