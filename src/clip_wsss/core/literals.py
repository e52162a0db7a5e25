"""MMEngine's configs in Python as plain data: parsed, never run."""

from __future__ import annotations

import ast
import importlib.util
import operator
from pathlib import Path
from typing import Any, NamedTuple

from clip_wsss.core.errors import InputError
from clip_wsss.core.files import read_bytes

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
LONGEST = 10_000  # items of a list, after `[0] * n`
LARGEST = 2**63


class Unreadable(NamedTuple):
    """The value of a name that would have to be executed, as the message for who needs it."""

    message: str


def read_literals(path: str | Path, _inside: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a config of MMEngine in Python, `_base_` included, without executing it.

    What can be read is assignments of literals, `dict(...)`, `sum([...])`, earlier names, and sums
    and products of them. A base is looked for beside the file, then among MMSegmentation's
    installed configs; a dictionary is merged into the base's, unless it says `_delete_=True`.

    Returns:
        The values by name, in the place of one that says more than that an `Unreadable`: a zoo's
        file has some that no training needs.

    Raises:
        InputError: the file or a base is missing, is not Python, or has other statements; the line
            names the command that converts it.
    """
    path = Path(path)
    if path.resolve() in _inside:
        raise InputError(f"{path}: _base_: the files are bases of each other; remove one")
    try:
        tree = ast.parse(read_bytes(path, "there is no such file; name another"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not Python that can be read ({error})") from None
    own: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        if not isinstance(statement, ast.Assign):
            raise _refused(path, statement)
        targets = [target for target in statement.targets if isinstance(target, ast.Name)]
        if len(targets) < len(statement.targets):
            raise _refused(path, statement)
        try:
            value = _value(path, statement.value, own)
        except RecursionError:
            raise InputError(f"{path}: line {statement.lineno}: is nested too deeply") from None
        except InputError as error:
            value = Unreadable(str(error))
        own |= {target.id: value for target in targets}
    names = own.pop("_base_", [])
    if isinstance(names, Unreadable):
        raise InputError(names.message)
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(one, str) for one in names):
        raise InputError(f"{path}: _base_: must be the paths of files; got {names!r}")
    whole: dict[str, Any] = {}
    for name in names:
        base = read_literals(_base(path, name), (*_inside, path.resolve()))
        if twice := whole.keys() & base.keys():
            raise InputError(f"{path}: _base_: two files have the key {min(twice)}; keep one")
        whole |= base
    return _merged(path, whole, own)


def _refused(path: Path, node: ast.expr | ast.stmt) -> InputError:
    source = " ".join(ast.unparse(node).split())
    short = source if len(source) <= 60 else f"{source[:57]}..."
    return InputError(
        f"{path}: line {node.lineno}: `{short}` would have to be executed; write its value, or "
        f"convert the file: python -m clip_wsss.segmentation.convert {path} segmentor.yaml"
    )


def _value(path: Path, node: ast.expr, names: dict[str, Any]) -> Any:
    """The value of an expression; dictionaries and lists are new ones each time."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        if isinstance(names[node.id], Unreadable):
            raise InputError(names[node.id].message)
        return names[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        items = [_value(path, item, names) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    pairs: list[tuple[Any, ast.expr]] | None = None
    if isinstance(node, ast.Dict) and None not in node.keys:
        both = zip(node.keys, node.values, strict=True)
        pairs = [(_value(path, key, names), value) for key, value in both if key is not None]
    elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict" and not node.args:
        pairs = [(one.arg, one.value) for one in node.keywords]
    if pairs is not None and all(isinstance(key, str | int) for key, _ in pairs):
        return {key: _value(path, value, names) for key, value in pairs}
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "sum" and len(node.args) == 1:
        numbers = _value(path, node.args[0], names)
        if isinstance(numbers, list | tuple) and all(isinstance(n, int | float) for n in numbers):
            return sum(numbers)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(path, node.operand, names)
        if isinstance(value, int | float):
            return -value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = (_value(path, one, names) for one in (node.left, node.right))
        if _is_small(node.op, left, right):
            try:
                return _OPERATORS[type(node.op)](left, right)
            except (TypeError, ArithmeticError):
                pass
    raise _refused(path, node)


def _is_small(op: ast.operator, left: Any, right: Any) -> bool:
    """Whether a sum or product takes no memory worth speaking of."""
    if all(isinstance(one, int | float) for one in (left, right)):
        return max(abs(left), abs(right)) < LARGEST
    sizes = [len(one) if isinstance(one, list | tuple | str) else one for one in (left, right)]
    if not all(isinstance(size, int) for size in sizes):
        return False
    return (sizes[0] * sizes[1] if isinstance(op, ast.Mult) else sum(sizes)) <= LONGEST


def _base(path: Path, name: str) -> Path:
    """The file of a base: beside the file, or among the installed configs of MMSegmentation."""
    beside = path.parent / name
    found = importlib.util.find_spec("mmseg")
    if beside.is_file() or found is None or found.origin is None:
        return beside
    tail = name.removeprefix("mmseg::")
    while tail.startswith(("./", "../")):
        tail = tail.partition("/")[2]
    installed = Path(found.origin).parent / ".mim/configs" / tail
    return installed if installed.is_file() else beside


def _merged(path: Path, base: dict, own: dict) -> dict:
    """A dictionary with another one merged into it, as MMEngine does."""
    found = dict(base)
    for key, value in own.items():
        if not isinstance(value, dict):
            found[key] = value
            continue
        replaces, value = value.get("_delete_", False), {**value}
        value.pop("_delete_", None)
        before = {} if replaces else base.get(key, {})
        if isinstance(before, Unreadable):
            raise InputError(before.message)
        if not isinstance(before, dict):
            raise InputError(
                f"{path}: {key}: is a dictionary, but not in the base; add _delete_=True"
            )
        found[key] = _merged(path, before, value)
    return found
