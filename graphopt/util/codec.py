"""Conversion of dataclasses to JSON types and back, checked against their annotations.

One codec for everything that graphopt keeps in files or passes between processes: manifests, lists of kernels, reports,
records, jobs. It uses only the standard library, because the runtime reads manifests with it. Input may come from
anywhere, so every value is checked before it is used, and an error names the place: `inputs[0].shape[2]: ...`.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")
_KEY = "graphopt.key"


class DecodeError(ValueError):
    """A stored value that does not have the declared type; the message begins with its place."""


def stored_as(name: str | None) -> dict[str, str | None]:
    """Return metadata for a dataclass field that is stored under another name, or not at all (None)."""
    return {_KEY: name}


def encode(value: Any) -> Any:
    """Return `value` as dicts, lists, strings, numbers, booleans and None, which `decode` reads back.

    Dataclasses become dicts of their fields in order, members of an Enum their names in lower case.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: encode(getattr(value, field.name)) for name, field in _stored(type(value)).items()}
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(name): encode(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], data: Any, where: str = "") -> T:
    """Return the `kind` (a dataclass, or any annotation that `encode` writes) that `data` describes.

    Arguments:
        kind: a dataclass, an Enum, `tuple[X, ...]`, `list[X]`, `Mapping[str, X]`, a union, a plain type or Any.
        data: what a JSON parser returned.
        where: the place of `data`, for messages.

    Raises DecodeError for a missing or unknown field and for a value of another type. An int is taken for a float;
    a bool is not taken for an int.
    """
    made: T = _decode(kind, data, where)
    return made


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, data, where)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(kind, data, where)
    if origin in (tuple, list):
        return _sequence(origin, arguments, data, where)
    if origin in (dict, Mapping):
        if not isinstance(data, dict):
            raise _wrong("an object", data, where)
        return {name: _decode(arguments[1], item, _at(where, name)) for name, item in data.items()}
    if kind is types.NoneType:
        kind_matches = data is None
    elif kind is float:
        kind_matches = isinstance(data, int | float) and not isinstance(data, bool)
    else:
        kind_matches = isinstance(data, kind) and (kind is bool or not isinstance(data, bool))
    if not kind_matches:
        raise _wrong("null" if kind is types.NoneType else kind.__name__, data, where)
    return float(data) if kind is float else data


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _wrong("an object", data, where)
    stored, hints = _stored(kind), _hints(kind)
    if unknown := data.keys() - stored.keys():
        raise DecodeError(f"{_at(where, min(unknown))}: an unknown key")
    values = {}
    for name, field in stored.items():
        if name in data:
            values[field.name] = _decode(hints[field.name], data[name], _at(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DecodeError(f"{_at(where, name)}: missing")
    return kind(**values)


def _sequence(origin: Any, arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    if not isinstance(data, list):
        raise _wrong("a list", data, where)
    repeated = origin is list or arguments[1:] == (...,)
    if not repeated and len(arguments) != len(data):
        raise _wrong(f"a list of {len(arguments)}", data, where)
    kinds = [arguments[0]] * len(data) if repeated else arguments
    return origin(_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data)))


def _union(arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    """Return the first alternative that fits; otherwise raise the error of the last one, which names the innermost
    place.
    """
    if data is None and types.NoneType in arguments:
        return None
    choices = [kind for kind in arguments if kind is not types.NoneType]
    for kind in choices[:-1]:
        try:
            return _decode(kind, data, where)
        except DecodeError:
            continue
    return _decode(choices[-1], data, where)


def _member(kind: type[Enum], data: Any, where: str) -> Enum:
    for member in kind:
        if member.name.lower() == data:
            return member
    raise _wrong("one of " + ", ".join(member.name.lower() for member in kind), data, where)


@functools.cache
def _stored(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a dataclass by the name under which they are stored."""
    named = {field.metadata.get(_KEY, field.name): field for field in dataclasses.fields(kind)}
    return {name: field for name, field in named.items() if name is not None}


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(wanted: str, data: Any, where: str) -> DecodeError:
    shown = repr(data)
    return DecodeError(f"{where or 'the value'}: {wanted} expected, not {shown[:60]}{'...' if len(shown) > 60 else ''}")
