"""Small faults put into the modules that make numbers, one at a time: does a test notice?

    python benchmarks/mutants.py [MODULE ...] [--most 12] [--seed 0] [--workers 2] [--quick]

A mutant is a module with one place changed: a comparison, an operator, a number, a truth value, a
condition, a minimum for a maximum, a statement or a returned value left out. Messages, annotations
and logs are left alone. It is written into a temporary copy of `src`, never into `src` itself,
and the tests of TESTS that mirror the module are run; if all pass, those of its whole package and
of the settings. What passes these too has survived and is printed, `file:line: old -> new`. It
either gets a test with a known answer, or is named here with its reason:

- sizes of batches and chunks, threads, processes, memory estimates, what is let go or is made one
  by one (BATCH, AHEAD, _CHUNK, READERS, BATCH_BYTES, HELD of a view, `made.clear()`, `close`,
  `shares`, `batch is None`, `load` of towers, when pydensecrf takes over from torch): they change
  the time and what fits, not the numbers;
- floors that keep from dividing by 0 (1e-8, 1e-9, 1e-12, 1e-30, 1 pixel, `_or_one` of Sinkhorn,
  where 0 is divided; the `initial` of a minimum), 0 / 0 for NaN, and minima of numbers that only
  rounding puts beyond them (`clamp`): equal within float noise;
- the 1 of CDA's 1 - JS: a softmax takes out what all have;
- a table longer than the values in it (`1 << 16`, `IGNORE + 1`, `label.max() + 1`);
- `reshape(-1, n)`: to numpy any negative number is the one that fits; the `reshape` of the inverse
  of `np.unique`, which some versions of numpy flatten;
- `max(step)` in `diffused` of PAR: of the outermost step both parts are the same;
- `//` before a cast to int, and when a k-means ends: it is at rest before;
- a dimension counted from the other end; which constant keys and values are shifted by on the way
  back through the last block;
- the power that labels, which have none, are read again at; `repr=False` of fields;
- -1 for the mIoU of a power without ground truth: then no power has any;
- `fillna(0)` and `predicted`'s `fill_value` of the breakdown: times no pixel, or under no hit;
- `MUS` of the calibration: which points the report shows;
- float32 of `mu`: torch compares with it in float32 anyway; what is summed over processes, beside
  the part with the gradient (`Pixels.mean`): of one process they are equal, and two are tried by
  `test_two_processes_equal_one`;
- what `kept` of SSR is before its first look, the place of which `maps` of WeCLIP takes its shape
  from, the case of a message's first letter.
"""

