"""Records as they lie in source files, each with its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something came from: source name of the recipe, file (relative to the data folder; archive members after
    a "!") and row in it, counted from 1."""

    source: str
    path: str
    row: int

    def __str__(self) -> str:
        return f"{self.path}:{self.row}"


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source file. Text files give the single field `text`."""

    fields: Mapping[str, Any]
    origin: Origin
