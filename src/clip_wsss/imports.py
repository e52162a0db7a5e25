"""Which files of the package a module is made of, so that rules can depend on them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = "clip_wsss"


@cache
def _imported(file: Path, source: Path) -> frozenset[Path]:
    """Files of the package that a file imports, also within functions, but not for types only."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for name in names:
        if name.split(".")[0] == PACKAGE:
            path = source / name.replace(".", "/")
            found |= {path.with_suffix(".py"), path / "__init__.py"}
    return frozenset(path for path in found if path.is_file())


def files_of(*modules: str, source: Path = Path("src")) -> list[str]:
    """Return the files of some modules and of all that they import from the package.

    Args:
        modules: names below the package, as `cam` or `segmentation/train`.
        source: the folder that holds the package.

    Returns:
        Paths below `source`, sorted.

    Raises:
        FileNotFoundError: there is no such module.
    """
    waiting = [source / PACKAGE / f"{module}.py" for module in modules]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file, source)
            if file.parent != source / PACKAGE:  # runs before its modules do
                waiting.append(file.parent / "__init__.py")
    return sorted(str(file) for file in found)
