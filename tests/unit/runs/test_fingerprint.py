import json
import shutil
import sys
from pathlib import Path

import pytest

from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import PLUGINS
from clip_wsss.runs import fingerprint
from clip_wsss.runs.fingerprint import code_fingerprint, function_fingerprint, module_files

MODULE = """
import os

LIMIT = 3


class Target:
    power: float = 1.0

    def __call__(self, x, scale=2):
        return scale * x + LIMIT


def name(path):
    return os.path.basename(path) + "x"
"""


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes modules where Python finds them; none of them is ever imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(**files):
        named = {name.replace("__of__", "/") + ".py": text for name, text in files.items()}
        write(tmp_path, named)
        return tmp_path

    yield add
    assert not {"plug", "plugs"} & set(sys.modules)


def of(text, plugin):
    plugin(plug=text)
    return function_fingerprint("plug:Target")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 3  # a comment"),
        ("import os", '"""What it is for."""\nimport os'),
        ("LIMIT = 3", 'LIMIT = 3\n"""The limit."""'),
        ("class Target:", 'class Target:\n    """A target."""\n'),
        ("scale=2):", 'scale=2):\n        """Return it."""'),
        ("scale * x + LIMIT", "(\n            (scale * x)\n            + LIMIT\n        )"),
        ('"x"', "'x'"),
        ('"x"', 'u"x"'),
        ("LIMIT = 3", "LIMIT = 0x3"),
        ("def name(path):", "def name(\n    path,\n):"),
        ("import os", 'import os\n\n__version__ = "2.0"'),
    ],
)
def test_what_changes_no_meaning_leaves_the_fingerprint(old, new, plugin):
    assert old in MODULE
    before = of(MODULE, plugin)
    assert of(MODULE.replace(old, new), plugin) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", "LIMIT = True"),
        ("LIMIT = 3", "LIMIT: int = 3"),
        ("LIMIT = 3", "LIMIT = '3'"),
        ("scale * x", "scale - x"),
        ("scale * x", "scale * scale"),
        ("scale * x + LIMIT", "scale * (x + LIMIT)"),
        ("scale=2", "scale=3"),
        ("scale=2", "scale"),
        ("scale=2", "*, scale=2"),
        ("def name", "def names"),
        ('"x"', '"y"'),
        ('"x"', 'b"x"'),
        ("import os", "import os as os2"),
        ("power: float", "power: int"),
        ("        return scale", "        scale = 1\n        return scale"),
        ("import os", "import os\n\n__version__ = os.name"),
    ],
)
def test_what_changes_the_meaning_changes_the_fingerprint(old, new, plugin):
    assert old in MODULE
    before = of(MODULE, plugin)
    assert of(MODULE.replace(old, new), plugin) != before


def test_a_docstring_may_be_all_that_a_body_holds(plugin):
    first = of('class A(Exception):\n    """One."""\n', plugin)
    assert of('class A(Exception):\n    """Two."""\n', plugin) == first
    assert of("class A(Exception):\n    pass\n", plugin) == first
    assert of("class A(Exception):\n    b = 1\n", plugin) != first


def test_a_deleted_tuple_is_what_its_names_are(plugin):
    assert of("a = b = 1\ndel (a, b)", plugin) == of("a = b = 1\ndel a, b", plugin)
    assert of("a = b = 1\ndel (b, a)", plugin) != of("a = b = 1\ndel a, b", plugin)


def test_a_module_is_made_of_what_it_imports(plugin):
    plugin(
        plugs__of____init__="",
        plugs__of__a="import numpy\nfrom plugs.b import x\n",
        plugs__of__b="def f():\n    try:\n        from .part import c\n    except E: pass\n",
        plugs__of__part__of____init__="from ..helper import h\n",
        plugs__of__part__of__c="import plugs.a\nfrom . import d\nfrom .e import *\n",
        plugs__of__part__of__d="from clip_wsss.core import errors\n",
        plugs__of__part__of__e="",
        plugs__of__helper="if not TYPE_CHECKING:\n    import plugs.late\n",
        plugs__of__late="",
        plugs__of__typed="if TYPE_CHECKING:\n    import plugs.a\nelse:\n    import plugs.late",
        plugs__of__other="",
    )
    found = {name for name in module_files("plugs.a") if name.startswith("plugs")}
    names = "a b part part.c part.d part.e helper late"
    assert found == {"plugs", *(f"plugs.{name}" for name in names.split())}
    assert "clip_wsss.core.errors" in module_files("plugs.a"), "the suite's own code counts too"
    assert set(module_files("plugs.typed")) == {"plugs", "plugs.typed", "plugs.late"}


def test_the_packages_and_the_imports_of_a_module_count(plugin):
    plugin(plugs__of____init__="", plugs__of__a="from plugs import b", plugs__of__b="x = 1")
    before = function_fingerprint("plugs.a:f")
    plugin(plugs__of__b="x = 2")
    changed = function_fingerprint("plugs.a:f")
    plugin(plugs__of____init__="y = 1", plugs__of__b="x = 1")
    assert len({before, changed, function_fingerprint("plugs.a:f")}) == 3
    plugin(plugs__of____init__="")
    assert function_fingerprint("plugs.a:f") == before


