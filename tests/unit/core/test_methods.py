"""Methods as plug-ins: names, settings, errors of one line, keys, and files beside a config."""

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from clip_wsss.core import methods
from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import PLUGINS, add_plugins, method, methods_of, registered
from clip_wsss.core.names import KINDS
from clip_wsss.core.plain import dump_yaml
from clip_wsss.masks.context import MaskContext
from clip_wsss.runs.config import load_config, merge, read_config, with_parents
from clip_wsss.runs.fingerprint import function_fingerprint
from clip_wsss.runs.graph import Graph
from clip_wsss.runs.plan import Plan
from clip_wsss.runs.provenance import portable
from clip_wsss.runs.settings import validated_entry
from clip_wsss.runs.table import read_runs, resolve

ROOT = Path(__file__).parents[3]
BLUR = """
from typing import Annotated
from pydantic import Field
from clip_wsss import Names, Settings

class Blur(Settings):
    sigma: float = Field(2.0, gt=0, le=9)
    tower: Annotated[str, Names("model")] | None = None

def blur(context, settings: Blur):
    return context.scores * settings.sigma

def plain(context):
    return context.scores

class Needed(Settings):
    sigma: float

def needed(context, settings: Needed): ...
def later(context, settings: "Blur"): ...
def bare(context, settings): ...
def untyped(context, settings: dict): ...
def none(): ...
def two(context, other): ...
def optional(context, *, more=1): ...
number = 3
"""
ROW = "name\ttexts\tcam\taffinity\tmasks\n"


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Write modules into a folder that is beside the config, and forget them afterwards."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(PLUGINS, "")
    known = set(sys.modules)
    folder = tmp_path / "my:work"  # `os.pathsep` is a character of names too
    folder.mkdir()

    def write(**files):
        for name, text in files.items():
            path = folder / f"{name.replace('__of__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        add_plugins(folder)
        return folder

    yield write
    for name in set(sys.modules) - known:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    methods._method.cache_clear()


@pytest.fixture
def content():
    return yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def planned(folder, content, change, rows):
    """The config with a change and its graph."""
    table = folder / "test.tsv"
    table.write_text(ROW + rows, encoding="utf-8")
    own = merge(content, change)
    own["runs"] = {"tables": [str(table)]}
    config = load_config(own, str(folder / "mine.yaml"))
    return config, Graph(config, read_runs(config))


# ---- the suite's own ---------------------------------------------------------------------------


def test_what_is_registered():
    assert set(registered("affinity")) == {"caa", "cda", "cosine", "spectral"}
    assert set(registered("cam")) == {"gradcam", "maskclip", "clearclip", "sclip", "naclip"}
    assert set(registered("target")) == {"softmax", "logit"}
    assert set(registered("refinement")) == {"none", "crf", "par", "pamr", "sepl"}
    assert set(registered("loss")) == {"cross-entropy", "confidence-guided", "balanced"}
    assert set(registered("labels")) == {"ssr", "weclip"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "segmentor"])
def test_registered_methods_fit_their_kind(kind):
    for name in registered(kind):
        found = method(kind, name)
        assert found.function.__name__ == name.replace("-", "_")
        assert inspect.getdoc(found.function)
        assert found.target.startswith(KINDS[kind].package)


def test_a_hyphen_of_a_name_is_an_underscore_of_its_module():
    found = method("loss", "confidence-guided")
    assert found.target == "clip_wsss.losses.confidence_guided:confidence_guided"
    with pytest.raises(InputError, match=r"must be one of .* got confidence_guided"):
        method("loss", "confidence_guided")


# ---- one's own ---------------------------------------------------------------------------------


def test_a_dotted_name(beside):
    beside(own=BLUR)
    found = method("refinement", "own:blur")
    assert (found.short, found.target) == ("blur", "own:blur")
    assert list(found.fields) == ["sigma", "tower"]
    context = MaskContext(np.ones((2, 1, 1), np.float16), np.zeros((1, 1, 3), np.uint8))
    assert found.bound({"sigma": 3.0})(context).tolist() == [[[3]], [[3]]]
    assert found.bound(None)(context).max() == 2
    assert method("refinement", "own:plain").bound(None)(context).max() == 1
    assert method("refinement", "own:later").settings is found.settings
    assert method("refinement", "own:optional").settings is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own:missing", "own has no function `missing`; correct the name"),
        ("own:number", "own has no function `number`; correct the name"),
        ("own:none", "must take (context) or (context, settings); it takes ()"),
        ("own:two", "must take (context) or (context, settings); it takes (context, other)"),
        ("own:bare", "its parameter `settings` must be annotated with a subclass of clip_wsss."),
        ("own:untyped", "its parameter `settings` must be annotated with a subclass of clip_wsss."),
        ("nowhere:blur", "nowhere cannot be imported (ModuleNotFoundError: No module named"),
        ("broken:blur", "broken cannot be imported (SyntaxError: "),
        ("raises:blur", "raises cannot be imported (ValueError: first second); install its"),
        ("own:blur:again", "`own:blur:again` must be package.module:function"),
        ("own.py:", "`own.py:` must be package.module:function"),
        ("crv", "must be one of crf, none, pamr, par, sepl, or package.module:function; got crv"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_method(beside, name, message):
    beside(own=BLUR, broken="def blur(:", raises="raise ValueError('first\\nsecond')")
    with pytest.raises(InputError) as error:
        method("refinement", name)
    assert message in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_names_the_entry_and_the_row(beside, content):
    folder = beside(own=BLUR)
    masks = {"refinement": "own:missing"}
    with pytest.raises(InputError, match=r"^.*mine.yaml: masks.blurred.refinement: own:missing: "):
        planned(folder, content, {"masks": {"blurred": masks}}, "a\tphoto\tplain\t-\tcrf\n")
    row = "a\tphoto\tplain\t-\tcrf,refinement=own:missing\n"
    with pytest.raises(InputError, match=r"row `a`: masks.*own:missing: own has no function"):
        planned(folder, content, {}, row)


# ---- settings ------------------------------------------------------------------------------------


def refined(**content):
    return validated_entry("masks", {"refinement": "own:blur", **content}, "masks.x")


def test_settings_below_the_name(beside):
    beside(own=BLUR)
    assert refined().blur.sigma == 2
    assert refined(blur={"sigma": 3.0}).blur.sigma == 3
    assert refined() == refined(blur={"sigma": 2.0})
    assert [one.name for one in methods_of(refined())] == ["own:blur"]
    assert not hasattr(refined(), "crf"), "only settings of what it names"


def test_settings_beside_the_name(beside):
    beside(own=BLUR)
    given = {"method": "own:blur", "sigma": 3.0}
    assert validated_entry("affinity", given, "x").sigma == 3
    assert not hasattr(validated_entry("affinity", given, "x"), "layers")
    with pytest.raises(InputError, match="unknown key `layers`"):
        validated_entry("affinity", given | {"layers": 3}, "affinity.x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sigma": float("nan")}, "masks.x.blur.sigma: must be a finite number; got nan"),
        ({"sigma": float("inf")}, "masks.x.blur.sigma: must be a finite number; got inf"),
        ({"sigma": -float("inf")}, "masks.x.blur.sigma: must be a finite number; got -inf"),
        ({"sigma": 0.0}, "masks.x.blur.sigma: must be more than 0; got 0.0"),
        ({"sigma": 10.0}, "masks.x.blur.sigma: must be at most 9; got 10.0"),
        ({"sigma": "much"}, "masks.x.blur.sigma: must be a number; got 'much'"),
        ({"sigmo": 3.0}, "masks.x.blur.sigmo: unknown key `sigmo`; did you mean `sigma`?"),
        (3, "masks.x.blur: must be a mapping; got 3"),
    ],
)
def test_a_wrong_setting_is_one_line(beside, content, message):
    beside(own=BLUR)
    with pytest.raises(InputError) as error:
        refined(blur=content)
    assert str(error.value) == message


