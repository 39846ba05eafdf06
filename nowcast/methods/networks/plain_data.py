"""Configurations as plain JSON values and back, so strictly that a slip in a file is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")

#: ``true`` is no number, ``1.0`` no whole one, and nothing may be there that is not declared.
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

#: What was expected, by pydantic's kind of error.
_EXPECTED = {
    "bool_type": "bool",
    "dataclass_type": "{class_name}",
    "dict_type": "an object",
    "finite_number": "a finite number",
    "float_type": "float",
    "int_type": "int",
    "literal_error": "{expected}",
    "string_type": "str",
    "too_long": "a list of {max_length}",
    "tuple_type": "a list",
    "unexpected_keyword_argument": "no such field",
}


def to_plain(value: Any) -> Any:
    """Return a dataclass of tuples, dicts, dataclasses, strings, numbers and ``None`` as what JSON has.

    Raises:
        TypeError: If a field does not hold what it was declared with.
        ValueError: If a number is not finite, which JSON has no word for.
    """
    kind: Any = type(value)
    try:
        (plain,) = _adapter(kind).dump_python((value,), mode="json", warnings="error")
    except ValueError as error:  # of pydantic's warnings
        raise TypeError(f"expected a {kind.__name__} as it was declared: {error}") from error
    json.dumps(plain, allow_nan=False)
    return plain


def from_plain(kind: type[T], value: Any, where: str = "") -> T:
    """Return a dataclass of type ``kind`` from what :func:`to_plain` made of it.

    Every field must be there, no other may be, and each must have the type it was declared with.

    Args:
        kind: The dataclass.
        value: What JSON gave.
        where: Path to the value, for messages.

    Raises:
        ValueError: Saying where what was expected, and what came.
    """
    declared: Any = kind
    try:
        built: T = _adapter(declared).validate_json(json.dumps([value]))[0]
    except ValidationError as error:
        raise ValueError(_sentence(error.errors()[0], where)) from error
    _check_complete(built, value, where)
    return built


@cache
def _adapter(kind: Any) -> TypeAdapter[tuple[Any]]:
    """Return the validator of a tuple of one dataclass: pydantic takes no settings for a bare one."""
    return TypeAdapter(tuple[kind], config=_STRICT)


def _check_complete(built: Any, plain: Any, where: str) -> None:
    """Raise ``ValueError`` if a field is not in ``plain``: its default may change, but not the file."""
    if is_dataclass(built):
        names = [field.name for field in fields(built)]
        if missing := sorted(set(names) - plain.keys()):
            kind = type(built).__name__
            raise ValueError(f"{where or kind}: expected the fields of {kind}, got no {', '.join(missing)}")
        for name in names:
            _check_complete(getattr(built, name), plain[name], f"{where}.{name}".lstrip("."))
    elif isinstance(built, tuple):
        for k, (part, plain_part) in enumerate(zip(built, plain, strict=True)):
            _check_complete(part, plain_part, f"{where}[{k}]")


def _sentence(problem: Mapping[str, Any], where: str) -> str:
    """Return where what was expected, and what came."""
    for part in problem["loc"][1:]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}"
    where = where.lstrip(".") or "value"
    context = problem.get("ctx", {})
    if problem["type"] == "value_error":  # of the dataclass's own checks
        return f"{where}: {context['error']}"
    if problem["type"] == "missing":
        return f"{where}: expected a value, got none"
    expected = _EXPECTED.get(problem["type"], problem["msg"]).format(**context)
    got = "null" if problem["input"] is None else repr(problem["input"])
    return f"{where}: expected {expected}, got {got if len(got) < 60 else got[:60] + '...'}"
