"""Methods as plug-ins: what a config names becomes a function with typed settings.

A method of the suite is a file of its kind's package that defines a function of the file's name
(a hyphen of the method's name is an underscore there). A method of your own is
`package.module:function`, of an installed package or of a file beside the config. Whatever the
function's parameter `settings` is annotated with are its settings; a function without that
parameter has none. Nothing here imports torch, so a plan is made without it.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError, PydanticUndefined, core_schema

from clip_wsss.core.errors import InputError, kind_and_words
from clip_wsss.core.memory import out_of_memory
from clip_wsss.core.plain import check_values

PLUGINS = "CLIP_WSSS_PLUGINS"  # folders of files beside configs, for the processes of jobs
S = TypeVar("S", bound=BaseModel)
Positive = Annotated[float, Field(gt=0)]
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


# What is made of a list or a text of YAML; everything else stays strict, items too.
_LENIENT = ("tuple", "set", "frozenset", "enum", "lax-or-strict")


def _make_lenient(schema: Any, resolve: Callable[[Any], Any]) -> None:
    if isinstance(schema, list | tuple):
        for one in schema:
            _make_lenient(one, resolve)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "definition-ref":
        with suppress(LookupError):  # of a class within itself, which `_check_fields` refuses
            if (found := resolve(schema))["type"] == "enum":
                schema = found
    if schema.get("type") in _LENIENT:
        schema["strict"] = False
    if schema.get("type") == "literal" and not all(isinstance(e, str) for e in schema["expected"]):
        inner = dict(schema)
        schema.clear()  # in its place, since 1 is True and 1.0 for Python
        schema.update(core_schema.no_info_before_validator_function(_exactly(inner), inner))
        return
    if schema.get("type") in ("set", "frozenset"):  # whose order differs from process to process
        schema["serialization"] = core_schema.plain_serializer_function_ser_schema(
            lambda value: sorted((getattr(one, "value", one) for one in value), key=repr)
        )
    for key, one in schema.items():
        if key not in ("cls", "default", "expected", "members", "metadata", "serialization"):
            _make_lenient(one, resolve)


def _exactly(schema: dict[str, Any]) -> Callable[[Any], Any]:
    """A check that a value is one of a literal's, of its type too."""
    expected = schema["expected"]

    def check(value: Any) -> Any:
        if not any(type(value) is type(one) and value == one for one in expected):
            raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, expected))})
        return value

    return check


class Settings(BaseModel):
    """Settings of a method or a part of the config; unknown keys, NaN, infinities are refused.

    A tuple or a set is a list in YAML, a path a text, and an enum its value.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """The schema of the class, but for what YAML has no value of."""
        schema = handler(source)
        _make_lenient(schema, handler.resolve_ref_schema)
        return schema

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """The settings as YAML writes them, a set sorted, so that they can be read again."""
        return super().model_dump(**{"mode": "json", **options})


@dataclass(frozen=True)
class Kind:
    """A kind of methods.

    Attributes:
        package: where the suite's own are.
        takes: names of the arguments of a method, its settings aside.
        gives: what it returns, for the docs.
        elsewhere: settings that other cells of the row say: name -> (group, its name there, or
            nothing for the whole entry).
    """

    package: str
    takes: tuple[str, ...]
    gives: str
    elsewhere: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict, hash=False)


_FROM_THE_ROW = {
    "target": ("cam", "target"),
    "affinity": ("affinity", ""),
    "static_layers": ("affinity", "layers"),
    **{key: ("affinity", key) for key in ("sinkhorn", "power", "threshold", "box_edge")},
    **{key: ("masks", key) for key in ("background_power", "refinement", "par")},
}
KINDS: dict[str, Kind] = {
    "cam": Kind("clip_wsss.cams", ("context",), "maps (K, gh, gw) >= 0"),
    "target": Kind(
        "clip_wsss.cams.targets", ("logits", "position", "classes"), "scores (B,) to differentiate"
    ),
    "affinity": Kind("clip_wsss.affinities", ("context",), "maps (K, gh, gw) >= 0"),
    "refinement": Kind("clip_wsss.masks.refinements", ("context",), "scores (1 + K, H, W)"),
    "loss": Kind("clip_wsss.losses", ("pixels",), "a scalar"),
    "labels": Kind("clip_wsss.labels", ("texts",), "a maker of labels", _FROM_THE_ROW),
    "decoder": Kind("clip_wsss.decoders", ("widths", "classes"), "a decoder, a torch.nn.Module"),
    "segmentor": Kind("clip_wsss.segmentors", (), "what a segmentor's file holds"),
}
OTHERS = ("model", "folder")  # what `Names` may mark that is not a method


@dataclass(frozen=True)
class Names:
    """Marks a field of settings whose value names a method, a model, or another kind of entry.

    Attributes:
        kind: of `KINDS`, `model` for an entry of `models`, or `folder` for one of files by image,
            whose contents count.
        where: `here`, the method's settings go beside the field (of an entry only); `under`, below
            a key of the method's short name.
    """

    kind: str
    where: Literal["here", "under"] = "under"


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
    return _method(kind, name, tuple(sys.path))


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
    """Run what a method of one's own does; what goes wrong is one line, its traceback in the log.

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