def test_nan_is_refused_whatever_its_way(beside):
    beside(own=BLUR)
    own = method("refinement", "own:blur").settings
    for value in (float("nan"), float("inf"), np.float64("nan")):
        with pytest.raises(ValidationError):
            own(sigma=value)


def test_a_setting_without_a_default_must_be_said(beside):
    beside(own=BLUR)
    with pytest.raises(InputError, match=r"^m: needed: is missing|^m.needed: is missing"):
        validated_entry("masks", {"refinement": "own:needed"}, "m")
    given = {"refinement": "own:needed", "needed": {"sigma": 1.0}}
    assert validated_entry("masks", given, "m").needed.sigma == 1


def test_a_setting_with_the_name_of_the_entrys_own_is_refused(beside):
    text = BLUR.replace("sigma", "method").replace("gt=0, le=9", "")
    beside(own=text, masks_=BLUR.replace("def blur", "def source"))
    with pytest.raises(InputError, match="method: own:blur: its setting method must be renamed"):
        validated_entry("affinity", {"method": "own:blur"}, "affinity.x")
    with pytest.raises(InputError, match="masks_:source: its function must have another name"):
        validated_entry("masks", {"refinement": "masks_:source"}, "masks.x")


def test_null_takes_out_what_a_parent_says(beside):
    folder = beside(own=BLUR)
    parent = {"masks": {"x": {"refinement": "crf", "crf": {"iterations": 5}}, "y": {}}, "demo": {}}
    (folder / "parent.yaml").write_text(yaml.safe_dump(parent), encoding="utf-8")

    def over(**own):
        own["inherits"] = [str(folder / "parent.yaml")]
        return with_parents(own, "own.yaml")

    blur = {"refinement": "own:blur", "blur": {"sigma": 3.0}}
    assert over(masks={"x": blur})["masks"]["x"] == blur, "the settings of the method that is gone"
    assert over(masks={"x": blur | {"crf": None}})["masks"] == {"x": blur, "y": {}}
    assert over(masks={"x": None})["masks"] == {"y": {}}
    assert over(masks=None, demo=None) == {}
    line = (
        r"own.yaml: masks.{}: null removes what a parent sets here, and no parent sets it; remove"
    )
    with pytest.raises(InputError, match=line.format("x.foo")):
        over(masks={"x": {"foo": None}})
    with pytest.raises(InputError, match=line.format("x.crf.foo")):
        over(masks={"x": {"crf": {"foo": None}}})
    with pytest.raises(InputError, match=r"masks.z: must be a mapping; got None"):
        over(masks={"z": None})


@pytest.mark.parametrize("check", ["assert self.a < self.b", "1 / (self.b - 1)"])
def test_a_parents_entry_may_be_made_valid_by_the_child(beside, check):
    name = f"asserts{len(check)}"
    text = f"""
from pydantic import model_validator
from clip_wsss import Settings
class Own(Settings):
    a: int = 0
    b: int = 2
    @model_validator(mode="after")
    def _fits(self):
        {check}
        return self
def own(context, settings: Own): ...
"""
    folder = beside(**{name: text})
    parent = {"affinity": {"x": {"method": f"{name}:own", "a": 1, "b": 1}}}
    (folder / "parent.yaml").write_text(dump_yaml(parent), encoding="utf-8")
    child = {"inherits": [str(folder / "parent.yaml")], "affinity": {"x": {"b": 3}}}
    entry = with_parents(child, "child.yaml")["affinity"]["x"]
    assert validated_entry("affinity", entry, "x").b == 3
    with pytest.raises(InputError):
        validated_entry("affinity", parent["affinity"]["x"], "x")


def test_a_method_of_the_replaced_ones_name_replaces_its_settings_too(beside, content):
    folder = beside(own_crf=BLUR.replace("def blur(", "def crf("))
    content["masks"] = {"old": {"refinement": "crf", "crf": {"iterations": 3}}}
    config, _ = planned(folder, content, {}, "a\tphoto\tsoftmax\tcaa\told\n")
    cell = resolve(config, "masks", "old,refinement=own_crf:crf")
    assert cell.crf.sigma == 2.0
    assert resolve(config, "masks", "old,refinement=own_crf:crf,crf.sigma=3").crf.sigma == 3.0
    assert resolve(config, "masks", "old,crf.image=rgb").crf.iterations == 3
    (folder / "parent.yaml").write_text(dump_yaml(content), encoding="utf-8")

    def over(crf):
        entry = {"refinement": "own_crf:crf", "crf": crf}
        child = {"inherits": [str(folder / "parent.yaml")], "masks": {"old": entry}}
        return with_parents(child, "child.yaml")["masks"]["old"]

    assert over(None) == {"refinement": "own_crf:crf"}
    assert over({"iterations": None, "sigma": 3})["crf"] == {"sigma": 3}
    with pytest.raises(InputError, match=r"crf.theta: null removes what a parent sets here, and"):
        over({"iterations": None, "theta": None})


