"""Typed settings, parents of a config, and that the shipped configs can be used."""

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import method, registered, with_methods
from clip_wsss.core.names import KINDS
from clip_wsss.core.plain import dump_yaml
from clip_wsss.labels.online import OnlineSettings
from clip_wsss.labels.weclip import LabelSettings
from clip_wsss.masks.refinements.par import ParSettings
from clip_wsss.runs import settings_docs
from clip_wsss.runs.config import load_config, read_config, read_yaml, with_parents
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.provenance import portable
from clip_wsss.runs.settings import (
    ENTRIES,
    Config,
    Segmentation,
    Settings,
    validated_entry,
)
from clip_wsss.runs.table import read_runs

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
CONFIGS = [path for path in CONFIGS if "dataset:" in path.read_text(encoding="utf-8")]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def demo():
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path):
    assert read_config(path).cam["clip-es"].position_embedding.round == "float16"


def _undescribed(kind):
    """Fields of settings, and of their parts, that hold a value and have no description."""
    for name, field in kind.model_fields.items():
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        parts = [one for one in inner if isinstance(one, type) and issubclass(one, Settings)]
        for part in parts:
            yield from _undescribed(part)
        if not parts and not field.description:
            yield f"{kind.__name__}.{name}"


def test_every_setting_is_described():
    found = [name for kind in (Config, *ENTRIES.values()) for name in _undescribed(kind)]
    assert found == [f"Config.{group}" for group in ENTRIES if group != "texts"]  # mappings
    methods = [method(kind, name).settings for kind in KINDS for name in registered(kind)]
    assert {ParSettings, LabelSettings} <= set(methods)
    for kind in (OnlineSettings, *filter(None, methods)):
        assert all(field.description for field in kind.model_fields.values())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c.update(foo=1), "foo: unknown key `foo`"),
        *(  # FAULTS 22
            (lambda c, n=name: c["dataset"].update(name=n), f"dataset.name: `{name}` may hold")
            for name in ("..", ".", "a/b", "/a", ".a", "a b")
        ),
        (lambda c: c["masks"].update({"../x": {}}), "masks.../x: `../x` may hold"),
        (
            lambda c: c["cam"]["softmax"].update(targt="x"),
            "cam.softmax.targt: unknown key `targt`; did you mean `target`?",
        ),
        (
            lambda c: c["affinity"]["caa"].update(layers="ten"),
            "affinity.caa.layers: must be an integer; got 'ten'",
        ),
        (lambda c: c["dataset"].pop("root"), "dataset.root: is missing"),
        (
            lambda c: c["dataset"].update(size="foo"),
            "dataset.size: must be one of xml, image; got foo",
        ),
        (
            lambda c: c["segmentation"]["cgl"].update(mu=1.5),
            "segmentation.cgl.mu: must be at most 1; got 1.5",
        ),
        (lambda c: c["segmentation"]["cgl"].update(mu=float("nan")), "cgl.mu: must be"),
        (
            lambda c: c["affinity"]["caa"].update(threshold=float("inf")),
            "affinity.caa.threshold: must be",
        ),
        (lambda c: c["segmentation"]["cgl"].update(mu=0.957), "mu"),
        (lambda c: c["compute"].update(threads=0), "compute.threads: must be at least 1; got 0"),
        (lambda c: c["compute"].update(threads=True), "compute.threads: must be an integer"),
        (lambda c: c["evaluation"].update(seed=2**63), "evaluation.seed: must be less than"),
        (lambda c: c["cam"]["softmax"].update(model="dmo"), "did you mean `demo`?"),
        (lambda c: c["texts"]["photo"].update(names="fancy"), "texts.photo.names: unknown list"),
        (lambda c: c["texts"]["photo"].update(template="a cat"), "must hold {} once"),
        (lambda c: c["texts"]["photo"].update(template=["a {}.", "x"]), "must hold {} once"),
        (
            lambda c: c["texts"]["photo"].update(template=["a {}.", "b {}.", "a {}."]),
            "texts.photo.template: lists `a {}.` more than once, which would count as often",
        ),
        (
            lambda c: c["cam"]["softmax"].update(scales=[1.0, 0.5, 1]),
            "cam.softmax.scales: must hold each number once; got 1.0, 0.5, 1.0",
        ),
        (lambda c: c["evaluation"].update(powers=[2, 2]), "evaluation.powers: must hold each"),
        (lambda c: c["evaluation"].update(bootstrap=10**12), "evaluation.bootstrap: must be"),
        (lambda c: c["texts"]["photo"].update(template=1.5), "texts.photo.template: "),
        (lambda c: c["texts"]["sharpest"].update(templates="no.txt"), "there is no file no.txt"),
        (lambda c: c["segmentation"]["cgl"].update(segmentor="no.yaml"), "there is no file no"),
        (lambda c: c["dataset"].update(vocabulary="no.yaml"), "no.yaml: there is no such file"),
        (lambda c: c["evaluation"].update(published="no.csv"), "evaluation.published: there is no"),
        (
            lambda c: c["segmentation"]["cgl"].update(loss="cross-entropy", mu=0.9),
            "cgl: mu: 0.9 does not",
        ),
        (lambda c: c["masks"].update({"a/b": c["masks"]["crf"]}), "masks.a/b: `a/b` may hold"),
        (lambda c: c["dataset"].update(name=".."), "dataset.name: `..` may hold"),
        (lambda c: c["dataset"].update(name="-rf"), "dataset.name: `-rf` may hold letters, digits"),
        (lambda c: c["dataset"].update(name="logs."), "dataset.name: `logs.` may hold letters"),
        (lambda c: c["dataset"].update(root="x{y}"), "dataset.root: must be without { and }, "),
        (lambda c: c["dataset"].update(labels="l}.csv"), "dataset.labels: must be without"),
        (lambda c: c["dataset"].update(name="a\nb"), "dataset.name: "),
        (lambda c: c.pop("demo"), "demo: is needed by dataset.source: demo"),
        (lambda c: c["masks"]["argmax"].update(folder="x"), "folder: is needed by source: import"),
        (lambda c: c["masks"]["ground-truth"].update(background_power=2.0), "as they are"),
    ],
)
def test_bad_configs_get_one_line_that_names_the_key(demo, change, line):
    config = copy.deepcopy(demo)
    change(config)
    with pytest.raises(InputError) as error:
        load_config(config, "my.yaml")
    message = str(error.value)
    assert line in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["[a list]", "classes: [a]\nnames:\nbackgrounds:", "a: [\n"])