def test_the_neighbours_of_a_file_beside_the_config_count(plugin, monkeypatch):
    neighbours = {"plug_near": "import plug_far.part\nX = 1", "plug_far__of__part": "Y = 1"}
    folder = plugin(plug="import json, numpy\nfrom plug_near import X\n", **neighbours)
    assert not any("plug_" in name for name in module_files("plug")), "of an installed package"
    monkeypatch.setenv(PLUGINS, json.dumps([str(folder)]))
    named = [name for name in module_files("plug") if not name.startswith("clip_wsss")]
    assert named == ["plug", "plug_far.part", "plug_near"]
    before = function_fingerprint("plug:f")
    plugin(plug_far__of__part="Y = 2")
    assert function_fingerprint("plug:f") != before
    plugin(**neighbours)
    assert function_fingerprint("plug:f") == before


def test_a_library_of_some_methods_counts_for_those_that_import_it(plugin, monkeypatch):
    plugin(plugs__of__a="def f():\n    from skimage.color import rgb2lab", plugs__of__b="x = 1")
    before = [function_fingerprint(f"plugs.{one}:f") for one in "ab"]
    monkeypatch.setattr(fingerprint, "_version", lambda library: f"99 of {library}")
    after = [function_fingerprint(f"plugs.{one}:f") for one in "ab"]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]


def test_a_package_without_init_and_a_package_itself(plugin):
    plugin(plugs__of__part__of__a="from . import b", plugs__of__part__of__b="")
    assert set(module_files("plugs.part.a")) == {"plugs.part.a", "plugs.part.b"}
    plugin(plugs__of__part__of____init__="from plugs.part import b")
    assert set(module_files("plugs.part")) == {"plugs.part", "plugs.part.b"}


def test_cams_depend_on_the_gradients_and_tables_on_no_model():
    cams = module_files("clip_wsss.cams.passes")
    assert {"clip_wsss.cams.backward", "clip_wsss.cams.context", "clip_wsss"} <= set(cams)
    assert not [name for name in cams if name.startswith("clip_wsss.masks")]
    for package in ("affinities", "cams.targets", "losses", "masks.refinements"):
        own = [name for name in cams if name.startswith(f"clip_wsss.{package}.")]
        assert not own, "a method costs those nothing that do not name it"
    assert "clip_wsss.segmentation.train" not in module_files("clip_wsss.tables.write")
    assert "clip_wsss.segmentation.losses" in module_files("clip_wsss.segmentation.train")


def test_modules_scripts_and_libraries_count(tmp_path, monkeypatch):
    write(tmp_path, {"a/job.py": "x = 1  # one", "b/job.py": "x = 1", "b/other.py": "x = 2"})

    def of_script(name):
        return code_fingerprint("cams.passes", scripts=[tmp_path / name])

    assert len(code_fingerprint("cams.passes")) == 16
    assert code_fingerprint("segmentation/train") == code_fingerprint("segmentation.train")
    assert code_fingerprint("cams.passes", "masks.write") == code_fingerprint(
        "masks.write", "cams.passes"
    )
    assert of_script("a/job.py") == of_script("b/job.py") != of_script("b/other.py")

    versions = {"lib": "1.2.3+cpu"}
    monkeypatch.setattr(fingerprint.metadata, "version", lambda name: versions[name])

    def of_library(version):
        fingerprint._version.cache_clear()
        versions["lib"] = version
        return code_fingerprint("core.errors", libraries=["lib"])

    assert of_library("1.2.3+cpu") == of_library("1.2.9") != of_library("1.3.3")
    assert of_library("1.2.3") != code_fingerprint("core.errors")
    fingerprint._version.cache_clear()


def test_a_missing_library_counts_as_missing():
    assert code_fingerprint("core.errors", libraries=["not-there"]) != code_fingerprint(
        "core.errors"
    )


def test_a_moved_checkout_changes_nothing(tmp_path, monkeypatch):
    package = Path(fingerprint.__file__).parents[1]
    before = code_fingerprint("tables.write")
    shutil.copytree(package, tmp_path / "elsewhere/clip_wsss")
    spec = fingerprint.importlib.util.spec_from_file_location(
        "clip_wsss",
        tmp_path / "elsewhere/clip_wsss/__init__.py",
        submodule_search_locations=[str(tmp_path / "elsewhere/clip_wsss")],
    )
    monkeypatch.setattr(sys.modules["clip_wsss"], "__spec__", spec)
    moved = module_files("clip_wsss.tables.write")
    assert all(path.is_relative_to(tmp_path) for path in moved.values())
    assert code_fingerprint("tables.write") == before
    with (tmp_path / "elsewhere/clip_wsss/core/errors.py").open("a") as file:
        file.write("X = 1\n")
    assert code_fingerprint("tables.write") != before


@pytest.mark.parametrize("name", ["nothing", "nothing.at.all", "clip_wsss.nothing", "", "sys"])
def test_an_unknown_module_is_an_error(name):
    with pytest.raises(InputError, match="no Python source found; install the package"):
        module_files(name)


def test_code_that_cannot_be_read_is_an_error(plugin, tmp_path):
    with pytest.raises(InputError, match=r"plug\.py: not valid Python \(.*\); correct it"):
        of("x = (", plugin)
    with pytest.raises(InputError, match=r"gone\.py: cannot be read"):
        code_fingerprint(scripts=[tmp_path / "gone.py"])