def test_a_cell_that_switches_the_method_drops_the_old_ones_settings(beside, content):
    folder = beside(own=BLUR)
    change = {"affinity": {"caa": {"layers": 2}}, "masks": {"crf": {"crf": {"iterations": 5}}}}
    config, _ = planned(folder, content, change, "a\tphoto\tsoftmax\tcaa\tcrf\n")
    cell = "caa,method=own:blur,sigma=3"
    assert resolve(config, "affinity", cell) == validated_entry(
        "affinity", {"method": "own:blur", "sigma": 3.0}, "x"
    )
    cell = "crf,refinement=own:blur,blur.sigma=3"
    said = resolve(config, "masks", cell).model_dump(exclude_unset=True)
    assert said == {"refinement": "own:blur", "blur": {"sigma": 3.0}}
    assert resolve(config, "affinity", "caa,power=3").layers == 2, "the others stay"
    with pytest.raises(InputError, match="unknown key `layers`"):
        resolve(config, "affinity", "caa,method=own:blur,layers=3")


NAMESAKES = """
from clip_wsss import Settings
class Own(Settings):
    layers: int = 2
    power: int = 7
class Other(Settings):
    layers: int = 4
def first(context, settings: Own): ...
def second(context, settings: Other): ...
"""


def test_settings_of_one_name_are_those_of_the_method_that_is_named(beside, content):
    folder = beside(namesakes=NAMESAKES)
    content["affinity"] = {
        "caa": {"layers": 3, "power": 5},
        "mine": {"method": "namesakes:first", "layers": 9},
    }
    config, _ = planned(folder, content, {}, "a\tphoto\tsoftmax\tcaa\tcrf\n")

    def cell(text):
        return resolve(config, "affinity", text)

    first = cell("caa,method=namesakes:first")
    assert (first.layers, first.power) == (2, 7), "not CAA's 3 and 5"
    assert cell("caa,method=namesakes:first,layers=6").layers == 6
    assert cell("mine,method=namesakes:second").layers == 4
    assert cell("mine,method=caa").layers == 8
    assert cell("mine,method=namesakes:first").layers == 9, "the method stays"
    (folder / "parent.yaml").write_text(dump_yaml(content), encoding="utf-8")

    def over(**entry):
        child = {"inherits": [str(folder / "parent.yaml")], "affinity": {"caa": entry}}
        return with_parents(child, "child.yaml")["affinity"]["caa"]

    own = {"method": "namesakes:first"}
    assert over(**own) == over(**own, layers=None) == own
    assert over(**own, layers=6) == own | {"layers": 6}
    assert over(power=6) == {"layers": 3, "power": 6}


def test_methods_are_found_beside_a_config_in_a_folder_with_a_comma(beside, content, tmp_path):
    beside()
    folder = tmp_path / "com, ma"
    folder.mkdir()
    (folder / "by_comma.py").write_text(NAMESAKES, encoding="utf-8")
    content["affinity"] = {"caa": {"method": "by_comma:first"}}
    (folder / "m.yaml").write_text(dump_yaml(content), encoding="utf-8")
    sources = f"{folder / 'm.yaml'}, {tmp_path / 'n.yaml'}"  # as Snakemake names two files
    assert load_config(content, sources).affinity["caa"].layers == 2


RICH = """
import enum
from pathlib import Path
from typing import Annotated, Literal
from pydantic import Field, field_validator
from clip_wsss import Settings

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

class Inner(Settings):
    sides: tuple[int, int] = (1, 2)

class Rich(Settings):
    scales: tuple[float, ...] = (1.0,)
    pair: tuple[int, float] | None = None
    sides: Annotated[tuple[Literal["left", "right"], ...], Field(min_length=1)] = ("left",)
    names: set[str] = {"b", "a"}
    numbers: frozenset[int] = frozenset()
    colour: Colour = Colour.RED
    colours: set[Colour] = set()
    file: Path = Path("x")
    inner: Inner = Inner()
    pairs: list[tuple[int, int]] = []
    table: dict[str, tuple[int, ...]] = {}
    amount: float = 1.0

    @field_validator("amount")
    @classmethod
    def _check(cls, value):
        return 1 / (value - 7) and value

def rich(context, settings: Rich):
    return context.maps
"""
SAID = {
    "scales": [1, 0.5], "pair": [1, 2], "sides": ["right", "left"], "names": ["z", "y", "x"],
    "numbers": [3, 2], "colour": "blue", "colours": ["red"], "file": "a/b",
    "inner": {"sides": [3, 4]}, "pairs": [[1, 2]], "table": {"k": [1]},
}  # fmt: skip


def test_lists_and_words_of_yaml_become_tuples_sets_enums_and_paths(beside, content):
    folder = beside(own=RICH)
    entry = {"method": "own:rich", **SAID}
    found = validated_entry("affinity", entry, "x")
    assert (found.scales, found.pair, found.sides) == ((1.0, 0.5), (1, 2.0), ("right", "left"))
    assert (found.names, found.numbers) == ({"x", "y", "z"}, {2, 3})
    assert (found.colour.name, found.file) == ("BLUE", Path("a/b"))
    assert (found.inner.sides, found.pairs, found.table) == ((3, 4), [(1, 2)], {"k": (1,)})
    said = found.model_dump(exclude_defaults=True)
    plain = {**SAID, "names": ["x", "y", "z"], "numbers": [2, 3]}
    assert said == {"method": "own:rich", **plain}, "a set is sorted"
    assert validated_entry("affinity", said, "x") == found
    own = method("affinity", "own:rich").bound(found.model_dump()).keywords["settings"]
    assert own.model_dump(exclude_defaults=True) == plain, "what a job gets"
    keys = []
    for order in (["z", "y", "x"], ["x", "y", "z"]):
        change = {"affinity": {"rich": {**entry, "names": order}}}
        _, graph = planned(folder, content, change, "a\tphoto\tsoftmax\trich\t-\n")
        node = graph.paths["a"]["affinity"]
        keys.append((node.key, node.label, dump_yaml(Plan(graph).resolved)))
    assert keys[0] == keys[1]
    assert node.label.startswith("rich+colour=blue+colours=red+file=a-b+sides=3_4+names=x_y_z")
    small = {"method": "own:rich", "scales": [1.0], "names": ["a", "b"]}
    assert validated_entry("affinity", small, "x").model_dump(exclude_defaults=True).keys() == {
        "method"
    }, "defaults"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"scales": 1.0}, "x.scales: must be a list; got 1.0"),
        ({"scales": [1.0, "2"]}, "x.scales.1: must be a number; got '2'"),
        ({"scales": [True]}, "x.scales.0: must be a number; got True"),
        ({"scales": [float("nan")]}, "x.scales.0: must be a finite number; got nan"),
        ({"pair": [1.0, 2]}, "x.pair.0: must be an integer; got 1.0"),
        ({"pair": [1]}, "x.pair.1: is missing"),
        ({"sides": []}, "x.sides: must be a list that is not empty; got []"),
        ({"sides": ["up"]}, "x.sides.0: must be one of left, right; got up"),
        ({"names": {"a": 1}}, "x.names: must be a list; got {'a': 1}"),
        ({"numbers": ["1"]}, "x.numbers.0: must be an integer; got '1'"),
        ({"colour": "green"}, "x.colour: must be one of red, blue; got green"),
        ({"colour": True}, "x.colour: must be one of red, blue; got True"),
        ({"file": 3}, "x.file: must be text; got 3"),
        ({"inner": {"sides": [1, 2, 3]}}, "x.inner.sides: "),
        ({"amount": 7.0}, "x: the settings cannot be checked (ZeroDivisionError: "),
    ],
)
def test_their_items_stay_strict(beside, said, line):
    beside(own=RICH)
    with pytest.raises(InputError) as error:
        validated_entry("affinity", {"method": "own:rich", **said}, "x")
    assert str(error.value).startswith(line)