import argparse
import ast
import contextlib
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import cache_from_source
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, UNIT = ROOT / "src" / "clip_wsss", ROOT / "tests" / "unit"
# Module, or folder of modules -> what pytest runs first, its paths those below tests/unit.
TESTS = {
    "affinities": "affinities masks/test_refine.py -k 'not refused'",
    "cams": "cams -k 'twin or saturated or keeps or method or background_words or one_forward'",
    "core/confidence.py": "core/test_confidence.py",
    "core/maps.py": "core/test_maps.py masks/test_masks.py -k 'not without_torch and not batches'",
    "core/progress.py": "core/test_progress.py",
    "labels": "labels segmentation/test_ssr_training.py segmentation/test_weclip_parity.py -k "
    "'cmpa or gradcam or affinity or tower or clusters or losses_reach or boxes or online_labels "
    "or twelve or filter or pseudo_label or final_labels or prototypes or its_place'",
    "labels/weclip.py": "segmentation/test_weclip_training.py segmentation/test_ssr_training.py -k "
    "'counter or labels_change or final_labels'",
    "labels/weclip_labels.py": "segmentation/test_weclip_parity.py "
    "segmentation/test_weclip_training.py -k 'boxes or online_labels or twelve or filter or "
    "pseudo_label or labels_change'",
    "labels/online.py": "segmentation/test_weclip_training.py runs/test_graph.py -k 'checked or "
    "one_class or of_ones or labellers'",
    "losses": "segmentation/test_segmentation_losses.py",
    "masks/context.py": "masks/test_towers.py -k 'sees or no_tower'",
    "masks/refinements/crf.py": "masks/test_refine.py masks/test_masks.py -k 'crf or wrapped or "
    "unary or backend or fallback'",
    "masks/refinements/pamr.py": "masks/test_pamr.py",
    "masks/refinements/par.py": "masks/test_weclip_par.py",
    "masks/refinements/sepl.py": "masks/test_sepl.py",
    "masks/torch_crf.py": "masks/test_fast_crf.py -k 'torch_of_saturated or torch_falls or "
    "both_sides'",
    "masks/write.py": "masks/test_masks.py",
    "models/last_block.py": "models/test_last_block.py",
    "models/layers.py": "models/test_layers.py models/test_last_block.py",
    "runs/sidecar.py": "runs/test_sidecar.py runs/test_jobs.py",
    "score/bootstrap.py": "score/test_bootstrap.py -k 'not covers'",
    "score/breakdown.py": "score/test_breakdown.py",
    "score/calibration.py": "score/test_calibration.py",
    "score/changes.py": "score/test_changes.py",
    "score/confusion.py": "score/test_confusion.py",
    "score/folders.py": "score/test_folders.py",
    "score/measurements.py": "test_compare.py tables/test_tables.py -k 'figures_are or intervals "
    "or seeds or oracle or power or missing_measurement or only_common or gain or itself'",
    "score/metrics.py": "score/test_metrics.py score/test_confusion.py",
    "segmentation/losses.py": "segmentation/test_segmentation_losses.py",
    "tables/costs.py": "tables/test_tables.py -k 'costs or elapsed'",
}
SWAPPED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
PAIRS = [("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("any", "all")]
OTHER = dict(PAIRS) | {b: a for a, b in PAIRS}


@dataclass
class Mutant:
    """A module with one place changed."""

    module: str
    line: int
    old: str
    new: str
    text: str  # of the whole module

    def __str__(self):
        return f"src/clip_wsss/{self.module}:{self.line}: {self.old} -> {self.new}"


def variants(node):
    """What a node of the syntax tree is replaced by, each a mutant."""
    match node:
        case ast.Compare(left, [op], right) if type(op) in SWAPPED:
            yield ast.Compare(left, [SWAPPED[type(op)]()], right)
        case ast.BinOp(left, op, right) if type(op) in SWAPPED:
            yield ast.BinOp(left, SWAPPED[type(op)](), right)
        case ast.AugAssign(target, op, value):
            yield ast.Pass()
            if type(op) in SWAPPED:
                yield ast.AugAssign(target, SWAPPED[type(op)](), value)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(SWAPPED[type(op)](), values)
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), value):
            yield value
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(float() as value):
            yield ast.Constant(value * 1.25 or 1.0)
        case ast.Name(name, ast.Load()) if name in OTHER:
            yield ast.Name(OTHER[name], ast.Load())
        case ast.Attribute(value, name, ast.Load()) if name in OTHER:
            yield ast.Attribute(value, OTHER[name], ast.Load())
        case ast.Return(value) if not (value is None or ast.unparse(value) == "None"):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call()) | ast.Continue():
            yield ast.Pass()
        case ast.Assign([ast.Subscript() | ast.Attribute()]):
            yield ast.Pass()
        case ast.Assign([ast.Name(name)], value):  # of what it had been before
            if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(value)):
                yield ast.Pass()
        case ast.If(test, body, rest) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, rest)
        case ast.IfExp(test, body, rest) if isinstance(test, ast.Name | ast.Attribute | ast.Call):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, rest)


def places(node):
    """Nodes that make numbers: no messages, annotations, types, logs, guards or settings."""
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in field if isinstance(field, list) else [field]:
            match child:
                case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.keyword("strict"):
                    continue
                case ast.If(ast.Name("TYPE_CHECKING")) | ast.Call(ast.Name("Field")):
                    continue
                case ast.Subscript(ast.Name("Literal" | "Callable" | "Annotated")):
                    continue
                case ast.Expr(ast.Call(ast.Attribute(ast.Name("_log" | "logging")))):
                    continue
                case ast.AST():
                    yield child
                    yield from places(child)


class Replaced(ast.NodeTransformer):
    """Puts a node in the place of another."""

    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        """Replace the one, go on below the others."""
        return self.new if node is self.old else self.generic_visit(node)


def mutants(module, most, seed):
    """Some mutants of a module, a path below src/clip_wsss, and how many there are."""
    tree = ast.parse((PACKAGE / module).read_text())
    found = [(node, new) for node in places(tree) for new in variants(node)]
    chosen = random.Random(f"{seed} {module}").sample(found, min(most, len(found)))
    made = []
    for node, new in chosen:
        old_line, new_line = (ast.unparse(one).split("\n")[0] for one in (node, new))
        Replaced(node, new).visit(tree)
        text = ast.unparse(ast.fix_missing_locations(tree))
        Replaced(new, node).visit(tree)
        made.append(Mutant(module, node.lineno, old_line, new_line, text))
    return made, len(found)


