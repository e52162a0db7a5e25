"""The package's shape: arrows go down only, no cycles, and heavy libraries in their places."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import clip_wsss

ROOT = Path(clip_wsss.__file__).parent
# From the bottom up; a package imports those before it. Methods that load their heavy half when
# they are called (labels, losses) are below `segmentation`, which names them.
ORDER = [
    "core", "data", "acquire", "models", "prompts", "cams", "affinities", "masks", "tags", "demo",
    "labels", "losses", "segmentation", "runs", "score", "tables", "report", "api", "parity",
    "compare", "export", "pictures", "doctor", "cli", "__main__",
]  # fmt: skip
PLACES = {  # a library -> who may import it
    "open_clip": ("models", "demo"),
    "timm": ("models",),
    "skimage": ("affinities",),
    "mmseg": ("segmentation",),
    "mmcv": ("segmentation",),
    "mmengine": ("segmentation",),
    "pydensecrf": ("masks",),
    "snakemake": (),
    "matplotlib": ("report",),
    "jinja2": ("report",),
    "pycocotools": ("data", "acquire"),
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        if "project" not in path.relative_to(ROOT).parts[:1]:
            parts = path.relative_to(ROOT.parent).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def _imports(node: ast.AST) -> Iterator[str]:
    """Names that are imported when a module is: not for types, not within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.ImportFrom) and child.level == 0:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        yield from _imports(child)


MODULES = _modules()


def _module_of(name: str) -> str:
    """The module that an imported name is, or lies in."""
    return name if name in MODULES else name.rpartition(".")[0]


GRAPH = {
    name: {_module_of(one) for one in _imports(ast.parse(path.read_bytes()))}
    & MODULES.keys() - {name, "clip_wsss"}
    for name, path in MODULES.items()
}


def _package(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def test_every_package_has_its_floor():
    assert {_package(name) for name in MODULES} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_arrows_go_down(name):
    if _package(name) == "__init__":
        return
    floor = ORDER.index(_package(name))
    above = [other for other in GRAPH[name] if ORDER.index(_package(other)) > floor]
    assert not above, f"{name} imports {above}"


def test_there_is_no_cycle():
    left = {name: set(known) for name, known in GRAPH.items()}
    while free := [name for name, known in left.items() if not known & left.keys()]:
        for name in free:
            del left[name]
    assert not left


@pytest.mark.parametrize("library", PLACES)
def test_a_heavy_library_has_one_place(library):
    for name, path in MODULES.items():
        tree = ast.walk(ast.parse(path.read_bytes()))
        named = {
            wanted.split(".")[0]
            for node in tree
            for wanted in (
                [node.module or ""] if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else []
            )
        }  # fmt: skip
        assert library not in named or _package(name) in PLACES[library], name


# What the terminal waits for, figures and tables, and readers of maps.
LIGHT = [
    "cli", "api", "compare", "runs.plan", "runs.provenance", "tables.write", "tables.costs",
    "score.bootstrap", "score.calibration", "score.metrics", "core.maps", "masks.write",
    "cams.passes",
]  # fmt: skip


def test_plans_tables_and_the_command_load_no_torch():
    code = (
        "import sys\nfrom importlib import import_module\n"
        f"for name in {LIGHT}:\n"
        "    import_module(f'clip_wsss.{name}')\n"
        "    heavy = {'torch', 'mmseg', 'matplotlib', 'open_clip'} & sys.modules.keys()\n"
        "    assert not heavy, (name, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_itself_loads_nothing():
    code = (
        "import sys, clip_wsss; assert not {'torch', 'numpy', 'cv2'} & sys.modules.keys(); "
        "clip_wsss.segment; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