# ---- keys ----------------------------------------------------------------------------------------


def test_no_name_of_an_entry_is_in_a_key(beside, content):
    folder = beside(own=BLUR)
    found = []
    for name, tower in (("first", "one"), ("second", "two")):
        change = {
            "models": {tower: {**content["models"]["demo"], "round_weights": "none"}},
            "affinity": {name: {"method": "own:blur", "tower": tower}},
        }
        _, graph = planned(folder, content, change, f"a\tphoto\tsoftmax\t{name}\t-\n")
        path = graph.paths["a"]
        assert path["affinity"].towers.keys() == {tower}
        assert path["affinity"].methods[0] == "own:blur"
        found.append({group: node.folder for group, node in path.items()})
    assert found[0] == found[1]
    change["models"]["two"]["round_weights"] = "float16"
    _, graph = planned(folder, content, change, "a\tphoto\tsoftmax\tsecond\t-\n")
    assert graph.paths["a"]["affinity"].folder != found[0]["affinity"], "what it holds counts"


TRAINED = """
from typing import Annotated
from clip_wsss import Names, Settings
from clip_wsss.core.plain import read_yaml

class Sub(Settings):
    clip: Annotated[str, Names("model")] | None = None
    prior: Annotated[str, Names("folder")] | None = None

class Seg(Sub):
    sub: Sub = Sub()

def seg(settings: Seg):
    return read_yaml("config/segmentors/frozen-clip.yaml")

def lost(pixels, settings: Sub): ...
"""


def test_towers_and_folders_of_a_training_count_by_what_they_hold(beside, content):
    folder = beside(own_trained=TRAINED)
    for name in ("one", "two", "other"):
        (folder / name).mkdir()
        (folder / name / "x.png").write_bytes(name[:1].encode())
    content["models"]["again"] = content["models"]["exact"]
    base = {"segmentor": "own_trained:seg", "loss": "own_trained:lost", "iterations": 3}

    def found(**said):
        change = {"segmentation": {"x": base | said}}
        path = folder / "test.tsv"
        path.write_text("name\tmasks\tsegmentation\na\ttruth\tx\n", encoding="utf-8")
        own = merge(content, change | {"masks": {"truth": {"source": "ground-truth"}}})
        own["runs"] = {"tables": [str(path)]}
        config = load_config(own, str(folder / "mine.yaml"))
        return Graph(config, read_runs(config)).paths["a"]["segmentation"]

    def where(name):
        return {"prior": str(folder / name)}

    for short in ("lost", "seg"):
        one, two, other = (found(**{short: where(name)}) for name in ("one", "other", "two"))
        assert one.key == two.key != other.key, short
        assert one.settings[short]["prior"] == str(folder / "one")
        assert str(folder) not in str(one.identity)
        with pytest.raises(InputError, match=rf"{short}.prior: there is no folder nowhere"):
            found(**{short: {"prior": "nowhere"}})
    exact, again, demo = (found(seg={"sub": {"clip": name}}) for name in ("exact", "again", "demo"))
    assert exact.key == again.key != demo.key
    assert exact.settings["clip"]["round_weights"] == "none"
    assert exact.identity["seg"].keys() == {"sub"}
    with pytest.raises(InputError, match=r"seg.sub.clip: a training gets one tower; name one only"):
        found(seg={"clip": "demo", "sub": {"clip": "exact"}})


UNION = """
from typing import Annotated, Literal, Union
from pydantic import Field
from clip_wsss import Settings

class A(Settings):
    kind: Literal["a"] = "a"
    x: float = 1.0

class B(Settings):
    kind: Literal["b"] = "b"
    x: float = 2.0

class Both(Settings):
    inner: A | B = A()
    tagged: Annotated[Union[A, B], Field(discriminator="kind")] = A()
    steps: list[A | B] = []
    by_name: dict[str, A | B] = {}
    single: list[A] = []

def union(context, settings: Both): ...
"""
A, B = {"kind": "a"}, {"kind": "b"}


def test_settings_of_several_classes_differ_in_their_keys(beside, content):
    folder = beside(own_union=UNION)
    said = [
        {}, {"inner": B}, {"inner": A | {"x": 2}}, {"inner": B | {"x": 3}}, {"inner": A | {"x": 3}},
        {"tagged": B}, {"tagged": A | {"x": 3}}, {"tagged": B | {"x": 3}},
        {"steps": [A, B]}, {"steps": [B, A]}, {"by_name": {"n": A}}, {"by_name": {"n": B}},
        {"single": [{}]}, {"single": [{"x": 3}]},
    ]  # fmt: skip
    entries = {f"e{n}": {"method": "own_union:union", **one} for n, one in enumerate(said)}
    rows = "".join(f"{name}\tphoto\tsoftmax\t{name}\t-\n" for name in entries)
    _, graph = planned(folder, content, {"affinity": entries}, rows)
    nodes = [graph.paths[name]["affinity"] for name in entries]
    assert len({node.key for node in nodes}) == len(said)
    method = {"method": "own_union:union"}
    assert nodes[1].identity == method | {"inner": B | {"x": 2.0}}
    assert nodes[-1].identity == method | {"single": [{"x": 3.0}]}, "of one class, as before"


def test_a_field_called_model_names_a_tower_too(beside, content):
    folder = beside(own=BLUR.replace("tower:", "model:"))
    change = {"affinity": {"x": {"method": "own:blur", "model": "demo"}}}
    _, graph = planned(folder, content, change, "a\tphoto\tsoftmax\tx\t-\n")
    node = graph.paths["a"]["affinity"]
    assert node.towers.keys() == {"demo"}
    assert node.identity["model"]["round_weights"] == "float16"