def test_a_bad_vocabulary_gets_one_line_that_names_its_file(demo, tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    demo["dataset"]["vocabulary"] = str(path)
    with pytest.raises(InputError) as error:
        load_config(demo, "my.yaml")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_whole_numbers_are_numbers():
    assert validated_entry("affinity", {"threshold": 0}, "x").threshold == 0.0
    assert validated_entry("masks", {"background_power": 2}, "x") == validated_entry(
        "masks", {"background_power": 2.0}, "x"
    )


def test_what_is_not_used_is_left_out_of_the_key():
    entry = {"refinement": "crf", "crf": {"iterations": 5, "gaussian_sxy": 1.0}}
    assert validated_entry("masks", entry, "x").used()["crf"] == {"iterations": 5}
    assert "crf" not in validated_entry("masks", {"refinement": "crf"}, "x").used()
    assert "scoring" not in validated_entry("masks", {"scoring": "oracle"}, "x").used()


def test_mu_is_the_papers_unless_the_loss_counts_all_pixels():
    assert Segmentation(segmentor="x", iterations=1).threshold == 0.95
    assert Segmentation(segmentor="x", iterations=1, loss="cross-entropy").threshold == 0
    assert Segmentation(segmentor="x", iterations=1, mu=0.5).threshold == 0.5


# ---- parents ---------------------------------------------------------------------------------


def _write(folder, name, content):
    path = folder / name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_parents_are_merged_in_their_order_and_lists_replaced(tmp_path):
    first = {"compute": {"threads": 1, "batch": 1}, "runs": {"tables": ["a", "b"]}}
    second = {"compute": {"batch": 2}, "evaluation": {"seed": 3}}
    parents = [_write(tmp_path, "1.yaml", first), _write(tmp_path, "2.yaml", second)]
    own = {"inherits": parents, "compute": {"workers": 9}, "runs": {"tables": ["c"]}}
    assert with_parents(own, "own.yaml") == {
        "compute": {"threads": 1, "batch": 2, "workers": 9},
        "runs": {"tables": ["c"]},
        "evaluation": {"seed": 3},
    }


def test_a_parent_is_checked_by_itself(tmp_path):
    path = _write(tmp_path, "parent.yaml", {"affinity": {"x": {"power": 0}}})
    with pytest.raises(InputError, match=r"parent\.yaml: affinity\.x\.power: must be at least 1"):
        with_parents({"inherits": [path]}, "own.yaml")
    _write(tmp_path, "parent.yaml", {"segmentation": {"x": {"iterations": 5}}})  # no segmentor yet
    own = {"inherits": [path], "segmentation": {"x": {"mu": 2}}}
    with pytest.raises(InputError, match=r"own\.yaml: segmentation\.x\.mu: must be at most 1"):
        with_parents(own, "own.yaml")


@pytest.mark.parametrize("name", ["config.yaml", "voc12.yaml", "coco14.yaml"])
def test_the_resolved_config_gives_the_same_keys(name, tmp_path):
    def keys(config):
        graph = Graph(config, read_runs(config))
        paths = {run: {k: n.key for k, n in path.items()} for run, path in graph.paths.items()}
        return paths, dump_yaml(portable(Plan(graph).resolved, keep=True))

    paths, text = keys(read_config(f"config/{name}"))
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert keys(read_config(tmp_path / "config.yaml")) == (paths, text)
    assert str(ROOT) not in text
    assert yaml.safe_load(text) == read_yaml(tmp_path / "config.yaml"), "as Snakemake reads it"


def test_a_cycle_of_parents_is_refused(tmp_path):
    path = str(tmp_path / "a.yaml")
    _write(tmp_path, "b.yaml", {"inherits": [path]})
    _write(tmp_path, "a.yaml", {"inherits": [str(tmp_path / "b.yaml")]})
    with pytest.raises(InputError, match="is a cycle"):
        with_parents({"inherits": [path]}, "own.yaml")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"inherits": "a.yaml"}, "inherits: must be a list of files"),
        ({"inherits": ["no.yaml"]}, "no.yaml: there is no such file"),
    ],
)
def test_bad_parents(content, line):
    with pytest.raises(InputError, match=line):
        with_parents(content, "own.yaml")


