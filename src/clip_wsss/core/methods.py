"""Methods as plug-ins: what a config names becomes a function with typed settings.

A method of the suite is a file of its kind's package that defines a function of the file's name
(a hyphen of the method's name is an underscore there). A method of your own is
`package.module:function`, of an installed package or of a file beside the config. Whatever the
function's parameter `settings` is annotated with are its settings; a function without that
parameter has none. Nothing here imports torch, so a plan is made without it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, create_model
from pydantic_core import PydanticUndefined

from clip_wsss.core.errors import InputError, kind_and_words
from clip_wsss.core.memory import out_of_memory
from clip_wsss.core.names import KINDS, Names, marked, named
from clip_wsss.core.settings import Settings
from clip_wsss.core.settings_checks import check_fields

PLUGINS = "CLIP_WSSS_PLUGINS"  # folders of files beside configs, for the processes of jobs

_LOOK_UP = (__name__, "clip_wsss.runs.fingerprint")  # what asks for files beside configs by name

S = TypeVar("S", bound=BaseModel)

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Method:
    """A method that a config names.

    Attributes:
        kind: of `KINDS`.
        name: as the config writes it.
        target: `package.module:function`.
        settings: class of its settings; None for a method without.
    """

    kind: str
    name: str
    target: str
    settings: type[BaseModel] | None

    @property
    def short(self) -> str:
        """The name without its module: the key of its settings, and a part of labels."""
        return self.name.rpartition(":")[2]

    @property
    def function(self) -> Callable:
        """The function itself."""
        return _function(self.target, f"{self.kind}: {self.name}")

    def read(self, content: Mapping[str, Any] | None) -> BaseModel | None:
        """Its settings, from a mapping that may hold other keys too (those of an entry)."""
        if self.settings is None:
            return None
        kind = with_methods(self.settings, content or {})
        known = {k: v for k, v in (content or {}).items() if k in kind.model_fields}
        return kind.model_validate(_in_order(known))

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields of its settings."""
        return {} if self.settings is None else self.settings.model_fields

    def bound(self, content: Mapping[str, Any] | None) -> Callable:
        """The function with its settings filled in, those of `content`."""
        own = self.read(content)
        return self.function if own is None else partial(self.function, settings=own)


def method(kind: str, name: str) -> Method:
    """Look a method up, import and check it.

    Args:
        kind: of `KINDS`.
        name: registered, or `package.module:function`.

    Raises:
        InputError: one line: there is no such method, it cannot be imported, or its parameters
            are not those of its kind.
    """
    return _method(kind, name, (*sys.path, *folders_beside()))


@cache
def _method(kind: str, name: str, path: tuple[str, ...]) -> Method:
    if ":" not in name:
        known = registered(kind)
        if name not in known:
            names = f"one of {', '.join(known)}, or " if known else ""
            raise InputError(f"must be {names}package.module:function; got {name}")
        target = f"{KINDS[kind].package}.{known[name]}:{known[name]}"
    elif _DOTTED.fullmatch(name):
        target = name
    else:
        raise InputError(f"`{name}` must be package.module:function")
    function = _function(target, name)
    return Method(kind, name, target, _settings(function, kind, name))