def test_an_unknown_tower_is_one_line(beside, content):
    folder = beside(own=BLUR)
    change = {"affinity": {"x": {"method": "own:blur", "tower": "dimo"}}}
    with pytest.raises(InputError, match=r"affinity.x.tower: unknown model `dimo`; did you mean"):
        planned(folder, content, change, "a\tphoto\tsoftmax\tx\t-\n")
    change = {"affinity": {"x": {"method": "caa", "tower": "dimo"}}}
    with pytest.raises(InputError, match=r"affinity.x.tower: unknown model `dimo`; did you mean"):
        planned(folder, content, change, "a\tphoto\tsoftmax\tx\t-\n")
    change = {"masks": {"x": {"refinement": "own:blur", "blur": {"tower": "dimo"}}}}
    with pytest.raises(InputError, match=r"masks.x.blur.tower: unknown model `dimo`; did you mean"):
        planned(folder, content, change, "a\tphoto\tsoftmax\tcaa\tx\n")


def test_code_counts_for_the_entries_that_name_it(beside, content):
    folder = beside(own=BLUR, other=BLUR)
    change = {"affinity": {n: {"method": f"{n}:blur"} for n in ("own", "other")}}
    rows = "a\tphoto\tsoftmax\town\t-\nb\tphoto\tsoftmax\tother\t-\nc\tphoto\tsoftmax\tcaa\t-\n"

    def stamps():
        _, graph = planned(folder, content, change, rows)
        plan = Plan(graph)
        return {name: plan.stamp(path["affinity"])["code"] for name, path in graph.paths.items()}

    before = stamps()
    beside(own=BLUR.replace("settings.sigma", "2 * settings.sigma"))
    after = stamps()
    assert {name for name in before if before[name] != after[name]} == {"a"}


# ---- where modules are found ---------------------------------------------------------------------


def test_what_a_file_beside_the_config_imports_there_counts(beside):
    files = {
        "plug_top": "import helper_top, json\ndef plug_top(context): return helper_top.f()",
        "helper_top": "from parts_top import deep\ndef f(): return 1",
        "parts_top__of__deep": "x = 1",
        "json": "x = 1",
    }
    beside(**files)
    found = [function_fingerprint("plug_top:plug_top")]
    for change in ("helper_top", "parts_top__of__deep"):
        beside(**{change: "y = 2"})
        found.append(function_fingerprint("plug_top:plug_top"))
        beside(**{change: files[change]})
    assert len({*found, function_fingerprint("plug_top:plug_top")}) == len(found)
    beside(json="x = 2")
    assert function_fingerprint("plug_top:plug_top") == found[0], "the installed one is imported"


def test_two_modules_of_one_name_in_two_packages(beside):
    beside(
        one__of____init__="", two__of____init__="",
        one__of__blur="def f(context): return 1", two__of__blur="def f(context): return 2",
    )  # fmt: skip
    assert [method("affinity", f"{name}.blur:f").function(None) for name in ("one", "two")] == [
        1,
        2,
    ]


def test_a_file_beside_the_config_hides_nothing(beside):
    beside(json="raise RuntimeError", torch="raise RuntimeError", clip_wsss="raise RuntimeError")
    code = (
        "from clip_wsss.core.methods import method; method('affinity', 'caa')\n"
        "import json, torch; print(json.dumps(1), torch.__name__)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert (made.returncode, made.stdout) == (0, "1 torch\n"), made.stderr


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def test_the_process_of_a_job_finds_what_lies_beside_the_config(beside, content, tmp_path):
    folder = beside(own=BLUR)
    planned(folder, content, {}, "a\tphoto\tplain\t-\tcrf\n")
    assert str(folder) in json.loads(os.environ[PLUGINS])
    code = "from clip_wsss.core.methods import method; print(method('affinity', 'own:blur').target)"
    made = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False,
    )  # fmt: skip
    assert (made.returncode, made.stdout) == (0, "own:blur\n"), made.stderr


HOSTILE = "from pathlib import Path\nPath(__file__ + '.imported').touch()\n"


def test_libraries_import_nothing_of_what_lies_beside_the_config(beside, tmp_path):
    """Pandas looks for numexpr and bottleneck, the suite for transformers."""
    assert not any(map(importlib.util.find_spec, ("numexpr", "bottleneck", "transformers")))
    helped = "import near\n" + BLUR.replace("def blur", "import numexpr\n\ndef blur")
    folder = beside(
        own=BLUR, helped=helped, near="def far():\n    import farther\n", farther="X = 3",
        numexpr=HOSTILE, bottleneck=HOSTILE, transformers=HOSTILE,
    )  # fmt: skip
    code = """
import importlib.util
from clip_wsss.core.methods import method
method("affinity", "own:blur")
import pandas as pd
import clip_wsss.models.clip as clip
pd.DataFrame({"a": range(9)}).eval("a + a").sum()
assert clip.find_spec("transformers") is None and importlib.util.find_spec("numexpr") is None
"""
    made = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, cwd=folder, env=environment(), check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert not list(folder.glob("*.imported"))
    method("affinity", "helped:blur").function.__globals__["near"].far()
    assert [one.name for one in folder.glob("*.imported")] == ["numexpr.py.imported"], "asked for"


def test_the_resolved_config_finds_what_lay_beside_the_config(beside, content, monkeypatch):
    """Read again from another folder, by a process that knows nothing of the first one."""
    folder = beside(own=BLUR)
    (folder / "mine.pt").write_bytes((ROOT / content["models"]["demo"]["weights"]).read_bytes())
    shape = content["models"]["demo"]["architecture"]
    change = {
        "models": {"mine": {"architecture": shape, "weights": str(folder / "mine.pt")}},
        "affinity": {"mine": {"method": "own:blur", "tower": "mine"}},
    }
    rows = "a\tphoto\tsoftmax\tmine\tcrf,refinement=own:blur,blur.sigma=3\n"
    _, graph = planned(folder, content, change, rows)
    before = {name: path["masks"].key for name, path in graph.paths.items()}
    other = folder.parent / "other/config.yaml"
    other.parent.mkdir()
    other.write_text(dump_yaml(portable(Plan(graph).resolved, keep=True)), encoding="utf-8")
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(folder)])
    monkeypatch.delitem(sys.modules, "own")
    methods._method.cache_clear()
    config = read_config(other)
    assert config.plugins == [str(folder)]
    after = Graph(config, read_runs(config))
    assert {name: path["masks"].key for name, path in after.paths.items()} == before
    with pytest.raises(InputError, match=r"my.yaml: plugins: there is no folder nowhere"):
        load_config({"plugins": ["nowhere"]}, "my.yaml")


