"""What code means, in 16 hex digits, so that a comment, a format or a checkout computes nothing.

A module counts by its syntax tree, without positions, comments and docstrings, together with all
that it imports from its own package, from files beside the config and from the suite. Modules are
found without being imported; what is imported by a name that is computed
(`importlib.import_module(name)`) is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from clip_wsss.core.errors import InputError
from clip_wsss.core.methods import folders_beside

SUITE = "clip_wsss"
LIBRARIES = {"skimage": "scikit-image"}  # of some methods only: what they import -> distribution


class _Source(NamedTuple):
    """What a file says: the digest of its meaning, and what it imports as (level, dotted name)."""

    meaning: str
    imports: frozenset[tuple[int, str]]


def code_fingerprint(
    *modules: str, scripts: Sequence[Path] = (), libraries: Sequence[str] = ()
) -> str:
    """Return 16 hex digits that change with what some code does, and with nothing else.

    Args:
        modules: names below the package, as `cam` or `segmentation.train`; each counts with all
            that it imports from the package.
        scripts: files that count by themselves, without what they import.
        libraries: distributions that count with the first two numbers of their version; one that
            is not installed counts as missing.

    Raises:
        InputError: a module or a script is missing, or is not valid Python.
    """
    files: dict[str, Path] = {}
    for module in modules:
        files |= module_files(f"{SUITE}.{module.replace('/', '.')}")
    parts = [f"module {name} {_source(path).meaning}" for name, path in files.items()]
    parts += [f"script {Path(path).name} {_source(Path(path)).meaning}" for path in scripts]
    parts += [f"library {name} {_version(name)}" for name in libraries]
    return _digest(parts)


def function_fingerprint(function: str) -> str:
    """Return the same of the module behind a dotted `package.module:function`, a method.

    Raises:
        InputError: the module is not installed, or is not valid Python.
    """
    sources = {name: _source(path) for name, path in module_files(function.split(":")[0]).items()}
    imports = {name.split(".")[0] for one in sources.values() for _, name in one.imports}
    parts = [f"module {name} {one.meaning}" for name, one in sources.items()]
    parts += [
        f"library {LIBRARIES[name]} {_version(LIBRARIES[name])}"
        for name in sorted(imports & LIBRARIES.keys())
    ]
    return _digest(parts)


def module_files(module: str) -> dict[str, Path]:
    """Return the files of a module and of what it imports from its package, the suite, or beside.

    What lies in the folders beside configs counts, whichever module imports it.
    Imports within functions count, those for types only (`if TYPE_CHECKING:`) do not; a package
    counts (its `__init__`) with each module of it.

    Args:
        module: full dotted name, as `clip_wsss.cams.passes` or `plugin.targets`.

    Returns:
        Paths by dotted name, sorted.

    Raises:
        InputError: there is no Python source of that name, or it is not valid Python.
    """
    if _file(module) is None and not _folders(module):
        raise InputError(
            f"{module}: no Python source found; install the package or correct the name"
        )
    own = {module.split(".")[0]: True, SUITE: True}
    waiting, seen = [module], set()
    found: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        top = name.split(".")[0]
        if top not in own:
            own[top] = _is_beside(top)
        if name in seen or not own[top]:
            continue
        seen.add(name)
        file = _file(name)
        waiting.append(name.rpartition(".")[0] or name)  # packages run before their modules do
        if file is not None:
            found[name] = file
            waiting += _imported(name, file)
    return dict(sorted(found.items()))


def _imported(name: str, file: Path) -> Iterator[str]:
    """Dotted names that a module imports; some may be names in a module and no modules."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for level, imported in _source(file).imports:
        if level:
            parents = package.split(".")
            base = parents[: len(parents) - level + 1]
            yield ".".join([*base, imported] if imported else base)
        else:
            yield imported


def _file(name: str) -> Path | None:
    """The source of a module or package; None where there is none."""
    top, _, rest = name.partition(".")
    if not rest:
        origin = _spec(top)[0]
        return Path(origin) if origin is not None and origin.endswith(".py") else None
    for folder in _folders(top):
        path = folder.joinpath(*rest.split("."))
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None


def _folders(name: str) -> list[Path]:
    """The folders of a package, one but for namespace packages."""
    top, *rest = name.split(".")
    folders = [Path(folder).joinpath(*rest) for folder in _spec(top)[1]]
    return [folder for folder in folders if folder.is_dir()]


def _spec(top: str) -> tuple[str | None, list[str]]:
    """The file and the folders of a top-level name (of others, find_spec imports the parents)."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # an empty name, or a module that was made by hand
        spec = None
    if spec is None:
        return None, []
    return spec.origin, list(spec.submodule_search_locations or ())


def _is_beside(top: str) -> bool:
    """Whether a top-level name is that of a file or a folder beside a config."""
    origin, folders = _spec(top)
    return any(str(Path(one).parent) in folders_beside() for one in folders or [origin or top])


def _source(path: Path) -> _Source:
    try:
        text = path.read_bytes()
    except OSError:
        raise InputError(f"{path}: cannot be read; put the file back") from None
    try:
        found = _parse(text)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not valid Python ({error}); correct it") from None
    native = path.with_suffix(".cpp")  # what a module of this name calls counts with it, as it is
    if native.is_file():
        meaning = found.meaning + hashlib.sha256(native.read_bytes()).hexdigest()
        return found._replace(meaning=meaning)
    return found


@cache  # by content: a file that changes within the process is read again
def _parse(text: bytes) -> _Source:
    tree = ast.parse(text)
    pieces: list[str] = []
    _write(tree, pieces)
    meaning = hashlib.sha256("".join(pieces).encode()).hexdigest()
    return _Source(meaning, frozenset(_imports(tree)))


def _imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        yield node.level, base
        for alias in node.names:
            yield node.level, f"{base}.{alias.name}".lstrip(".")
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in (
        getattr(node.test, "id", None),
        getattr(node.test, "attr", None),
    ):
        for statement in node.orelse:
            yield from _imports(statement)
    elif not isinstance(node, ast.expr):
        for child in ast.iter_child_nodes(node):
            yield from _imports(child)


def _write(node: object, pieces: list[str]) -> None:
    """Write a tree down, the same in every version of Python: absent fields are left out."""
    if isinstance(node, list):
        pieces.append("[")
        for item in node:
            if not _says_nothing(item):
                _write(item, pieces)
                pieces.append(",")
        pieces.append("]")
    elif isinstance(node, ast.Constant):  # without `kind`: u"x" is "x"
        pieces.append(ascii(node.value))
    elif isinstance(node, ast.AST):
        pieces.append(f"{type(node).__name__}(")
        for field in node._fields:
            value: Any = getattr(node, field, None)
            if isinstance(node, ast.Delete) and isinstance(value[0], ast.Tuple):
                value = value[0].elts if len(value) == 1 else value  # del (a, b) is del a, b
            if value is not None and value != []:
                pieces.append(f"{field}=")
                _write(value, pieces)
                pieces.append(",")
        pieces.append(")")
    else:
        pieces.append(ascii(node))


def _says_nothing(node: object) -> bool:
    """Whether a statement does nothing: a string, `pass`, or the number of the release."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
        return getattr(node.targets[0], "id", None) == "__version__"
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Pass)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


@cache
def _version(library: str) -> str:
    try:
        version = metadata.version(library)
    except metadata.PackageNotFoundError:
        return "missing"
    found = re.match(r"\d*(\.\d+)?", version)
    assert found is not None  # it matches nothing at all too
    return found[0]
