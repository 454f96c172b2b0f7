"""Reading JSON files of unknown origin: bounded size, bounded nesting, plain errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from tramontane.bounded_json import VOCABULARY, parse_bounded, structure_fault
from tramontane.errors import TokenizerError

T = TypeVar("T")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file. Raises TokenizerError naming the file when it is not one, too large or too nested."""
    try:
        with path.open("rb") as file:
            text = file.read(VOCABULARY.num_bytes + 1)
        if fault := structure_fault(text, VOCABULARY):
            raise TokenizerError(f"{path}: {fault}")
        data = parse_bounded(text)
    except RecursionError:
        raise TokenizerError(f"{path} is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise TokenizerError(f"{path} must hold a JSON object, not {type(data).__name__}")
    return data


def get(data: dict[str, Any], key: str, kind: type[T], source: str) -> T:
    """`data[key]`, proved to be of `kind` (a bool is no int). Raises TokenizerError naming source and key."""
    value = data.get(key)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        found = "absent" if key not in data else f"{type(value).__name__}"
        raise TokenizerError(f"{source}: {key} must be {kind.__name__}, but is {found}")
    return value