BAD = """
import datetime
import enum
from pydantic import BaseModel, ConfigDict, Field
from clip_wsss import Settings

class Undefined(Settings):
    amount: float = float("nan")

class Outside(Settings):
    amount: float = Field(-1.0, gt=0)

class Aliased(Settings):
    amount: float = Field(1.0, alias="alpha")

class Lenient(Settings):
    model_config = ConfigDict(allow_inf_nan=True)
    amount: float = 1.0

class Lost(Settings):
    amounts: list[float] = Field([float("nan")])

class Unbounded(Settings):
    amount: float = Field(float("inf"), allow_inf_nan=True)

class Foreign(BaseModel):
    amount: float = 1.0

class Part(Settings):
    when: datetime.date | None = None

class Raw(Settings):
    content: bytes = b""

class Numbered(Settings):
    weights: dict[int, float] = {}

class Level(enum.Enum):
    ONE = 1

class Levelled(Settings):
    level: Level = Level.ONE

class Outer(Settings):
    part: Foreign = Foreign()

class Deep(Settings):
    part: Part = Part()

def undefined(context, settings: Undefined): ...
def outside(context, settings: Outside): ...
def aliased(context, settings: Aliased): ...
def lenient(context, settings: Lenient): ...
def lost(context, settings: Lost): ...
def unbounded(context, settings: Unbounded): ...
def raw(context, settings: Raw): ...
def numbered(context, settings: Numbered): ...
def levelled(context, settings: Levelled): ...
def outer(context, settings: Outer): ...
def deep(context, settings: Deep): ...
async def later(context): ...
def stream(context):
    yield context
def keyword(*, context): ...
def first(settings: Undefined, context): ...
"""


NAMING = """
from pathlib import Path
from typing import Annotated, Literal
from clip_wsss import Names, Settings
from torch import amax

class Src(Settings):
    tower: Annotated[str, Names("model")] | None = None
    step: Literal[1, 2] | Literal["x"] = 1

class Tuple(Settings):
    srcs: tuple[Src, ...] = ()
    either: Src | list[Src] | None = None
    folder: Annotated[Path, Names("folder")] | None = None

class Mapped(Settings):
    srcs: dict[str, Src] = {}

class Deep(Settings):
    srcs: list[list[Src]] = []

class Several(Settings):
    towers: list[Annotated[str, Names("model")]] = []

class Listed(Settings):
    towers: Annotated[list[str], Names("model")] = []

class Odd(Settings):
    tower: Annotated[str, Names("modle")] | None = None

builtin = min
def tuples(context, settings: Tuple): ...
def mapped(context, settings: Mapped): ...
def deep(context, settings: Deep): ...
def several(context, settings: Several): ...
def listed(context, settings: Listed): ...
def odd(context, settings: Odd): ...
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mapped", r"setting srcs: settings that name something must be by themselves or in a"),
        ("deep", r"setting srcs: settings that name something must be by themselves or in a"),
        ("several", r"setting towers: Names must mark one text; for several, use a list of"),
        ("listed", r"setting towers: Names must mark one text; for several, use a list of"),
        ("odd", r"setting tower: Names must be of cam, target"),
        ("builtin", r"affinity: must take .*; its parameters cannot be read"),
        ("amax", r"affinity: must take .*; its parameters cannot be read"),
    ],
)
def test_names_that_could_not_be_followed_are_refused(beside, name, line):
    beside(naming_bad=NAMING)
    with pytest.raises(InputError, match=line) as error:
        method("affinity", f"naming_bad:{name}")
    assert "\n" not in str(error.value)


def test_names_in_tuples_and_unions_are_followed(beside, content):
    folder = beside(naming_good=NAMING)
    content["models"]["again"] = content["models"]["exact"]

    def node(key, tower):
        said = [{"step": "x"}, {"tower": tower}] if key == "srcs" else {"tower": tower}
        change = {"affinity": {"x": {"method": "naming_good:tuples", key: said}}}
        return planned(folder, content, change, "a\tphoto\tsoftmax\tx\t-\n")[1].paths["a"][
            "affinity"
        ]

    for key in ("srcs", "either"):
        one, again, other = (node(key, tower) for tower in ("exact", "again", "demo"))
        assert one.key == again.key != other.key, key
        assert one.towers.keys() == {"exact"}
    with pytest.raises(InputError, match=r"x.srcs.1.tower: unknown model `nosuch`"):
        node("srcs", "nosuch")


@pytest.mark.parametrize("value", [True, 2.0, 3, "1"])
def test_a_literal_is_of_its_type(beside, value):
    beside(naming_literal=NAMING)
    said = {"method": "naming_literal:tuples", "srcs": [{"step": value}]}
    with pytest.raises(InputError, match=rf"x.srcs.0.step: must be one of .*; got {value}"):
        validated_entry("affinity", said, "x")
    said["srcs"][0]["step"] = 2
    assert validated_entry("affinity", said, "x").srcs[0].step == 2


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("undefined", r"setting amount: its default cannot be \(Input should be a finite number"),
        ("outside", r"setting amount: its default cannot be \(Input should be greater than 0"),
        ("aliased", r"setting amount: must have no alias"),
        ("lenient", r"Lenient.model_config: allow_inf_nan must be False"),
        ("lost", r"setting amounts.0: its default cannot be \(Input should be a finite number"),
        ("unbounded", r"affinity: amount: must be a finite number; got inf"),
        ("raw", r"setting content: a config cannot say bytes; use bool, int, float, str"),
        ("numbered", r"setting weights: a config cannot say dict\[int, float\]; use"),
        ("levelled", r"setting level: a config cannot say Level; use"),
        ("outer", r"setting part: a config cannot say Foreign; use .* or a clip_wsss.Settings"),
        ("deep", r"setting part: setting when: a config cannot say date; use"),
        ("later", r"must be a plain function"),
        ("stream", r"must be a plain function"),
        ("keyword", r"must take \(context\) or \(context, settings\), settings last"),
        ("first", r"must take \(context\) or \(context, settings\), settings last"),
    ],
)
def test_settings_and_functions_that_could_not_work_are_refused(beside, name, line):
    beside(bad=BAD)
    with pytest.raises(InputError, match=line):
        method("affinity", f"bad:{name}")


@pytest.mark.parametrize("end", ["SystemExit", "KeyboardInterrupt"])
def test_a_module_that_ends_the_process_is_one_line(beside, end):
    beside(**{f"ends_by_{end}": f"raise {end}(3)\n"})
    with pytest.raises(InputError, match=rf"cannot be imported \({end}: 3\)"):
        method("affinity", f"ends_by_{end}:blur")


LATER = """
from __future__ import annotations
from functools import partial
from clip_wsss import Settings
builtin = min

