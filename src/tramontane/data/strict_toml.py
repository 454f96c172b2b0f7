"""TOML tables into frozen dataclasses: no unknown key, every value of the declared type."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tramontane.errors import DataError

T = TypeVar("T")


def read_toml(path: Path, cls: type[T]) -> T:
    """The file as an instance of the dataclass `cls`. Raises DataError naming file, key and remedy."""
    return read_table(read_recipe_table(path), cls, str(path))


def read_recipe_table(path: Path) -> dict[str, Any]:
    """Raises DataError naming the file."""
    try:
        return parse_toml(path.read_text("utf-8"), str(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such recipe") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid TOML: {error}") from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Raises DataError for what is no TOML, or is nested deeper than anyone writes it."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{where}: not valid TOML: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: not valid TOML: nested too deeply") from None


def read_table(table: Mapping[str, Any], cls: type[T], where: str) -> T:
    """A parsed table as an instance of the dataclass `cls`; nested dataclasses, tuples and dicts of them included."""
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(fields)}"
            raise DataError(f"{where}: unknown key {key!r}; {remedy}")
    values = {key: _convert(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise DataError(f"{where}: key {name!r} is missing")
    try:
        return cls(**values)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _convert(value: Any, hint: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _convert(value, inner, where)
    if origin is Literal:
        if value not in arguments:
            raise DataError(f"{where}={value!r} must be one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise DataError(f"{where}={value!r} must be a list")
        return tuple(_convert(item, arguments[0], f"{where}[{place}]") for place, item in enumerate(value))
    if origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        if not isinstance(value, dict):
            raise DataError(f"{where}={value!r} must be a table")
        return {key: _convert(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise DataError(f"{where}={value!r} must be a table")
        return read_table(value, hint, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise DataError(f"{where}={value!r} must be of type {hint.__name__}")
    return value
