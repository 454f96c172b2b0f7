"""A JSON schema as text that llguidance takes, measured before anything walks or prints it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tramontane.server.notes import Notes
from tramontane.server.structured.format_error import FormatError
from tramontane.server.structured.json_schema import checkable

MAX_SCHEMA_CHARS = 128 * 1024
MAX_DEPTH = 64  # of a schema; llguidance's own parsers give up at about 100


def schema_text(
    schema: Mapping[str, Any], *, strict: bool, place: str, closed: bool | None = None, notes: Notes | None = None
) -> str:
    """A JSON schema as llguidance's `%json` takes it. With `strict`, what a grammar cannot hold is an error; without,
    it is left out of the check and named in `notes`. `closed` (by default what is not strict): objects that say nothing
    of further properties take none. Raises FormatError for a schema that is too large or too deep."""
    require_small(schema, place)
    # between two tokens of JSON a space, or a line break and indentation: weak models fill answers with spaces if let
    closed = not strict if closed is None else closed
    schema = checkable(schema, strict=strict, place=place, closed=closed, notes=notes)
    options = {"whitespace_pattern": r"[ ]?|\n[ ]{0,20}", "lenient": not strict}
    text = json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)
    if len(text) > MAX_SCHEMA_CHARS:
        raise FormatError(f"{place} comes to {len(text):,} characters; at most {MAX_SCHEMA_CHARS:,} are taken", place)
    return text


def require_small(schema: Any, place: str, max_chars: int = MAX_SCHEMA_CHARS) -> int:
    """At least how many characters of JSON `schema` has, counted no further than allowed. Raises FormatError for one
    that has more, or is nested too deeply."""
    num_chars, pending = 0, [(schema, 1)]
    while pending and num_chars <= max_chars:
        value, level = pending.pop()
        if level > MAX_DEPTH:
            raise FormatError(f"{place} is nested deeper than {MAX_DEPTH} levels", place)
        if isinstance(value, str):
            num_chars += len(value) + 2
        elif isinstance(value, int):
            num_chars += 1 + value.bit_length() // 4
        elif not isinstance(value, Mapping | list):
            num_chars += 4
        else:
            num_chars += 2 + 2 * len(value)
            if num_chars <= max_chars:
                num_chars += sum(map(len, value)) if isinstance(value, Mapping) else 0
                pending += [(inside, level + 1) for inside in (value.values() if isinstance(value, Mapping) else value)]
    if num_chars > max_chars:
        raise FormatError(f"{place} has too many characters; at most {max_chars:,} are taken", place)
    return num_chars
