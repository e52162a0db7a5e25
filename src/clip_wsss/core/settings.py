"""Typed settings: as strict as YAML allows, told apart by every digit, and kept when written.

The settings of methods and of the entries of a config are classes of this kind. Nothing here
imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticKnownError, core_schema

from clip_wsss.core.errors import InputError, kind_and_words

Positive = Annotated[float, Field(gt=0)]
# Of a file or folder, or a name that may be one; ~ is the home.
Location = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]

# What is made of a list or a text of YAML; everything else stays strict, items too.
_LENIENT = ("tuple", "set", "frozenset", "enum", "lax-or-strict")


def _make_lenient(schema: Any, resolve: Callable[[Any], Any]) -> None:
    if isinstance(schema, list | tuple):
        for one in schema:
            _make_lenient(one, resolve)
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "definition-ref":
        with suppress(LookupError):  # of a class within itself, which `check_fields` refuses
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
        one for one in inner if one is dict or get_origin(one) in (dict, Mapping) or any(parts(one))
    ]
    either = origin in (Union, UnionType) and len(mappings) > 1
    return either or any(map(_has_alternatives, inner))


def parts(kind: Any) -> Iterator[type[BaseModel]]:
    """The settings within an annotation."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for inner in get_args(kind):
        yield from parts(inner)