def test_a_parent_that_is_named_twice_is_refused_however_it_is_spelled():
    parents = ["config/config.yaml", "./config/../config/config.yaml"]
    with pytest.raises(InputError, match=r"inherits: names .*config.yaml twice; keep one"):
        with_parents({"inherits": parents}, "own.yaml")


def test_the_shipped_models_say_licence_and_source():
    models = read_yaml(ROOT / "config/methods.yaml")["models"]
    assert all(one.get("license") and one.get("source") for one in models.values())


def test_a_parent_that_is_a_list_is_refused(tmp_path):
    path = _write(tmp_path, "a.yaml", [1])
    with pytest.raises(InputError, match="must be a mapping of settings"):
        with_parents({"inherits": [path]}, "own.yaml")


def test_nothing_is_inherited_that_is_not_named():
    for path in CONFIGS:
        content = with_parents(read_yaml(path), path.name)
        if path.name not in (
            "config.yaml",
            "systems.yaml",
            "tagclip.yaml",
            "zeroshot.yaml",
        ):  # which are the demo's
            assert "demo" not in yaml.safe_dump(content), path


# ---- YAML ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key `a` is given twice"),
        ("x: {a: 1, a: 2}\n", "the key `a` is given twice"),
        ("a: [1\n", "not YAML"),
        ("a: !!python/object/apply:os.system [echo]\n", "not YAML"),
    ],
)
def test_yaml_that_cannot_be_used(tmp_path, text, line):
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_yaml(path)
    assert str(path) in str(error.value)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("a: ü\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read_yaml(path)


def test_merge_keys_are_no_duplicates(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: {<<: *a, x: 3}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 3}}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(st.sampled_from(sorted(ENTRIES)), st.data())
def test_any_value_is_taken_or_refused_in_one_line(group, data):
    kind = with_methods(ENTRIES[group], {})
    keys = st.sampled_from([*kind.model_fields, "other"])
    content = data.draw(st.dictionaries(keys, _VALUES, max_size=4))
    message = ""
    try:
        validated_entry(group, content, "my.yaml: entry")
    except InputError as error:
        message = str(error)
    assert message == "" or message.startswith(("my.yaml: entry.", "my.yaml: entry: "))
    assert "\n" not in message


def test_the_generated_page_and_schema_are_those_of_the_settings():
    assert settings_docs.TABLE.read_text("utf-8") == settings_docs.markdown()
    assert settings_docs.SCHEMA.read_text("utf-8") == settings_docs.schema()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name
)
def test_the_schema_takes_the_shipped_configs_and_no_unknown_key(path):
    content = yaml.safe_load(path.read_text("utf-8"))
    if "cam" not in content and "dataset" not in content:
        return  # sources.yaml
    schema = yaml.safe_load(settings_docs.SCHEMA.read_text("utf-8"))
    check = jsonschema.Draft202012Validator(schema).is_valid
    assert check(content)
    content = {**content, "affinity": {"own": {"method": "caa", "powr": 3}}}
    assert not check(content)
    content["affinity"] = {"own": {"method": "my.package:function", "amount": 3}}
    assert check(content)
    content["cam"] = {"own": {"model": "demo", "target": "bogus"}}
    assert not check(content)


def test_the_page_has_every_group():
    page = settings_docs.markdown()
    assert all(f"## `{group}.<name>`" in page for group in ENTRIES)