def named(entry: BaseModel | type[BaseModel], values: Mapping[str, Any]) -> Iterator[tuple]:
    """The fields of settings that name something: (field, marker, value)."""
    for field, info in entry.model_fields.items():
        inner = getattr(info.annotation, "__args__", ())  # of `Annotated[str, Names(…)] | None`
        for marker in (
            *info.metadata,
            *(m for one in inner for m in getattr(one, "__metadata__", ())),
        ):
            if isinstance(marker, Names):
                yield field, marker, values.get(field, info.get_default())


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


def marked(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, Names, Any]]:
    """The fields that name something: (dotted key, marker, value).

    Those of nested settings and of lists of them too; a place in a list is a number, from 0.
    """
    values = {field: getattr(settings, field) for field in type(settings).model_fields}
    for field, marker, value in named(type(settings), values):
        yield prefix + field, marker, value
    for field, value in values.items():
        listed = value if isinstance(value, list | tuple) else []
        inner = {field: value} | {f"{field}.{place}": one for place, one in enumerate(listed)}
        for key, one in inner.items():
            if isinstance(one, BaseModel):
                yield from marked(one, f"{prefix}{key}.")


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


def differing(settings: BaseModel, exclude: Iterable[str] = ()) -> dict[str, Any]:
    """The settings that are not at their defaults, as YAML writes them: those that differ differ.

    What may be of several classes is there in full, since one class may have the default that
    another has not.
    """
    left_out = set(exclude)
    return _without_defaults(settings, settings.model_dump(exclude=left_out))


def _without_defaults(value: Any, full: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            key: one
            if _has_alternatives(fields[key].annotation)
            else _without_defaults(getattr(value, key), one)
            for key, one in full.items()
            if not _is_default(value, key)
        }
    if isinstance(value, dict):
        return {key: _without_defaults(value[key], one) for key, one in full.items()}
    if isinstance(value, list | tuple):
        return [_without_defaults(*pair) for pair in zip(value, full, strict=True)]
    return full


def _is_default(settings: BaseModel, field: str) -> bool:
    """Whether a setting is at its default, of its type too: 1 is neither true nor 1.0."""
    value, default = getattr(settings, field), type(settings).model_fields[field].default
    if value != default:
        return False
    if not any(differences(value, default)):
        return True
    return not any(differences(value, _default(type(settings), field)))  # 1 of a float is 1.0


@cache
def _default(kind: type[BaseModel], field: str) -> Any:
    """The default of a setting as it is when it is not said."""
    info = kind.model_fields[field]
    alone: Any = {field: (info.annotation, info)}
    return getattr(create_model(kind.__name__, __base__=Settings, **alone)(), field)


def differences(one: Any, other: Any, place: str = "value") -> Iterator[str]:
    """The dotted keys at which two settings differ, by type too, below `place`."""
    if type(one) is not type(other):
        yield place
    elif isinstance(one, BaseModel):
        for field in type(one).model_fields:
            yield from differences(getattr(one, field), getattr(other, field), f"{place}.{field}")
    elif isinstance(one, set | frozenset):
        yield from differences(sorted(one, key=repr), sorted(other, key=repr), place)
    elif isinstance(one, dict) and one.keys() == other.keys():
        for key in one:
            yield from differences(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}.{number}")
    elif repr(one) != repr(other) if isinstance(one, float) else one != other:  # -0.0 is not 0.0
        yield place


