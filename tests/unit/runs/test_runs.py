"""Runs tables: cells, sweeps, which stages a run has, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from clip_wsss.core.errors import InputError
from clip_wsss.runs import table as runs
from clip_wsss.runs.config import load_config, read_config
from clip_wsss.runs.graph import Graph

ROOT = Path(__file__).parents[3]
HEADER = "name\tbase\ttexts\tcam\taffinity\tmasks\tsegmentation\tinference\tseed\tnote\n"
ROW = "one\t-\tphoto\tsoftmax\tcaa\tcrf\tcgl\tdefault\t0\t\n"


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def read(tmp_path, config):
    def read(text):
        path = tmp_path / "table.tsv"
        path.write_text(text, encoding="utf-8")
        config["runs"]["tables"] = [str(path)]
        return runs.read_runs(load_config(config))

    return read


def test_a_cell_is_an_entry_with_changes(config):
    config = load_config(config)
    plain = runs.resolve(config, "masks", "crf")
    assert plain == config.masks["crf"]
    changed = runs.resolve(config, "masks", "crf,background_power=2,crf.iterations=5")
    assert changed.background_power == 2
    assert changed.crf.iterations == 5
    assert changed.crf.bilateral_sxy == plain.crf.bilateral_sxy
    assert plain.crf.iterations == 10, "the entry itself stays as it is"


def test_a_change_may_move_the_default_of_another_field(config):
    assert "mu" not in config["segmentation"]["cgl"]
    config = load_config(config)
    assert runs.resolve(config, "segmentation", "cgl").threshold == 0.95
    assert runs.resolve(config, "segmentation", "cgl,loss=cross-entropy").threshold == 0


@pytest.mark.parametrize("table", sorted((ROOT / "config/runs").glob("*.tsv")), ids=str)
def test_shipped_tables_fit_a_shipped_config(table):
    found = [p for p in (ROOT / "config").glob("*.yaml") if "dataset:" in p.read_text("utf-8")]
    name = str(table.relative_to(ROOT))
    users = [p for p in found if name in read_config(p).runs.tables]
    of_voc = table.stem in ("towers", "towers-files")
    word = "voc12" if of_voc else table.stem.rpartition("-")[2]
    named = ROOT / f"config/{word}.yaml"  # weclip-voc12: of voc12.yaml
    for path in users or [named if named in found else ROOT / "config/config.yaml"]:
        config = read_config(path)
        tables = config.runs.model_copy(update={"tables": [str(table)]})
        assert runs.read_runs(config.model_copy(update={"runs": tables}))


def test_columns_that_a_table_does_not_need_may_be_left_out(read):
    (run,) = read("name\ttexts\tcam\nbare\tphoto\tsoftmax\n")
    assert run == runs.Run("bare", None, "photo", "softmax", table="table")
    (run,) = read("name\ttexts\tcam\tmasks\tsegmentation\na\tphoto\tsoftmax\targmax\tcgl\n")
    assert run.inference == "default", "a training without the column is predicted"
    (run,) = read(
        "name\ttexts\tcam\tmasks\tsegmentation\tinference\na\tphoto\tsoftmax\tcrf\tcgl\t-\n"
    )
    assert run.inference is None


def test_a_run_may_have_masks_of_another_source(read):
    (run,) = read("name\tmasks\tsegmentation\nfull\tground-truth\tall-pixels\n")
    assert (run.texts, run.cam, run.affinity) == (None, None, None)
    assert run.masks == "ground-truth"


def test_notes_and_comments(read):
    text = "# a comment\n" + HEADER + ROW.replace("\t0\t", '\t0\tissue #7, "quoted')
    (run,) = read(text)
    assert run.note == 'issue #7, "quoted'
    (run,) = read(text.rstrip() + " \u2028 \x0c more\n")
    assert run.note.endswith("more"), "no line break of a table"


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
        (HEADER + ROW.replace("\tcrf\t", "\tcrf!\t"), "masks: `crf!` must be"),
        (HEADER + ROW.replace("cgl", "cgl,muu=1"), "unknown key `muu`; did you mean `mu`?"),
        (HEADER + ROW.replace("cgl", "cgl,mu=2"), "mu: must be at most 1; got 2"),
        (
            HEADER + ROW.replace("\tcaa\t", "\tcaa,layer=1\t"),
            "unknown key `layer`; did you mean `layers`?",
        ),
        (HEADER + ROW.replace("\t0\t", "\tx\t"), "seed: must be one or more"),
        (HEADER + ROW.replace("\t0\t", "\t0 0\t"), "seed: must be one or more"),
        (HEADER + ROW.replace("\t0\t", "\t0 00\t"), "seed: must be one or more"),
        (HEADER + ROW.replace("\t0\t", "\t99999999999999999999\t"), "seed: must be one or more"),
        (HEADER + ROW.replace("\t-\t", "\ttwo\t"), "base: unknown run `two`"),
        (
            HEADER + ROW.replace("\t-\t", "\tone\t"),
            "base: one -> one is a circle; name another run, or write -",
        ),
        (HEADER + ROW.replace("\tphoto\t", "\t-\t"), "cam needs texts"),
        (HEADER + ROW.replace("\tsoftmax\t", "\t-\t"), "texts needs cam"),
        (HEADER + ROW.replace("photo\tsoftmax", "-\t-"), "affinity needs cam"),
        (HEADER + ROW.replace("photo\tsoftmax\tcaa", "-\t-\t-"), "are made from maps"),
        (HEADER + ROW.replace("\tcrf\t", "\tground-truth\t"), "need no maps"),
        (HEADER + ROW.replace("\tcrf\t", "\t-\t"), "segmentation needs masks"),
        (HEADER + ROW.replace("\tcgl\t", "\t-\t"), "inference needs segmentation"),
        (
            HEADER + ROW.replace("caa\tcrf\tcgl", "-\tweclip\tweclip"),
            "needs other cells of the row; name affinity",
        ),
        (
            HEADER + ROW.replace("caa\tcrf\tcgl", "caa,attention=qq\tweclip\tweclip"),
            "which does not take `attention` from affinity; leave it out of `caa,attention=qq`",
        ),
        (
            HEADER + ROW.replace("caa\tcrf\tcgl", "cda\tweclip\tweclip"),
            "which does not take `method` from affinity; leave it out of `cda`",
        ),
        (HEADER + ROW.replace("crf\tcgl", "crf\tweclip"), "must be one of none, par; got crf"),
        (
            HEADER
            + ROW.replace("softmax\tcaa\tcrf\tcgl", "softmax,flip=true\tcaa\tweclip\tweclip"),
            "leave scales and flip out of cam `softmax,flip=true`",
        ),
        (
            HEADER + ROW.replace("photo\tsoftmax\tcaa\tcrf\tcgl", "-\t-\t-\tground-truth\tweclip"),
            "other cells of the row; name texts, cam, affinity",
        ),
        (HEADER + ROW.replace("cgl", "weclip,mu=0.5"), "have no confidence; leave mu out"),
        (HEADER + ROW.replace("cgl", "weclip,labels=masks"), "online: is only for labels: online"),
        (HEADER + ROW.replace("cgl", "weclip,online.filter=l1"), "online.filter: must be one of"),
        (HEADER + "one" + "\t-" * 8 + "\n", "has no stage; name texts and cam, or masks"),
        (HEADER + "one  crf  photo  softmax  crf\n", "masks; its cells must be separated by tabs"),
        (HEADER + "one crf photo softmax - crf\n", "masks; its cells must be separated by tabs"),
        (HEADER + ROW.rstrip("\n") + "x\tmore\n", "line 2: has 11 cells, the head has 10"),
        (HEADER.replace("note", "nots") + ROW, "unknown column `nots`"),
        (HEADER.replace("name", "nam") + ROW, "column `name` is missing"),
        (HEADER.replace("note", "name") + ROW, "a column is given twice"),
        # FAULTS 22
        *(
            (HEADER + name + ROW.removeprefix("one"), "name: must be without / and")
            for name in (
                "..",
                ".",
                ".one",
                "one.",
                "a/b",
                "/one",
                "a\\b",
                "a\x01b",
                "a\x7fb",
                "a\u2028b",
            )
        ),
        (HEADER + "a\u202eb" + ROW.removeprefix("one"), "name: must be without / and"),
        (HEADER + "é" * 101 + ROW.removeprefix("one"), "name: is too long; use 200 bytes at most"),
        (HEADER + ROW + "ONE" + ROW.removeprefix("one"), "two rows are called `ONE`"),
        (
            HEADER + "caf\u00e9" + ROW.removeprefix("one") + "cafe\u0301" + ROW.removeprefix("one"),
            "two rows are called `cafe\u0301`; a name can be used once, whatever its case and how",
        ),
        (HEADER + "-" + ROW.removeprefix("one"), "a row is called -, which in `base` means none"),
        (
            HEADER + "NaN" + ROW.removeprefix("one"),
            "a row is called NaN, which readers of CSV files",
        ),
        (HEADER + "null" + ROW.removeprefix("one"), "a row is called null, which readers of CSV"),
        (HEADER, "there is no run"),
        ("", "the table is empty"),
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
        ({"init": "pyproject.toml"}, r"pyproject\.toml: not a checkpoint that can be read"),
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


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        (
            "cgl,labels=online",
            "labels: online needs a segmentor of type WeCLIP; config/",
        ),
        ("weclip,labels=masks", "labels: masks needs a segmentor of another type"),
        (
            "weclip,segmentor=config/segmentors/frozen-clip.yaml",
            "frozen-clip.yaml is of type EncoderDecoder; change one of the two",
        ),
        (
            "cgl,segmentor=config/segmentors/online/weclip-demo.yaml",
            "needs a segmentor of another type WeCLIP; config/segmentors/online/weclip-demo.yaml",
        ),
    ],
)
def test_a_segmentor_that_cannot_make_its_labels_is_refused(config, read, cell, line):
    config["segmentation"]["weclip"].pop("online")
    with pytest.raises(InputError) as error:
        read(HEADER + ROW.replace("\tcgl\t", f"\t{cell}\t"))
    assert line in str(error.value)
    assert f"row `one`: segmentation `{cell}`: labels: " in str(error.value)


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("caa,layers=010", "layers: `010`: YAML readers"),
        ("caa,layers=1_0", "layers: `1_0`: YAML readers"),
        ("caa,layers=0x2", "layers: `0x2`: YAML readers"),
        ("caa,layers=12:30", "layers: `12:30`: YAML readers"),
        ("caa,layers=1e1", "layers: must be an integer; got 10.0"),
        ("caa,layers=2.0", "layers: must be an integer; got 2.0"),
        ("caa,layers=true", "layers: must be an integer; got True"),
        ("caa,layers=yes", "layers: `yes`: YAML readers"),
        ("caa,layers=~", "layers: must be an integer; got None"),
        ("caa,layers=2001-01-01", "layers: `2001-01-01`: YAML readers"),
        ("caa,threshold=.nan", "threshold: must be a finite number; got nan"),
        ("caa,threshold=1e999", "threshold: must be a finite number; got inf"),
        ("caa,threshold=nan", "threshold: must be a number; got 'nan'"),
        ("caa,layers=99999999999999999999", "layers: must be less than 2**63 from zero"),
        ("caa,foo=null", "foo: null removes what a parent sets here, and no parent sets it"),
        ("caa,blocks=[-9]", "`...` must be `-`, `entry` or `entry,key=value,…`; a list n"),
        ("caa," + "layers=" + 200 * "9", "layers: must be an integer; got '999"),
    ],
)  # fmt: skip
def test_a_value_of_a_cell_is_read_in_one_way(read, cell, line):
    with pytest.raises(InputError) as error:
        read(HEADER + ROW.replace("\tcaa\t", f"\t{cell}\t"))
    assert line in str(error.value).replace(cell, "...")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ({"weights": "no.pt"}, "models.demo.weights: there is no file no.pt"),
        ({"weights": "pyproject"}, None),  # a tag, which the job `check` looks up
        ({"architecture": None, "weights": "openai"}, "demo.weights: there is no file openai"),
        ({"architecture": "no.json"}, "models.demo.architecture: there is no file no.json"),
        ({"architecture": "hf-hub:x/y"}, "architecture: hf-hub:x/y must be a name of open_clip"),
    ],
)
def test_a_tower_whose_file_is_missing_is_refused(config, read, model, line):
    config["models"]["demo"].update(model)
    config["runs"]["tables"] = ["config/runs/ladder.tsv"]
    loaded = load_config(config)
    if line is None:
        assert Graph(loaded, runs.read_runs(loaded)).used_models.keys() == {"demo"}
        return
    with pytest.raises(InputError, match=line):
        Graph(loaded, runs.read_runs(loaded))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ('{"embed_dim": 8, "vision_cfg": [], "text_cfg": {}}', "vision_cfg"),
        ('{"embed_dim": 8, "vision_cfg": [1], "text_cfg": {}}', "vision_cfg"),
        ('{"model_cfg": {"vision_cfg": {}, "text_cfg": "x"}}', "text_cfg"),
        ('{"model_cfg": [1]}', "vision_cfg"),
    ],
)
def test_the_parts_of_a_model_config_are_mappings(config, tmp_path, content, key):
    (tmp_path / "own.json").write_text(content)
    config["models"]["demo"]["architecture"] = str(tmp_path / "own.json")
    config["runs"]["tables"] = ["config/runs/ladder.tsv"]
    loaded = load_config(config)
    with pytest.raises(InputError, match=rf"own\.json: {key} must be a mapping"):
        Graph(loaded, runs.read_runs(loaded))


@pytest.mark.parametrize(
    ("width", "layers", "key"),
    [("8", 4, "embed_dim"), (8, "4", "layers"), (8, " 1e-5", "layers"), (8, "-.5", "layers")],
)
def test_numbers_of_a_model_config_are_no_texts(config, tmp_path, width, layers, key):
    # FAULTS 31
    content = {"embed_dim": width, "vision_cfg": {"timm_model_name": "x1", "layers": layers}}
    (tmp_path / "own.json").write_text(json.dumps(content))
    config["models"]["demo"]["architecture"] = str(tmp_path / "own.json")
    config["runs"]["tables"] = ["config/runs/ladder.tsv"]
    loaded = load_config(config)
    with pytest.raises(InputError, match=rf"own\.json: {key} must be a number; got the"):
        Graph(loaded, runs.read_runs(loaded))


def test_a_tilde_is_the_home(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config["dataset"].update(root="~/data", splits={"pseudo": "~/l.txt"})
    dataset = load_config(config).dataset
    assert (dataset.root, dataset.splits.pseudo) == ("/home/me/data", "/home/me/l.txt")


def test_a_tilde_is_the_home_wherever_a_setting_is_a_place(monkeypatch):
    # FAULTS 30
    monkeypatch.setenv("HOME", str(ROOT))
    tags = {"model": "demo", "texts": "clip-es", "truth": "~/t.csv"}
    splits = {"prompts": "~/l.txt", "pseudo": "~/l.txt"}
    own = {
        "inherits": ["~/config/config.yaml"],
        "plugins": ["~/config"],
        "dataset": {
            **{"name": "x", "source": "folder", "root": "~/x", "masks": "~/m", "splits": splits},
            "vocabulary": "~/config/vocabularies/voc12.yaml",
            **{"labels": "tagclip", "tagclip": tags},
        },
        "sources": {"registry": "~/r.yaml", "replace": {"sbd": {"path": "~/sbd"}}},
        "runs": {"tables": ["~/config/runs/ladder.tsv"]},
        "models": {
            "demo": {"weights": "~/w.pt", "architecture": "~/a.json", "text_features": "~/f.npz"}
        },
        "texts": {"sharpest": {"templates": "~/config/templates/imagenet20.txt"}},
        "masks": {
            "theirs": {"source": "import", "folder": "~/m", "confidences": "~/c"},
            "sepl": {"refinement": "sepl", "sepl": {"folder": "~/s"}},
        },
        "segmentation": {
            "cgl": {"segmentor": "~/config/segmentors/frozen-clip.yaml"},
            "later": {
                **{"segmentor": "~/config/segmentors/frozen-clip.yaml", "init": "~/i.pth"},
                "iterations": 1,
            },
        },
        "evaluation": {"published": "~/config/published/voc12.csv"},
    }
    loaded, said = load_config(own), json.dumps(own)
    found = json.dumps(loaded.model_dump(mode="json"))
    assert "~" not in found
    assert found.count(f'"{ROOT}/') == said.count('"~/') - 1, "inherits is not kept"
    assert runs.resolve(loaded, "masks", "theirs,folder=~/other").folder == f"{ROOT}/other"
    assert runs.read_runs(loaded)


def test_a_missing_table_is_named(config):
    config["runs"]["tables"] = ["no.tsv"]
    with pytest.raises(InputError, match=r"there is no file no\.tsv"):
        runs.read_runs(load_config(config))


@pytest.mark.parametrize("name", runs.RESERVED)
def test_a_table_with_the_name_of_another_file_is_refused(config, tmp_path, name):
    (tmp_path / f"{name}.tsv").write_text(HEADER + ROW, encoding="utf-8")
    config["runs"]["tables"] = [str(tmp_path / f"{name}.tsv")]
    with pytest.raises(InputError, match=rf"another table is called {name}\.csv; rename"):
        runs.read_runs(load_config(config))


def test_a_sweep_over_a_stage_that_its_base_lacks(config, read):
    config["runs"]["sweeps"] = [{"base": "one", "segmentation.mu": [0.5]}]
    with pytest.raises(InputError, match="run `one` has no segmentation"):
        read(HEADER + ROW.replace("cgl\tdefault", "-\t-"))


def test_a_note_may_hold_anything_but_a_tab(read):
    # FAULTS 10
    note = 'issue #3 # "really" <!-- =1+1'
    (run,) = read(HEADER + ROW.rstrip("\n") + f"{note}\n")
    assert run.note.endswith(note)


def test_bases_of_several_rows_in_a_circle(read):
    # FAULTS 10, 11
    rows = [ROW.replace("one", name).replace("\t-\t", f"\t{base}\t", 1)
            for name, base in (("a", "b"), ("b", "c"), ("c", "a"))]  # fmt: skip
    with pytest.raises(InputError, match="row `a`: base: a -> b -> c -> a is a circle; name"):
        read(HEADER + "".join(rows))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_in_another_encoding_is_refused(config, tmp_path, encoding):
    (tmp_path / "table.tsv").write_bytes((HEADER + ROW.rstrip() + "\tü\n").encode(encoding))
    config["runs"]["tables"] = [str(tmp_path / "table.tsv")]
    with pytest.raises(InputError, match=r"not UTF-8; save it as UTF-8"):
        runs.read_runs(load_config(config))


@pytest.mark.parametrize("other", ["b/t.tsv", "b/T.tsv"])  # some systems know no case
def test_two_tables_of_one_name_are_refused(config, tmp_path, other):
    # FAULTS 10
    names = ["a/t.tsv", other]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(HEADER + ROW, encoding="utf-8")
    config["runs"]["tables"] = [str(tmp_path / name) for name in names]
    with pytest.raises(InputError, match="two tables are called t"):
        runs.read_runs(load_config(config))


@pytest.mark.parametrize(
    ("sweep", "line"),
    [
        ({"segmentation.mu": [0.5]}, "base: must name a run"),
        ({"base": "one", "model.x": [1]}, "must begin with one of"),
        ({"base": "one", "segmentation.mu": 0.5}, "must be a list of different values"),
        ({"base": "one", "segmentation.mu": [0.5, 0.5]}, "must be a list of different values"),
        ({"base": "one", "seed": [-1]}, "seed: must be whole numbers"),
    ],
)
def test_a_bad_sweep_gets_one_line(config, read, sweep, line):
    config["runs"]["sweeps"] = [sweep]
    with pytest.raises(InputError, match=line):
        read(HEADER + ROW)


@pytest.mark.parametrize("name", ["folder", "images"])
def test_the_tables_of_own_data_make_masks_only(name):
    found = runs.read_runs(read_config(ROOT / f"config/{name}.yaml"))
    assert found
    assert all(run.masks and run.segmentation is None for run in found)
