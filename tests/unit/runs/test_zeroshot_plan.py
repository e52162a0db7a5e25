"""Plans of rows with a text head and held-out classes: keys, inputs, and what is refused."""

from pathlib import Path

import pytest
import yaml

from clip_wsss.core.errors import InputError
from clip_wsss.runs.config import load_config, read_config
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.plan import Plan, make_plan
from clip_wsss.runs.table import read_runs
from clip_wsss.score.changes import changes, entries

ROOT = Path(__file__).parents[3]
HEADER = "name\tbase\ttexts\tcam\taffinity\tmasks\tsegmentation\tinference\tseed\tnote\n"
ROW = "one\t-\tphoto\tsoftmax\tcaa\tcrf\tcgl,text_head.model=demo\tdefault\t0\t\n"
TRUTH = ROW.replace("softmax\tcaa\tcrf", "-\t-\tground-truth")
SPLIT = ["pottedplant", "sheep", "sofa", "train", "tvmonitor"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def config(tmp_path):
    found = yaml.safe_load((ROOT / "config/config.yaml").read_text("utf-8"))
    found["runs"]["tables"] = [str(tmp_path / "table.tsv")]
    return found


@pytest.fixture
def planned(tmp_path, config):
    def planned(text, unseen=()) -> Plan:
        (tmp_path / "table.tsv").write_text(HEADER + text, encoding="utf-8")
        config["dataset"]["unseen"] = list(unseen)
        return make_plan(config)

    return planned


def training(plan, name="one"):
    return plan.graph.paths[name]["segmentation"]


def test_the_shipped_configs_are_planned():
    for path in ("config/zeroshot.yaml", "config/voc12-zeroshot.yaml"):
        config = read_config(path)
        assert config.dataset.unseen == SPLIT
        runs = read_runs(config)
        assert {"teacher", "teacher-shuffled", "teacher-weak"} <= {run.name for run in runs}
        assert all(run.seeds == (0, 1, 2) for run in runs)


def test_a_row_without_maps_has_texts(planned):
    plan = planned(TRUTH)
    assert list(plan.graph.paths["one"]) == ["texts", "masks", "segmentation", "inference"]
    node = training(plan)
    assert [one.stage for one in node.parents] == ["masks", "texts"]
    assert node.settings["text_head"]["texts"]["names"][0] == "aeroplane"
    assert plan.training(node, 0).inputs["texts"] == []  # its own job encodes fixed texts
    assert not plan.ranking.nodes


def test_ranked_texts_are_a_declared_input_of_the_training_alone(planned):
    plan = planned(TRUTH.replace("photo", "sharpest"))
    product = plan.training(training(plan), 0)
    (texts,) = product.inputs["texts"]
    assert texts.files[0].name == "text_features.npz"
    assert texts in plan.rankings
    assert product.inputs["masks"]
    inference = plan.graph.paths["one"]["inference"]
    assert "texts" not in plan.predictions(inference, 0, "val").inputs


def test_only_trainings_on_seen_classes_depend_on_what_is_unseen(planned):
    seen = TRUTH.replace("one", "seen").replace("=demo", "=demo,seen_only=true")
    keys = [
        [training(planned(TRUTH + seen, unseen), name).key for name in ("one", "seen")]
        for unseen in (["cat"], ["dog", "cat"], ["cat", "dog"])
    ]
    assert len({one for one, _ in keys}) == 1
    assert keys[0][1] != keys[1][1] == keys[2][1]
    plain = "plain\t-\t-\t-\t-\tground-truth\tall-pixels\tdefault\t0\t\n"
    assert training(planned(plain), "plain").key == training(planned(plain, ["cat"]), "plain").key


def test_settings_of_the_head_are_the_trainings_alone(planned):
    rows = [
        TRUTH,
        TRUTH.replace("=demo", "=demo,text_head.background=learnt"),
        TRUTH.replace("=demo", "=demo,text_head.shuffle_texts=0"),
        TRUTH.replace("=demo", "=exact"),
        TRUTH.replace("photo", "clip-es"),
    ]
    paths = [planned(row).graph.paths["one"] for row in rows]
    assert len({path["segmentation"].key for path in paths}) == len(rows)
    assert len({path["masks"].key for path in paths}) == 1
    assert len({path["texts"].key for path in paths[:3]}) == 1
    codes = {planned(row).stamp(training(planned(row)))["code"] for row in rows[:2]}
    plain = planned("one\t-\t-\t-\t-\tground-truth\tcgl\tdefault\t0\t\n")
    assert plain.stamp(training(plain))["code"] not in codes  # its own code counts for it


def test_what_a_text_head_changes_is_said(planned):
    plain = ROW.replace("one", "plain").replace(",text_head.model=demo", "")
    seen = ROW.replace("one", "seen").replace("=demo", "=demo,seen_only=true")
    plan = planned(plain + ROW + seen, ["cat"])
    found = {run.name: entries(plan.graph, run) for run in plan.graph.runs}
    assert changes(found["plain"], found["one"]) == ["text_head: none -> words"]
    assert changes(found["one"], found["seen"]) == ["seen_only: false -> true"]
    assert "text_head" not in found["plain"]["segmentation"]["settings"]


def test_what_a_teacher_changes_is_said(planned):
    cells = {"head": "", "glm": ",teacher.glm.bank=256", "small": ",teacher.glm.bank=8"}
    cells["both"] = cells["glm"] + ",teacher.plm.fusion=0.8"
    rows = [ROW.replace("one", name).replace("=demo", f"=demo{c}") for name, c in cells.items()]
    plan = planned("".join(rows))
    found = {run.name: entries(plan.graph, run) for run in plan.graph.runs}
    assert changes(found["head"], found["glm"]) == ["teacher: none -> glm"]
    assert changes(found["both"], found["head"]) == ["teacher: glm, plm -> none"]
    assert changes(found["glm"], found["both"]) == ["teacher: glm -> glm, plm"]
    assert changes(found["glm"], found["small"]) == ["teacher.glm.bank: 256 -> 8"]


@pytest.mark.parametrize("name", ["systems", "zeroshot", "voc12-zeroshot"])
def test_each_shipped_row_says_what_it_changes(name):
    config = read_config(f"config/{name}.yaml")
    graph = Graph(config, read_runs(config))
    found = {run.name: entries(graph, run) for run in graph.runs}
    for run in graph.runs:
        assert not run.base or changes(found[run.base], found[run.name]), run.name


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ROW.replace("=demo", "=exact"), "must be that of cam `softmax`, demo, whose texts"),
        (TRUTH.replace("photo", "-"), "segmentation needs texts; name an entry"),
        (TRUTH.replace("cgl,text_head.model=demo", "cgl"), "texts needs cam"),
        (ROW.replace("=demo", "=dmo"), "text_head.model: unknown model `dmo`; did you mean"),
        (ROW.replace("crf\t", "ground-truth\t"), "write - for cam and affinity"),
        (ROW.replace("photo", "photo,background=none"), "words, but texts `photo,background=none`"),
        (ROW.replace("=demo", "=demo,text_head.scale=0"), "scale: must be more than 0; got 0"),
        (
            ROW.replace("=demo", "=demo,text_head.background=x"),
            "must be one of words, learnt, none",
        ),
        (ROW.replace("=demo", "=demo,seen_only=true"), "name them in dataset.unseen"),
        (ROW.replace("cgl", "weclip"), "text_head: needs labels: masks; got online"),
        (
            ROW.replace("cgl,text_head.model=demo", "weclip,seen_only=true"),
            "seen_only: needs labels",
        ),
    ],
)
def test_a_row_that_cannot_be_is_one_line(planned, text, line):
    with pytest.raises(InputError) as error:
        planned(text)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("unseen", "line"),
    [
        (["cat", "catt"], "config: dataset.unseen: unknown class `catt`; did you mean `cat`?"),
        (["cat", "cat"], "dataset.unseen: lists cat more than once; keep one"),
        ("all", "dataset.unseen: lists all classes; leave one to be seen"),
    ],
)
def test_unseen_classes_that_cannot_be_are_one_line(config, unseen, line):
    vocabulary = yaml.safe_load((ROOT / "config/vocabularies/voc12.yaml").read_text("utf-8"))
    config["dataset"]["unseen"] = vocabulary["classes"] if unseen == "all" else unseen
    with pytest.raises(InputError) as error:
        load_config(config)
    assert line in str(error.value)