def check_kept(kind: type[BaseModel], settings: BaseModel, where: str) -> None:
    """Refuse settings that a job, which reads them again, would not get as they are.

    Args:
        kind: the class that they are read as.
        settings: of it.
        where: for messages.

    Raises:
        InputError: a setting is not written, or comes out otherwise when it is read again. So
            what is written tells all settings apart.
    """
    try:
        again = kind.model_validate(settings.model_dump(warnings=False))
    except BaseException as error:  # whatever a validator or a serializer raises
        reason = kind_and_words(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise InputError(
            f"{where}: a job could not read the settings again ({' '.join(reason.split())}); "
            f"{_KEEP}"
        ) from None
    for key in differences(settings, again, where):
        raise InputError(f"{key}: would be another value in the job, which reads it again; {_KEEP}")


_KEEP = (
    "remove what excludes a setting or writes it in another way, keys that are not text, a default "
    "of another class, and validators that change what they gave"
)


def _has_alternatives(kind: Any) -> bool:
    """Whether an annotation has a union in which a mapping may be one thing or another."""
    origin, inner = get_origin(kind), get_args(kind)
    mappings = [
        one
        for one in inner
        if one is dict or get_origin(one) in (dict, Mapping) or any(_parts(one))
    ]
    either = origin in (Union, UnionType) and len(mappings) > 1
    return either or any(map(_has_alternatives, inner))


def models_of(settings: BaseModel) -> dict[str, str]:
    """The entries of `models` that settings name, by the dotted key of the field."""
    return named_by(settings, "model")


def named_by(settings: BaseModel, kind: str) -> dict[str, Any]:
    """What the fields marked with a kind of `Names` say, by their dotted keys."""
    return {
        key: value
        for key, marker, value in marked(settings)
        if marker.kind == kind and value is not None
    }


def asks_for_towers(settings: BaseModel) -> bool:
    """Whether a field is there to name a model, even if it names none."""
    return any(marker.kind == "model" for _, marker, _ in marked(settings))


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

    The folder comes last, so that a file there hides no installed module.
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
        above = module.count(".") + (file.name == "__init__.py")
        folders.add(str(file.resolve().parents[above]) if file.is_file() else "")
    beside = folders.intersection(folders_beside()) - {os.getcwd()}
    here = Path.cwd()
    return sorted(
        str(Path(folder).relative_to(here)) if Path(folder).is_relative_to(here) else folder
        for folder in beside
    )


def _use_plugins() -> None:
    sys.path += [folder for folder in folders_beside() if folder not in sys.path]


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
    _check_fields(annotation, f"{name}: {kind}")
    return annotation


def _check_fields(
    settings: type[BaseModel], where: str, around: tuple[type[BaseModel], ...] = ()
) -> None:
    """Refuse settings that a config could not say, or that a job would not get as they are.

    Args:
        settings: the class.
        where: for messages.
        around: the classes that it is within.

    Raises:
        InputError: an alias, a type that YAML has no value of, settings that are more lenient than
            `Settings` or within themselves, a default that the field itself does not take (NaN is
            one) or that is made anew each time, or what `check_kept` finds in the defaults.
    """
    if settings in around:
        raise InputError(
            f"{where}: {settings.__name__} cannot be within itself; write another class"
        )
    try:
        settings.model_rebuild()  # of a class that names one further below in its file
    except NameError as error:
        raise InputError(
            f"{where}: {settings.__name__} names a class that is not defined in its file "
            f"({error.name}); define it there"
        ) from None
    for key, value in Settings.model_config.items():
        if settings.model_config.get(key) != value:
            raise InputError(f"{where}: {settings.__name__}.model_config: {key} must be {value}")
    for field, info in settings.model_fields.items():
        if odd := _unsayable(info.annotation):
            name = odd.__name__ if isinstance(odd, type) else odd
            raise InputError(
                f"{where}: setting {field}: a config cannot say {name}; "
                "use bool, int, float, str, Literal, list, dict[str, ...] or a clip_wsss.Settings"
            )
        for inner in _parts(info.annotation):
            _check_fields(inner, f"{where}: setting {field}", (*around, settings))
        if info.alias is not None or info.validation_alias is not None:
            raise InputError(f"{where}: setting {field}: must have no alias; call it {info.alias}")
        if info.default_factory is not None:  # which could give another value in each process
            raise InputError(
                f"{where}: setting {field}: its default must be a value (a list is copied); got a "
                "default_factory"
            )
        _check_names(info, f"{where}: setting {field}")
    if computed := list(settings.model_computed_fields):
        raise InputError(f"{where}: {computed[0]} must be a property; got a computed_field")
    needed = [info.is_required() for info in settings.model_fields.values()]
    if any(needed):
        return
    try:
        default = settings()
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{where}: setting {key}: its default cannot be ({first['msg']})"
        ) from None
    except BaseException as error:  # whatever a validator raises
        reason = kind_and_words(error)
        raise InputError(f"{where}: the defaults cannot be checked ({reason})") from None
    check_kept(settings, default, where)
    check_values(default.model_dump(), where)