def copied():
    """A copy of src, with what is compiled, in a folder that is taken away: a worker's own."""
    global copy, folder
    folder = tempfile.TemporaryDirectory(prefix="mutants-")
    copy = shutil.copytree(ROOT / "src", Path(folder.name) / "src")


def import_libraries(modules):
    """Import what the modules import, but for the package itself, which a copy gives."""
    sys.path.insert(0, str(ROOT / "src"))
    own = ["clip_wsss." + name.removesuffix(".py").replace("/", ".") for name in modules]
    for name in ("pytest", "hypothesis", *own):
        import_module(name)
    sys.path.pop(0)
    for name in [name for name in sys.modules if name.split(".")[0] == "clip_wsss"]:
        del sys.modules[name]
    for module in ("mmengine.registry", "mmseg.registry"):  # in which a name can be used once
        for registry in vars(sys.modules.get(module, object)).values():
            if isinstance(names := getattr(registry, "module_dict", None), dict):
                for name in [n for n in names if names[n].__module__.startswith("clip_wsss.")]:
                    del names[name]


def run_tests(tests, timeout):
    """Run tests on the copy, in the process that this is called in, and end it."""
    os.setsid()  # what they start ends with them
    resource.setrlimit(resource.RLIMIT_CPU, (timeout, timeout))
    sys.dont_write_bytecode = True  # a mutant may have the size and the second of the last
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(copy))
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not long"]
    paths = {word: str(UNIT / word) for word in tests if (UNIT / word).exists()}
    os._exit(pytest.main([*options, *(paths.get(word, word) for word in tests)]))


def passes(tests, timeout):
    """Whether tests pass in a fork of this process, which has imported what takes long."""
    process = get_context("fork").Process(target=run_tests, args=(tests, timeout))
    process.start()
    process.join(10 * timeout)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == 0


def first(module):
    """What of TESTS mirrors a module."""
    return shlex.split(TESTS.get(module) or TESTS[module.split("/")[0]])


def survives(mutant, timeout, quick):
    """Whether no test notices a mutant."""
    path = copy / "clip_wsss" / mutant.module
    whole = path.read_text()
    path.write_text(mutant.text)
    Path(cache_from_source(str(path))).unlink(missing_ok=True)
    try:
        return passes(first(mutant.module), timeout) and (
            quick or passes([mutant.module.split("/")[0]], timeout)
        )
    finally:
        path.write_text(whole)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", help="such as masks/write.py; default: all of TESTS")
    parser.add_argument("--most", type=int, default=12, help="mutants a module, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--timeout", type=int, default=120, help="CPU seconds; what takes more hangs"
    )
    parser.add_argument("--quick", action="store_true", help="the tests of TESTS only")
    options = parser.parse_args()
    modules = [
        path.relative_to(PACKAGE).as_posix()
        for name in options.modules or TESTS
        for path in sorted((PACKAGE / name).rglob("*.py")) or [PACKAGE / name]
    ]
    chosen = []
    for module in modules:
        made, found = mutants(module, options.most, options.seed)
        chosen += made
        print(f"{module}: {len(made)} of {found}", flush=True)
    import_libraries(modules)
    print(f"{len(chosen)} mutants", flush=True)
    left = 0
    with ProcessPoolExecutor(options.workers, get_context("fork"), copied) as pool:
        whole = sorted({tuple(first(module)) for module in modules})
        for tests, good in zip(
            whole, pool.map(passes, whole, repeat(options.timeout)), strict=True
        ):
            if not good:
                print(f"{' '.join(tests)}: fails without any mutant, so its modules are left out")
                chosen = [one for one in chosen if tuple(first(one.module)) != tests]
        ends = pool.map(survives, chosen, repeat(options.timeout), repeat(options.quick))
        for number, (mutant, alive) in enumerate(zip(chosen, ends, strict=True), 1):
            left += alive
            if alive or number % 10 == 0:
                print(mutant if alive else f"{number} of {len(chosen)}", flush=True)
    print(f"{len(chosen) - left} killed, {left} survive")


if __name__ == "__main__":
    main()
