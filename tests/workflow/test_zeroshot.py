"""Rows with held-out classes and text heads, on the cut-down demo from the data to the report."""

import pandas as pd
import pytest
import yaml

pytestmark = [pytest.mark.workflow, pytest.mark.e2e, pytest.mark.long]

ROWS = """\
name\tbase\ttexts\tcam\taffinity\tmasks\tsegmentation\tinference
teacher\t-\tphoto\t-\t-\tground-truth\tteacher\tdefault
weak\tteacher\tsharpest\tsoftmax\t-\targmax\tteacher-weak\tdefault
"""
LAST = {"tables": 1, "report": 1}
TRAINED = {"segmentation": 1, "inference": 1, "score_predictions": 1}


def test_rows_with_held_out_classes(project):
    own = yaml.safe_load((project.folder / "config/zeroshot.yaml").read_text("utf-8"))
    names = ("teacher", "teacher-weak")
    project.config["segmentation"] |= {name: own["segmentation"][name] for name in names}
    project.config["dataset"]["unseen"] = own["dataset"]["unseen"]
    project.cut_down()
    project.write_runs(ROWS)
    result = project.snakemake()
    assert result.code == 0, result.text
    results = project.folder / "results/demo"
    table = pd.read_csv(results / "tables/test.csv").set_index("run").loc[["teacher", "weak"]]
    for part in ("seen", "unseen", "harmonic"):
        assert table[f"segmentation_{part}"].between(0, 100).all()
        assert f"difference_{part}" in table
    assert "harmonic" in (results / "report.html").read_text("utf-8")
    assert project.snakemake("-n").nothing_to_do

    # What the background counts as is no setting of a training; what is unseen is one of `teacher`.
    project.config["evaluation"]["unseen_background"] = "ignored"
    assert project.snakemake("-n").jobs == LAST
    project.config["evaluation"].pop("unseen_background")
    project.config["dataset"]["unseen"] = ["cat", "dog"]
    assert project.snakemake("-n").jobs == TRAINED | LAST