def _check_names(info: FieldInfo, where: str) -> None:
    """Refuse `Names` where `named` and `marked` do not look, or of no kind."""
    kind = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    texts, names = _marks(kind)
    for marker in names:
        if marker.kind not in (*KINDS, *OTHERS):
            kinds = ", ".join((*KINDS, *OTHERS))
            raise InputError(f"{where}: Names must be of {kinds}")
        if marker.where == "here":
            raise InputError(
                f'{where}: a method\'s own settings cannot name a method "here"; leave that out, '
                "and its settings go below its name"
            )
    if names and (len(names) > 1 or not texts):
        raise InputError(
            f"{where}: Names must mark one text; for several, use a list of settings with one each"
        )
    named = any(_marks(one)[1] for part in _parts(kind) for one in _annotations(part))
    if named and not _is_seen(info.annotation):
        raise InputError(
            f"{where}: settings that name something must be by themselves or in a list; got "
            f"{info.annotation}"
        )


def _annotations(kind: type[BaseModel]) -> Iterator[Any]:
    """The annotations of all fields of settings, nested ones too."""
    for info in kind.model_fields.values():
        yield Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        for inner in _parts(info.annotation):
            yield from _annotations(inner)


def _marks(kind: Any) -> tuple[bool, list[Names]]:
    """Whether an annotation is of one text (or a path, or null), and all `Names` within it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        text, names = _marks(inner[0])
        return text, [*names, *(one for one in inner[1:] if isinstance(one, Names))]
    if origin is Literal:
        return all(isinstance(one, str) for one in inner), []
    both = [_marks(one) for one in inner]
    simple = origin in (Union, UnionType) and all(text for text, _ in both)
    return simple or kind in (str, Path, NoneType), [one for _, names in both for one in names]


def _is_seen(kind: Any, *, in_list: bool = False) -> bool:
    """Whether `marked` finds all settings that an annotation holds."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _is_seen(inner[0], in_list=in_list)
    if origin in (Union, UnionType):
        return all(_is_seen(one, in_list=in_list) for one in inner)
    if origin in (list, tuple, Sequence) and not in_list:
        return all(_is_seen(one, in_list=True) for one in inner)
    return origin is None or not any(_parts(kind))


def _unsayable(kind: Any) -> Any:
    """A type within an annotation that no value of YAML can be; None: there is none."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _unsayable(inner[0])
    if origin is Literal:
        return next((type(v) for v in inner if type(v) not in _PLAIN), None)
    if origin in (dict, Mapping):
        key = inner[0]
        while get_origin(key) is Annotated:
            key = get_args(key)[0]
        words = key is str or (get_origin(key) is Literal and _unsayable(key) is None)
        return _unsayable(inner[1]) if words else kind
    if origin in (Union, UnionType, list, tuple, set, frozenset, Sequence):
        return next((odd for one in inner if (odd := _unsayable(one))), None)
    if isinstance(kind, type) and issubclass(kind, Enum):
        # `true` would be taken for a value 1.
        return next((kind for one in kind if type(one.value) is not str), None)
    known = (*_PLAIN, Any, ..., list, tuple, set, frozenset, dict)
    if kind in known or (isinstance(kind, type) and issubclass(kind, Settings | Path)):
        return None
    return kind


_PLAIN = (bool, int, float, str, NoneType)


def _parts(kind: Any) -> Iterator[type[BaseModel]]:
    """The settings within an annotation."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from _parts(inner)


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