class Own(Settings):
    sigma: float = 2.0

class Called:
    def __init__(self, context=None, settings: Own = None): ...
    def __call__(self, context, settings: Own): ...

def full(context, k, settings: Own): ...

instance, part, twice = Called(), partial(full, k=3), partial(partial(Called()), settings=Own())
"""


@pytest.mark.parametrize("name", ["instance", "part", "twice"])
def test_what_is_called_finds_its_annotation_where_it_was_written(beside, name):
    beside(annotated_later=LATER)
    found = method("affinity", f"annotated_later:{name}")
    assert list(found.fields) == ["sigma"]


@pytest.mark.parametrize("name", ["annotated_later:builtin", "torch:amax"])
def test_a_function_whose_parameters_cannot_be_read_is_one_line(beside, name):
    beside(annotated_later=LATER)
    with pytest.raises(InputError, match=f"{name}: affinity: must take .*; its parameters cannot"):
        method("affinity", name)


# ---- what a job gets -----------------------------------------------------------------------------


LOST = """
import os
from typing import Annotated, Any
from pydantic import (
    AfterValidator, Field, PlainSerializer, computed_field, field_serializer, field_validator,
    model_serializer, model_validator,
)
from clip_wsss import Names, Settings

class Excluded(Settings):
    x: float = Field(1.0, exclude=True)

class Rounded(Settings):
    x: float = 1.0
    @field_serializer("x")
    def _short(self, value):
        return float(round(value))

class Short(Settings):
    x: Annotated[float, PlainSerializer(lambda value: float(round(value)))] = 1.0

class Whole(Settings):
    x: float = 1.0
    @model_serializer
    def _short(self):
        return {}

class Nested(Settings):
    inner: Excluded = Excluded()

class Listed(Settings):
    inner: list[Rounded] = []

class Doubled(Settings):
    x: float = 0.0
    @field_validator("x")
    @classmethod
    def _twice(cls, value):
        return 2 * value

class Added(Settings):
    x: Annotated[float, AfterValidator(lambda value: value if value == 1 else value + 1)] = 1.0

class Scaled(Settings):
    x: float = 1.0
    unit: float = 1.0
    @model_validator(mode="before")
    @classmethod
    def _in_units(cls, given):
        return {**given, "x": given.get("x", 1.0) * given.get("unit", 1.0)}

class Mapped(Settings):
    x: Any = 1

class Base(Settings):
    x: float = 1.0

class Sub(Base):
    extra: float = 2.0

class Another(Settings):
    x: float = 1.0

class Default(Settings):
    inner: Base = Sub(extra=7.0)

class DefaultOfList(Settings):
    inner: list[Base] = [Sub()]

class Second(Settings):
    inner: Base | Another = Another()

class Loose(Settings):
    inner: Any = Base()

class Made(Settings):
    x: float = Field(default_factory=lambda: float(os.environ["AMOUNT"]))

class Computed(Settings):
    x: float
    @computed_field
    def y(self) -> float:
        return 2 * self.x

class Within(Settings):
    inner: "Within | None" = None

class Listing(Settings):
    more: "dict[str, list[Listing]]" = {}

class Beside(Settings):
    inner: Annotated[str, Names("affinity", "here")] = "caa"

class Within2(Settings):
    beside: Beside = Beside()

class First(Settings):
    other: "Other | None" = None

class Other(Settings):
    first: First | None = None

class Nowhere(Settings):
    inner: "Missing | None" = None

class Ends(Settings):
    x: float = 1.0
    @field_validator("x")
    @classmethod
    def _end(cls, value):
        raise SystemExit(3)

def excluded(context, settings: Excluded): ...
def rounded(context, settings: Rounded): ...
def short(context, settings: Short): ...
def whole(context, settings: Whole): ...
def nested(context, settings: Nested): ...
def listed(context, settings: Listed): ...
def doubled(context, settings: Doubled): ...
def added(context, settings: Added): ...
def scaled(context, settings: Scaled): ...
def mapped(context, settings: Mapped): ...
def default(context, settings: Default): ...
def default_of_list(context, settings: DefaultOfList): ...
def second(context, settings: Second): ...
def loose(context, settings: Loose): ...
def made(context, settings: Made): ...
def computed(context, settings: Computed): ...
def within(context, settings: Within): ...
def listing(context, settings: Listing): ...
def beside(context, settings: Beside): ...
def within2(context, settings: Within2): ...
def ends(context, settings: Ends): ...
def first(context, settings: First): ...
def other(context, settings: Other): ...
def nowhere(context, settings: Nowhere): ...
"""


@pytest.mark.parametrize(
    ("name", "said", "key"),
    [
        ("excluded", {"x": 2.0}, "x"),
        ("rounded", {"x": 1.2}, "x"),
        ("short", {"x": 1.2}, "x"),
        ("whole", {"x": 2.0}, "x"),
        ("nested", {"inner": {"x": 2.0}}, "inner.x"),
        ("listed", {"inner": [{}, {"x": 1.2}]}, "inner.1.x"),
        ("doubled", {"x": 3.0}, "x"),
        ("added", {"x": 3.0}, "x"),
        ("scaled", {"x": 2.0, "unit": 3.0}, "x"),
        ("mapped", {"x": {1: "a"}}, "x"),
        ("mapped", {"x": [{"a": (1, 2)}]}, "x.0.a"),
    ],
)
def test_settings_that_a_job_would_not_get_are_refused(beside, name, said, key):
    beside(lost=LOST)
    method("affinity", f"lost:{name}")
    with pytest.raises(InputError) as error:
        validated_entry("affinity", {"method": f"lost:{name}", **said}, "affinity.m")
    assert str(error.value).startswith(f"affinity.m.{key}: would be another value in the job")
    with pytest.raises(InputError, match=rf"^masks.m.{name}.{key}: would be another value in the"):
        validated_entry("masks", {"refinement": f"lost:{name}", name: said}, "masks.m")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("default", "default: affinity.inner: would be another value in the job, which reads it"),
        ("default_of_list", "list: affinity.inner.0: would be another value in the job, which"),
        ("second", "second: affinity.inner: would be another value in the job, which reads it"),
        ("loose", "loose: affinity.inner: would be another value in the job, which reads it again"),
        ("made", "setting x: its default must be a value (a list is copied); got a default_fac"),
        ("computed", "computed: affinity: y must be a property; got a computed_field"),
        ("within", "setting inner: Within cannot be within itself; write another class"),
        ("listing", "setting more: Listing cannot be within itself; write another class"),
        ("beside", """setting inner: a method's own settings cannot name a method "here"; leave"""),
        ("within2", "setting beside: setting inner: a method's own settings cannot name a method"),
        ("first", "setting other: setting first: First cannot be within itself; write another"),
        ("other", "setting first: setting other: Other cannot be within itself; write another"),
        ("nowhere", "Nowhere names a class that is not defined in its file (Missing); define it"),
        ("ends", "ends: affinity: the defaults cannot be checked (SystemExit: 3)"),
    ],
)
def test_settings_that_could_not_be_kept_are_refused_when_looked_up(beside, name, line):
    beside(lost_defaults=LOST)
    with pytest.raises(InputError) as error:
        method("affinity", f"lost_defaults:{name}")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


