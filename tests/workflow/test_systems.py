"""Every system of the README's table on the cut-down demo, by the config of `make systems`."""

import pandas as pd
import pytest
import yaml

pytestmark = [pytest.mark.workflow, pytest.mark.e2e, pytest.mark.long]


def test_every_system_has_its_figures(project):
    tables = yaml.safe_load((project.folder / "config/systems.yaml").read_text("utf-8"))["runs"]
    zeroshot = yaml.safe_load((project.folder / "config/zeroshot.yaml").read_text("utf-8"))
    project.config["segmentation"] |= zeroshot["segmentation"]
    project.config["dataset"]["unseen"] = zeroshot["dataset"]["unseen"]
    project.cut_down()
    project.config["runs"] = tables
    project.config["segmentation"]["weclip"]["online"]["dynamic_start"] = 2
    project.config["segmentation"]["ssr"]["online"] |= {"every": 2, "projected_start": 2}
    result = project.snakemake()
    assert result.code == 0, result.text
    results = project.folder / "results/demo"
    runs = pd.read_table(project.folder / "config/runs/systems.tsv").set_index("name")
    table = pd.read_csv(results / "tables/systems.csv").set_index("run")
    assert set(runs.index) <= set(table.index)
    for column, stage in (
        ("cam", "initial"),
        ("affinity", "refined"),
        ("inference", "segmentation"),
    ):
        with_it = runs.index[runs[column] != "-"]
        assert table.loc[with_it, stage].between(0, 100).all(), stage
    trained = runs.index[runs["inference"] != "-"]
    assert table.loc[trained, "segmentation_harmonic"].between(0, 100).all()
    assert table.loc[["weclip", "ssr"], "labels"].between(0, 100).all()
    assert project.snakemake("-n").nothing_to_do
