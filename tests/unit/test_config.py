"""The config's schema, and that the shipped configs and the schema agree."""

import copy
from pathlib import Path

import pytest
import yaml

from clip_wsss.config import canonical, check_config, read_yaml
from clip_wsss.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
CONFIGS = [path for path in CONFIGS if "dataset:" in path.read_text(encoding="utf-8")]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def schema():
    return read_yaml("workflow/schemas/config.schema.yaml")


@pytest.fixture
def demo():
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path, schema):
    check_config(yaml.safe_load(path.read_text(encoding="utf-8")), schema, path.name)


def _nested_keys(schema, node):
    """Keys of a schema's objects, with the references followed."""
    if "$ref" in node:
        node = {**schema["$defs"][node["$ref"].rpartition("/")[2]], **node}
    for key, value in node.get("properties", {}).items():
        yield key
        yield from _nested_keys(schema, value)
    for inner in (node.get("additionalProperties"), node.get("items")):
        if isinstance(inner, dict):
            yield from _nested_keys(schema, inner)


def test_every_setting_of_the_demo_is_commented(schema):
    files = [ROOT / "config/config.yaml", ROOT / "config/voc12.yaml"]  # the latter has `sources`
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    commented = {line.split(":")[0].strip(" -") for line in text.splitlines() if " # " in line}
    parents = {"dataset", "demo", "runs", "models", "texts", "cam", "masks", "segmentation"}
    parents |= {"evaluation", "compute", "splits", "position_embedding", "caa", "crf", "test"}
    sweeps = {"base", "seed", "scales", "flip"}
    replacements = {"path", "url", "mirrors", "md5"}  # docs/datasets.md
    crf = set(schema["$defs"]["masks"]["properties"]["crf"]["properties"])
    missing = set(_nested_keys(schema, schema)) - commented - parents - sweeps - replacements - crf
    assert not missing


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c.update(foo=1), "foo: unknown key `foo`"),
        (
            lambda c: c["cam"]["softmax"].update(targt="x"),
            "cam.softmax.targt: unknown key `targt`; did you mean `target`?",
        ),
        (
            lambda c: c["cam"]["softmax"]["caa"].update(layers="ten"),
            "cam.softmax.caa.layers: `ten` should be of type integer",
        ),
        (lambda c: c["masks"]["caa"].pop("map"), "masks.caa.map: is missing"),
        (lambda c: c["dataset"].update(size="foo"), "dataset.size: `foo` is none of xml, image"),
        (lambda c: c["segmentation"]["cgl"].update(mu=1.5), "segmentation.cgl.mu: 1.5 is greater"),
        (lambda c: c["cam"]["softmax"].update(model="dmo"), "did you mean `demo`?"),
        (lambda c: c["texts"]["photo"].update(names="fancy"), "texts.photo.names: unknown list"),
        (lambda c: c["texts"]["photo"].update(template="a cat"), "should hold {} once"),
        (lambda c: c["texts"]["photo"].update(template=["a {}.", "x"]), "should hold {} once"),
        (lambda c: c["texts"]["sharpest"].update(templates="no.txt"), "there is no file no.txt"),
        (lambda c: c["segmentation"]["cgl"].update(segmentor="no.yaml"), "there is no file no"),
        (lambda c: c["dataset"].update(vocabulary="no.yaml"), "dataset.vocabulary: there is no"),
        (lambda c: c["evaluation"].update(published="no.csv"), "evaluation.published: there is no"),
        (lambda c: c["segmentation"]["cgl"].update(loss="cross-entropy"), "cgl.mu: 0.95 does noth"),
        (lambda c: c["masks"].update({"a/b": c["masks"]["caa"]}), "'a/b' does not match"),
    ],
)
def test_bad_configs_get_one_line_that_names_the_key(demo, schema, change, line):
    config = copy.deepcopy(demo)
    change(config)
    with pytest.raises(InputError) as error:
        check_config(config, schema, "my.yaml")
    message = str(error.value)
    assert message.startswith("my.yaml: ")
    assert line in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["[a list]", "classes: [a]\nnames:\nbackgrounds:", "a: [\n"])
def test_a_bad_vocabulary_gets_one_line_that_names_its_file(demo, schema, tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    demo["dataset"]["vocabulary"] = str(path)
    with pytest.raises(InputError) as error:
        check_config(demo, schema, "my.yaml")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_order_of_keys_means_nothing():
    one = {"b": [{"y": 1, "x": 2}], "a": {"d": None, "c": "z"}}
    two = {"a": {"c": "z", "d": None}, "b": [{"x": 2, "y": 1}]}
    assert repr(canonical(one)) == repr(canonical(two))
    assert canonical(one) == one
