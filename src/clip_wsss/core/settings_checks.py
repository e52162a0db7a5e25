"""Checks of a class of settings, when the method that has it is looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from clip_wsss.core.errors import InputError, kind_and_words
from clip_wsss.core.names import KINDS, OTHERS, Names
from clip_wsss.core.plain import check_values
from clip_wsss.core.settings import Settings, check_kept, parts


def check_fields(
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
            one) or that is made again each time, or what `check_kept` finds in the defaults.
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
        for inner in parts(info.annotation):
            check_fields(inner, f"{where}: setting {field}", (*around, settings))
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
    named = any(_marks(one)[1] for part in parts(kind) for one in _annotations(part))
    if named and not _is_seen(info.annotation):
        raise InputError(
            f"{where}: settings that name something must be by themselves or in a list; got "
            f"{info.annotation}"
        )


def _annotations(kind: type[BaseModel]) -> Iterator[Any]:
    """The annotations of all fields of settings, nested ones too."""
    for info in kind.model_fields.values():
        yield Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
        for inner in parts(info.annotation):
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
    return origin is None or not any(parts(kind))


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
