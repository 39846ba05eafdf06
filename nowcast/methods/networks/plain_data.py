"""Configurations as plain JSON values and back, so strictly that a slip in a file is an error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Return dataclasses, tuples, mappings, strings, numbers and ``None`` as what JSON has.

    Raises:
        TypeError: If something else is in it.
        ValueError: If a number is not finite, which JSON has no word for.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_plain(one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected finite numbers, got {value}")
    if value is None or type(value) in (str, bool, int, float):
        return value
    raise TypeError(f"expected dataclasses of tuples, strings and numbers, got {type(value).__name__}")


def from_plain(kind: type[T], value: Any, where: str = "") -> T:
    """Return a dataclass of type ``kind`` from what :func:`to_plain` made of it.

    Every field must be there, no other may be, and each must have the type it was declared with: ``true`` is
    no number, ``1.0`` no whole one.

    Args:
        kind: The dataclass.
        value: What JSON gave.
        where: Path to the value, for messages.

    Raises:
        ValueError: Saying where what was expected, and what came.
    """
    return _dataclass(kind, value, where)  # type: ignore[no-any-return]


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _unexpected(kind.__name__, value, where)
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    if value.keys() != set(names):
        missing, unknown = sorted(set(names) - value.keys()), sorted(value.keys() - set(names))
        told = [f"{what} {', '.join(some)}" for what, some in (("no", missing), ("also", unknown)) if some]
        raise ValueError(
            f"{where or kind.__name__}: expected the fields of {kind.__name__}, got {'; '.join(told)}"
        )
    return kind(**{name: _typed(hints[name], value[name], f"{where}.{name}".lstrip(".")) for name in names})


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Return a JSON value as an annotation has it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _either(arguments, value, where)
    if origin is Literal:
        if any(value == one and type(value) is type(one) for one in arguments):
            return value
        raise _unexpected(f"one of {', '.join(map(repr, arguments))}", value, where)
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _typed(arguments[1], one, f"{where}.{key}") for key, one in value.items()}
    if is_dataclass(hint):
        return _dataclass(hint, value, where)
    if hint is float and type(value) in (int, float):
        return _finite(value, where)
    if hint in (str, bool, int, NoneType) and type(value) is hint:
        return value
    raise _unexpected(getattr(hint, "__name__", str(hint)), value, where)


def _either(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    problems = []
    for hint in hints:
        try:
            return _typed(hint, value, where)
        except ValueError as error:
            problems.append(error)
    raise problems[0]


def _tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _unexpected("a list", value, where)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise _unexpected(f"a list of {len(hints)}", value, where)
    return tuple(
        _typed(hint, one, f"{where}[{k}]") for k, (hint, one) in enumerate(zip(hints, value, strict=True))
    )


def _finite(value: float, where: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _unexpected("a finite number", value, where)
    return number


def _unexpected(expected: str, value: Any, where: str) -> ValueError:
    got = "null" if value is None else repr(value)
    return ValueError(
        f"{where or 'value'}: expected {expected}, got {got if len(got) < 60 else got[:60] + '...'}"
    )