EITHER = """
from typing import Any
from clip_wsss import Settings

class Inner(Settings):
    x: bool | int = 1

class Either(Settings):
    one: bool | int = 1
    real: int | float = 1
    any: Any = 0
    rate: float = 1
    offset: float = 0.0
    many: list[bool | int] = [1, 0]
    group: set[bool | int] = {1}
    by_name: dict[str, bool | int] = {"a": 1}
    inner: Inner = Inner()
    either: Inner | bool = True
    weights: dict[str, float] = {}
    whole: int | float = 10**16

def either(context, settings: Either): ...
"""


def test_values_of_two_types_differ_in_their_keys(beside, content):
    folder = beside(own_either=EITHER)
    said = [
        {}, {"one": True}, {"one": 0}, {"one": False}, {"real": 1.0}, {"real": 2}, {"real": 2.0},
        {"any": False}, {"any": 0.0}, {"any": -0.0}, {"any": [0]}, {"any": [False]},
        {"offset": -0.0}, {"many": [True, 0]}, {"many": [1, False]}, {"many": [1, 0, 0]},
        {"group": [True]}, {"group": [0]}, {"group": [False]}, {"by_name": {"a": True}},
        {"by_name": {"b": 1}}, {"inner": {"x": True}}, {"either": {}}, {"either": {"x": True}},
        {"any": "caf\u00e9"}, {"any": "cafe\u0301"}, {"whole": 1e16}, {"whole": 10**16 + 1},
    ]  # fmt: skip
    entries = {f"e{n}": {"method": "own_either:either", **one} for n, one in enumerate(said)}
    again = {"rate": 1, "one": 1, "many": [1, 0], "group": [1], "inner": {"x": 1}, "offset": 0.0}
    entries["same"] = {"method": "own_either:either", **again}
    rows = "".join(f"{name}\tphoto\tsoftmax\t{name}\t-\n" for name in entries)
    _, graph = planned(folder, content, {"affinity": entries}, rows)
    nodes = {name: graph.paths[name]["affinity"] for name in entries}
    assert nodes["e0"].key == nodes["same"].key
    assert nodes["same"].identity == {"method": "own_either:either"}
    assert len({node.key for node in nodes.values()}) == len(said)


def test_the_order_of_a_mapping_which_is_in_no_key_does_not_reach_the_function(beside):
    beside(own_order=EITHER)
    found = method("affinity", "own_order:either")
    for weights in ({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}):
        given = found.read({"weights": weights, "any": [weights]})
        assert list(given.weights) == list(given.any[0]) == ["a", "b"]


SELF = """
from typing import Annotated
from clip_wsss import Names, Settings

class Self(Settings):
    inner: Annotated[str, Names("refinement")] = "own_self:itself"

class Ping(Settings):
    inner: Annotated[str, Names("refinement")] = "own_self:pong"

class Part(Settings):
    inner: Annotated[str, Names("refinement")] = "own_self:ping"

class Pong(Settings):
    part: Part = Part()

def itself(context, settings: Self): ...
def ping(context, settings: Ping): ...
def pong(context, settings: Pong): ...
"""


def test_a_method_that_names_itself_by_default_is_one_line(beside):
    beside(own_self=SELF)

    def entry(name, own=None):
        said = {"refinement": f"own_self:{name}"} | ({name: own} if own else {})
        return validated_entry("masks", said, "m")

    for name in ("itself", "ping", "pong"):
        with pytest.raises(InputError, match=r"^m\.[a-z.]+: own_self:\w+: names itself by default"):
            entry(name)
    with pytest.raises(InputError, match=r"^m\.itself\.\S*inner: own_self:itself: names itself"):
        entry("itself", {"itself": {"itself": {}}})
    nested = {"inner": "own_self:itself", "itself": {"inner": "crf", "crf": {"iterations": 3}}}
    assert entry("itself", nested).itself.itself.crf.iterations == 3
    assert entry("pong", {"part": {"inner": "crf"}}).pong.part.crf.iterations == 10


@pytest.mark.parametrize(
    "name",
    ["model_dump", "__init__", "_hidden", "copy", "json", "schema", "used", "model_config", "mro"],
)
def test_a_function_with_a_name_that_settings_have_is_one_line(beside, name):
    text = BLUR.replace("def blur(", f"def {name}(")
    beside(**{f"named_as_{name.strip('_')}": text})
    target = f"named_as_{name.strip('_')}:{name}"
    line = f"masks.x.refinement: {target}: its function must have another name"
    with pytest.raises(InputError, match=line):
        validated_entry("masks", {"refinement": target}, "masks.x")
    assert validated_entry("affinity", {"method": target}, "x").sigma == 2, "beside, no key of it"


@pytest.mark.parametrize("end", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_a_check_of_settings_that_ends_the_process_is_one_line(beside, end):
    name = f"checks_{end}"
    text = BLUR.replace("sigma: float = Field(2.0, gt=0, le=9)", "sigma: float = 2.0")
    text = text.replace(
        "def blur",
        f"""
    @field_validator("sigma")
    @classmethod
    def _end(cls, value):
        if value == 3:
            raise {end}(3)
        return value

def blur""",
    ).replace("import Field", "import field_validator")
    beside(**{name: text})
    said = {"method": f"{name}:blur", "sigma": 3.0}
    with pytest.raises(InputError, match=rf"x: the settings cannot be checked \({end}: 3\)"):
        validated_entry("affinity", said, "x")