@contextmanager
def in_one_line(where: str) -> Iterator[None]:
    """Run what a method of your own does; what goes wrong is one line, its traceback in the log.

    Want of memory is raised as it is, since a smaller batch may fit.

    Args:
        where: the method, and what it was called for.

    Raises:
        InputError: of the method itself, or "<where>: <kind of the exception>: <what it says>".
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # whatever it does
        if out_of_memory(error):
            raise
        logging.exception("%s", where)
        raise InputError(f"{where}: {kind_and_words(error)}") from None


def _in_order(value: Any) -> Any:
    """A value with its mappings sorted, since their order is in no key."""
    if isinstance(value, dict):
        return {key: _in_order(one) for key, one in sorted(value.items(), key=str)}
    return [_in_order(one) for one in value] if isinstance(value, list) else value


def with_methods(
    base: type[S], content: Mapping[str, Any], by_default: tuple[str, ...] = ()
) -> type[S]:
    """The class of settings that has those of all methods that `content` names.

    Args:
        base: the class without them.
        content: as a config says it.
        by_default: targets of the methods whose settings this is within, where nothing is said.

    Raises:
        InputError: "<field>: <what is wrong with the method>".
    """
    kind = base
    here = [one for one in _chosen(base, content) if one[1].where == "here"]
    for field, _, found in here:
        own = _own(found)
        if own is not None:
            if twice := own.model_fields.keys() & base.model_fields.keys():
                raise InputError(f"{field}: {found.name}: its setting {min(twice)} must be renamed")
            kind = _joined(kind, own)
    under: dict[str, type[BaseModel]] = {}
    for field, marker, found in _chosen(kind, content):
        if marker.where == "under" and found.settings is not None:
            taken = found.short in kind.model_fields or found.short in under
            if taken or hasattr(kind, found.short) or found.short.startswith("_"):
                raise InputError(f"{field}: {found.name}: its function must have another name")
            said = content.get(found.short)
            line = () if said else (*by_default, found.target)
            if len(set(line)) < len(line):  # and so on without an end
                raise InputError(
                    f"{field}: {found.name}: names itself by default; give the setting another "
                    "default"
                )
            under[found.short] = _nested(found.settings, said, found.short, line)
    for field, info in kind.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            nested = _nested(inner, said := content.get(field), field, () if said else by_default)
            if nested is not inner:
                under[field] = nested
    return _extended(kind, tuple(under.items())) if under else kind


def methods_below(kind: type[BaseModel], content: Mapping[str, Any]) -> dict[str, str]:
    """The methods whose settings are below a key of a class of `with_methods`: key -> target."""
    return {
        found.short: found.target
        for _, marker, found in _chosen(kind, content)
        if marker.where == "under"
    }


def methods_beside(kind: type[BaseModel], content: Mapping[str, Any]) -> dict[str, Method]:
    """The methods whose settings are beside the field that names them, by that field."""
    return {
        field: found for field, marker, found in _chosen(kind, content) if marker.where == "here"
    }


def part_of(kind: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The class of the settings below a field; None if it holds none of one class."""
    info = kind.model_fields.get(field)
    inner = None if info is None else info.annotation
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def _chosen(
    base: type[BaseModel], content: Mapping[str, Any]
) -> Iterator[tuple[str, Names, Method]]:
    """The methods that settings name: (field, marker, method)."""
    for field, marker, value in named(base, content):
        if marker.kind in KINDS and isinstance(value, str) and is_method(marker.kind, value):
            try:
                yield field, marker, method(marker.kind, value)
            except InputError as error:
                raise InputError(f"{field}: {error}") from None


def _nested(
    kind: type[BaseModel], content: Any, where: str, by_default: tuple[str, ...]
) -> type[BaseModel]:
    try:
        return with_methods(kind, content if isinstance(content, dict) else {}, by_default)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


@cache  # so that two entries of the same methods are of one class, and can be equal
def _joined(kind: type[S], own: type[BaseModel]) -> type[S]:
    both: Any = (kind, own)  # the stub wants bases of one class
    return create_model(kind.__name__, __base__=both, __doc__=kind.__doc__)


@cache
def _extended(kind: type[S], parts: tuple[tuple[str, type[BaseModel]], ...]) -> type[S]:
    """Settings with parts, each at its defaults unless it has a setting without one."""
    fields: dict[str, Any] = {}
    for name, part in parts:
        needed = any(info.is_required() for info in part.model_fields.values())
        fields[name] = (part, PydanticUndefined if needed else part())
    return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, **fields)


@cache
def _own(found: Method) -> type[BaseModel] | None:
    """The settings of a method, without those that follow from other cells of the row."""
    elsewhere = KINDS[found.kind].elsewhere
    if not elsewhere or found.settings is None:
        return found.settings
    own: dict[str, Any] = {
        k: (v.annotation, v) for k, v in found.fields.items() if k not in elsewhere
    }
    return create_model(found.settings.__name__, __base__=Settings, **own) if own else None


def methods_of(settings: BaseModel, *kinds: str) -> list[Method]:
    """All methods that settings name, those of nested settings too; of some kinds, or of all."""
    return [
        method(marker.kind, value)
        for _, marker, value in marked(settings)
        if marker.kind in (kinds or KINDS) and value is not None and is_method(marker.kind, value)
    ]


def is_method(kind: str, value: str) -> bool:
    """Whether a value names a method: a segmentor may be a file instead."""
    return kind != "segmentor" or bool(_DOTTED.fullmatch(value))


@cache
def registered(kind: str) -> dict[str, str]:
    """The suite's own methods of a kind: name -> name of the module and the function."""
    package = importlib.util.find_spec(KINDS[kind].package)
    found = {}
    for folder in (package.submodule_search_locations or ()) if package else ():
        for path in sorted(Path(folder).glob("*.py")):
            tree = ast.parse(path.read_bytes())
            names = {getattr(statement, "name", None) for statement in tree.body}
            if path.stem in names:
                found[path.stem.replace("_", "-")] = path.stem
    return found


def add_plugins(folder: str | Path) -> None:
    """Let methods be found in the files of a folder, here and in the processes of jobs.

    They come last, so that a file there hides no installed module, and only for whoever looks for
    methods and for one another: a library that tries to import another finds none of them.
    """
    folder = str(Path(folder).resolve())
    if folder not in (known := folders_beside()):
        os.environ[PLUGINS] = json.dumps([*known, folder])  # a name may hold `os.pathsep`
    _use_plugins()


