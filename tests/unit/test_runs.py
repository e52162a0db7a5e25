"""Runs tables: cells, sweeps, which stages a run has, and what is refused."""

from pathlib import Path

import pytest
import yaml

from clip_wsss import runs
from clip_wsss.config import read_yaml
from clip_wsss.errors import InputError

ROOT = Path(__file__).parents[2]
HEADER = "name\tbase\ttexts\tcam\tmasks\tsegmentation\tseed\tnote\n"
ROW = "one\t-\tphoto\tsoftmax\tcaa-crf\tcgl\t0\t\n"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def schema():
    return read_yaml("workflow/schemas/config.schema.yaml")


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def read(tmp_path, config, schema):
    def read(text):
        path = tmp_path / "table.tsv"
        path.write_text(text, encoding="utf-8")
        config["runs"]["tables"] = [str(path)]
        return runs.read_runs(config, schema)

    return read


def test_a_cell_is_an_entry_with_changes(config):
    plain = config["segmentation"]["cgl"]
    assert runs.resolve(config, "segmentation", "cgl") == plain
    changed = runs.resolve(config, "segmentation", "cgl,mu=0.8,test.flip=true")
    assert changed == {**plain, "mu": 0.8, "test": {**plain["test"], "flip": True}}
    assert plain["mu"] == 0.95, "the entry itself stays as it is"


@pytest.mark.parametrize("table", sorted((ROOT / "config/runs").glob("*.tsv")), ids=str)
def test_shipped_tables_fit_a_shipped_config(table, schema):
    configs = [yaml.safe_load(p.read_text("utf-8")) for p in (ROOT / "config").glob("*.yaml")]
    users = [
        c for c in configs if str(table.relative_to(ROOT)) in c.get("runs", {}).get("tables", [])
    ]
    for config in users or [yaml.safe_load((ROOT / "config/config.yaml").read_text("utf-8"))]:
        config["runs"]["tables"] = [str(table)]
        assert runs.read_runs(config, schema)


def test_the_stages_of_a_run(config, read):
    (run,) = read(HEADER + ROW.replace("\t0\t", "\t0 3\t"))
    assert run.seeds == (0, 3)
    assert runs.metric_files(config, run) == {
        "initial": ["metrics/photo/softmax/initial,power=1.json"],
        "refined": ["metrics/photo/softmax/refined,power=1.json"],
        "mask": ["metrics/photo/softmax/caa-crf/mask.json"],
        "segmentation": [
            f"metrics/photo/softmax/caa-crf/cgl/seed{seed}/segmentation.json" for seed in (0, 3)
        ],
    }


def test_without_ground_truth_nothing_is_scored_and_masks_are_exported(config, read):
    (run,) = read(HEADER + "one\t-\tphoto\tsoftmax\tinitial\t-\t0\t\n")
    assert not runs.exports_masks(config, run)
    config["dataset"]["masks"] = None
    assert runs.exports_masks(config, run)
    assert runs.metric_files(config, run) == {}


def test_a_sweep_is_the_product_of_its_values(config, read):
    sweep = {"base": "one", "segmentation.mu": [0.5, 0.9], "cam": ["softmax", "plain"]}
    config["runs"]["sweeps"] = [{**sweep, "seed": [0, 1]}]
    _, *swept = read(HEADER + ROW)
    assert [run.name for run in swept] == [
        "one,mu=0.5,cam=softmax",
        "one,mu=0.5,cam=plain",
        "one,mu=0.9,cam=softmax",
        "one,mu=0.9,cam=plain",
    ]
    assert {run.segmentation for run in swept} == {"cgl,mu=0.5", "cgl,mu=0.9"}
    assert {run.base for run in swept} == {"one"}
    assert {run.seeds for run in swept} == {(0, 1)}


def test_a_sweep_changes_the_cells_that_it_swaps_in(config, read):
    sweep = {"base": "one", "segmentation.iterations": [7], "segmentation": ["cgl", "all-pixels"]}
    config["runs"]["sweeps"] = [sweep]
    _, *swept = read(HEADER + ROW)
    assert {run.name: run.segmentation for run in swept} == {
        "one,iterations=7,segmentation=cgl": "cgl,iterations=7",
        "one,iterations=7,segmentation=all-pixels": "all-pixels,iterations=7",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (HEADER + ROW + ROW, "two rows are called `one`"),
        (HEADER + ROW.replace("photo", "foto"), "unknown entry of `texts` `foto`; did you mean"),
        (HEADER + ROW.replace("softmax", "sofmax"), "unknown entry of `cam` `sofmax`"),
        (HEADER + ROW.replace("caa-crf", "crf!"), "masks: `crf!` is not `entry`"),
        (HEADER + ROW.replace("cgl", "cgl,muu=1"), "unknown key `muu`; did you mean `mu`?"),
        (HEADER + ROW.replace("cgl", "cgl,mu=2"), "mu: 2 is greater than the maximum of 1"),
        (HEADER + ROW.replace("softmax", "softmax,caa.layer=1"), "unknown key `caa.layer`"),
        (HEADER + ROW.replace("\t0\t", "\tx\t"), "seed: `x` should be one or more"),
        (HEADER + ROW.replace("\t0\t", "\t0 0\t"), "seed: `0 0` should be one or more"),
        (HEADER + ROW.replace("\t-\t", "\ttwo\t"), "base: unknown run `two`"),
        (HEADER + ROW.replace("softmax", "softmax,affinity=none"), "want the refined map"),
        (HEADER.replace("note", "nots") + ROW, "column `note` is missing"),
        (HEADER, "there is no run"),
    ],
)
def test_a_bad_table_gets_one_line(read, text, line):
    with pytest.raises(InputError) as error:
        read(text)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"precision": "amp"}, "precision: amp needs CUDA"),
        ({"init": "no.pth"}, "init: there is no file no.pth"),
        (
            {"segmentor": "config/segmentors/deeplabv2-r101-coco.yaml"},
            "starts from weights that the run must name",
        ),
    ],
)
def test_what_would_stop_a_training_late_stops_at_once(config, read, changes, line):
    config["segmentation"]["cgl"].update(changes)
    with pytest.raises(InputError, match=line):
        read(HEADER + ROW)


def test_a_missing_table_is_named(config, schema):
    config["runs"]["tables"] = ["no.tsv"]
    with pytest.raises(InputError, match=r"there is no file no\.tsv"):
        runs.read_runs(config, schema)


@pytest.mark.parametrize("name", runs.RESERVED)
def test_a_table_with_the_name_of_another_file_is_refused(config, schema, tmp_path, name):
    (tmp_path / f"{name}.tsv").write_text(HEADER + ROW, encoding="utf-8")
    config["runs"]["tables"] = [str(tmp_path / f"{name}.tsv")]
    with pytest.raises(InputError, match=rf"another table is called {name}\.csv; rename"):
        runs.read_runs(config, schema)


def test_a_sweep_over_a_stage_that_its_base_lacks(config, read):
    config["runs"]["sweeps"] = [{"base": "one", "segmentation.mu": [0.5]}]
    with pytest.raises(InputError, match="run `one` has no segmentation"):
        read(HEADER + ROW.replace("cgl", "-"))
