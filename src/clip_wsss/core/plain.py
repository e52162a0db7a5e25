"""Files of plain YAML: no tags, no key twice, nothing that runs, nothing read in two ways.

YAML 1.1, which PyYAML and Snakemake read, takes `010` for 8, `12:30` for 750, `1_000` and
`2007_000032` for numbers, `on` and `no` for truth values and `1e-5` for text; YAML 1.2 does not. So
whatever the two read differently is refused, in files and in the cells of a runs table.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Hashable
from typing import Any

import yaml

from clip_wsss.core.errors import InputError, one_line
from clip_wsss.core.files import read_text
from clip_wsss.core.resources import find

LARGEST = 100_000  # values of a file: YAML's aliases can make any number of a few lines
TEMPLATE = "__use_yte__"  # key by which Snakemake's reader runs the Python within a config
DEEPEST = 50  # lists and mappings within one another
LONGEST = 4096  # characters of a text, as many as a path may have
_TAG = "tag:yaml.org,2002:"
_CORE = {  # YAML 1.2's core schema, its hexadecimal and octal numbers left out
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+"),
    "float": re.compile(
        r"[-+]?(?=.*[.eE])(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
    "merge": re.compile("<<"),
}
_ODD = re.compile(r"[-+]?0([0-9]+|o[0-7]+)")  # 8, 10 or text, by the version
_REMEDY = (
    "YAML readers disagree about what it means; write numbers as 10, 0.5 or "
    "1.0e-5, truth values as true or false, and text in quotes"
)


class _Loader(yaml.SafeLoader):
    """Plain YAML in which no key is given twice: the last one would win in silence."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _refused("tags are not used here; remove it", event.start_mark)
        if self.depth > DEEPEST:
            raise _refused(f"is nested more than {DEEPEST} deep", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.style is None and _kind(node.value) != node.tag.removeprefix(_TAG):
            raise _refused(f"`{node.value}`: {_REMEDY}", node.start_mark)
        return node


def _refused(problem: str, mark: yaml.Mark | None) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = key_node.value if key_node.tag == f"{_TAG}merge" else None
        key = key or loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise _refused("a key must be a word", key_node.start_mark)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise _refused(f"line {line}: the key `{key}` is given twice; keep one", None)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(f"{_TAG}map", _mapping)


def _kind(text: str) -> str:
    """What YAML 1.2 takes an unquoted word for; `odd` for numbers with a leading zero."""
    if _ODD.fullmatch(text):
        return "odd"
    return next((kind for kind, form in _CORE.items() if form.fullmatch(text)), "str")


def plain_value(text: str) -> Any:
    """The value that a word of a table stands for: a number, true, false, null, or text.

    Raises:
        InputError: what YAML's versions read differently, such as 010, 1_000, 12:30 or yes.
    """
    kind = _kind(text)
    known = yaml.resolver.Resolver().resolve(yaml.ScalarNode, text, (True, False))
    # No other program reads the table, so 1e-5 is the number that it looks like.
    if known.removeprefix(_TAG) not in (kind, "str") or kind == "odd":
        raise InputError(f"`{text}`: {_REMEDY}")
    if kind in ("null", "bool"):
        return None if kind == "null" else text.lower() == "true"
    if kind == "float":
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return int(text) if kind == "int" and len(text) <= 20 else text


class _Dumper(yaml.SafeDumper):
    """Plain YAML without anchors, whose texts are read as texts by every version."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    quotes = None if _kind(text) == "str" else "'"
    return dumper.represent_scalar(f"{_TAG}str", text, style=quotes)


_Dumper.add_representer(str, _text)


def dump_yaml(content: Any, *, sort_keys: bool = True) -> str:
    """Plain values as YAML that `read_yaml` reads back."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=sort_keys, allow_unicode=True)


def read_yaml(path: str | os.PathLike) -> Any:
    """Read a file of plain YAML: the user's, or the project's of that name.

    Raises:
        InputError: it is missing, not YAML, has a key twice, or a value as of `check_values` or
            one that YAML's versions read differently.
    """
    try:
        content = yaml.load(read_text(find(path), "there is no such file"), _Loader)
    except InputError:
        raise
    except Exception as error:  # PyYAML's constructors raise whatever they stumble over
        problem = one_line(getattr(error, "problem", None) or error)
        mark = getattr(error, "problem_mark", None)
        if "another document" in problem:
            problem = "holds two documents; keep one, without the `---` between them"
        where = f" in line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}: not YAML that can be used{where} ({problem})") from None
    if isinstance(content, dict) and TEMPLATE in content:
        raise InputError(f"{path}: {TEMPLATE}: a template runs code; write the values themselves")
    check_values(content, str(path))
    return content


def check_values(content: Any, where: str) -> None:
    """Refuse what no setting can be, wherever in lists and mappings it is.

    Args:
        content: as read.
        where: its file, for messages.

    Raises:
        InputError: a number that is not finite or has more than 64 bits, a text with a line break
            or another control character or of more than `LONGEST` characters, or more than
            `LARGEST` values.
    """
    waiting, seen = [("", content)], 0
    while waiting:
        key, value = waiting.pop()
        seen += 1
        if seen > LARGEST:
            raise InputError(f"{where}: holds more than {LARGEST} values; write a smaller file")
        if isinstance(value, dict):
            # A key is a text too, and its own place could not be printed.
            waiting += [("a key", one) for one in value]
            waiting += [(f"{key}.{one}" if key else str(one), item) for one, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{key}.{place}", item) for place, item in enumerate(value)]
        elif problem := _problem(value):
            raise InputError(f"{where}: {key}: {problem}")


_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # show text in another order


def _problem(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number; got {value}"
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"must be less than 2**63 from zero; got a number of {value.bit_length()} bits"
    if isinstance(value, str) and len(value) > LONGEST:
        return f"must have at most {LONGEST} characters; got {len(value)}"
    if isinstance(value, str) and any(
        unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _TURNS for c in value
    ):
        return f"must be one line without control characters; got {value[:60]!a}"
    return None