def folders_beside() -> list[str]:
    """The folders of files beside configs, absolute."""
    return json.loads(os.environ.get(PLUGINS) or "[]")


def plugin_folders(found: Iterable[Method]) -> list[str]:
    """The folders beside configs in which methods were found.

    Those below the working directory from there, since a project may move; others in full.
    """
    folders = set()
    for one in found:
        module = one.target.partition(":")[0]
        file = Path(getattr(sys.modules.get(module), "__file__", None) or module)
        folders.add(_folder_of(module, file) if file.is_file() else "")
    beside = folders.intersection(folders_beside()) - {os.getcwd()}
    here = Path.cwd()
    return sorted(
        str(Path(folder).relative_to(here)) if Path(folder).is_relative_to(here) else folder
        for folder in beside
    )


def _use_plugins() -> None:
    if not any(isinstance(finder, _Beside) for finder in sys.meta_path):
        sys.meta_path.append(_Beside())


class _Beside(MetaPathFinder):
    """Finds modules in the folders beside configs, for those who may ask for them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or not _may_ask(sys._getframe(1)):
            return None
        return PathFinder.find_spec(fullname, folders_beside())


def _may_ask(frame: FrameType | None) -> bool:
    """Whether what imports is the look-up of methods, a worker process, or a file beside a config.

    A library would take any `numexpr.py` of the working directory for the package of that name.
    """
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("importlib", "_frozen_importlib")):
            file = frame.f_globals.get("__file__")
            return (
                name in _LOOK_UP
                or name.partition(".")[0] in ("multiprocessing", "pickle")
                or (file is not None and _folder_of(name, Path(file)) in folders_beside())
            )
        frame = frame.f_back
    return False


def _folder_of(module: str, file: Path) -> str:
    """The folder that a module was found in, or its package."""
    above = module.count(".") + (file.name == "__init__.py")
    return str(file.resolve().parents[above])


def _function(target: str, name: str) -> Callable:
    _use_plugins()
    module, _, attribute = target.partition(":")
    try:
        found = importlib.import_module(module)
    except BaseException as error:  # whatever the module does when it is imported
        reason = " ".join(str(error).split()) or "no reason given"
        raise InputError(
            f"{name}: {module} cannot be imported ({type(error).__name__}: {reason}); install its "
            "package, or put its file beside the config"
        ) from None
    function = getattr(found, attribute, None)
    if not callable(function):
        raise InputError(f"{name}: {module} has no function `{attribute}`; correct the name")
    return function


def _settings(function: Callable, kind: str, name: str) -> type[BaseModel] | None:
    """The class of a method's settings, from the annotation of its parameter."""
    takes = KINDS[kind].takes
    wanted = f"({', '.join(takes)}) or ({', '.join((*takes, 'settings'))})"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise InputError(
            f"{name}: {kind}: must take {wanted}; its parameters cannot be read: write a function "
            "that calls it"
        ) from None
    parameters = list(signature.parameters.values())
    needed = [p for p in parameters if p.default is p.empty and p.kind in (0, 1, 3)]
    own = [p for p in parameters if p.name == "settings"]
    odd = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_odd(function) for is_odd in odd):
        raise InputError(f"{name}: {kind}: must be a plain function; got {function}")
    if len([p for p in needed if p not in own]) != len(takes):
        got = ", ".join(p.name for p in parameters)
        raise InputError(f"{name}: {kind}: must take {wanted}; it takes ({got})")
    try:  # as it will be called
        signature.bind(*takes, **{one.name: None for one in own})
    except TypeError:
        got = ", ".join(p.name for p in parameters)
        raise InputError(
            f"{name}: {kind}: must take {wanted}, settings last; it takes ({got})"
        ) from None
    if not own:
        return None
    annotation = own[0].annotation
    if isinstance(annotation, str):
        annotation = _evaluated(function, annotation)
    if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
        raise InputError(
            f"{name}: {kind}: its parameter `settings` must be annotated with a subclass of "
            "clip_wsss.Settings"
        )
    check_fields(annotation, f"{name}: {kind}")
    return annotation


def _evaluated(function: Callable, annotation: str) -> Any:
    """What an annotation written as text stands for."""
    inner: Any = inspect.unwrap(function)
    while isinstance(inner, partial):
        inner = inspect.unwrap(inner.func)
    if not hasattr(inner, "__globals__"):  # a class, or an object that is called
        made = isinstance(inner, type)
        inner = getattr(inner, "__init__", inner) if made else type(inner).__call__
    try:
        return eval(annotation, getattr(inner, "__globals__", {}))  # the method's own source
    except Exception:
        return None
