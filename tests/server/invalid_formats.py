"""Response formats and tools that cannot be served: valid ones with one thing in them made wrong, never twice alike."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from typing import Any

Draw = random.Random
Schema = dict[str, Any]


def invalid_requests(seed: int) -> Iterator[dict[str, Any]]:
    """Fields for a chat request, without end."""
    draw = random.Random(seed)
    while True:
        yield draw.choice((_schema_format, _regex_format, _grammar_format, _tools))(draw)


def word(draw: Draw) -> str:
    return "".join(draw.choices(string.ascii_lowercase, k=draw.randrange(3, 9)))


def _schema_format(draw: Draw) -> dict[str, Any]:
    wanted = {"name": word(draw), "strict": True, "schema": _wrong_schema(draw)}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def _tools(draw: Draw) -> dict[str, Any]:
    """A forced call of a tool whose parameters make no schema."""
    name = word(draw)
    parameters = {"type": "object", "properties": {name: _wrong_schema(draw)}, "required": [name]}
    function = {"name": word(draw), "strict": True, "parameters": parameters}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": "any"}


WRONG: tuple[Callable[[Draw], Schema], ...] = (
    lambda draw: {"type": word(draw)},
    lambda draw: {"type": draw.randrange(99)},
    lambda draw: {"type": ["string", word(draw)]},
    lambda draw: {"$ref": f"#/$defs/{word(draw)}"},
    lambda draw: {"$ref": f"http://{word(draw)}.test/{word(draw)}"},
    lambda draw: {"enum": []},
    lambda draw: {"anyOf": []},
    lambda draw: {"not": {"type": "string", "description": word(draw)}},
    lambda draw: {"type": "array", "minItems": -draw.randrange(1, 99)},
    lambda draw: {"type": "string", "maxLength": word(draw)},
    lambda draw: {"type": "integer", "minimum": (n := draw.randrange(99)), "maximum": n - 1 - draw.randrange(99)},
    lambda draw: {"type": "object", "properties": [word(draw)]},
    lambda draw: {"type": "string", "pattern": _wrong_regex(draw)},
    lambda draw: {"type": "string", "format": word(draw)},
)


def _wrong_schema(draw: Draw) -> Schema:
    """A wrong schema, up to four deep in a good one that needs it."""
    schema = draw.choice(WRONG)(draw)
    for _ in range(draw.randrange(5)):
        name = word(draw)
        schema = draw.choice(
            (
                {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False},
                {"type": "array", "items": schema, "minItems": 1},
                {"$defs": {name: schema}, "$ref": f"#/$defs/{name}"},
            )
        )
    return schema


def _regex_format(draw: Draw) -> dict[str, Any]:
    return {"response_format": {"type": "regex", "regex": _wrong_regex(draw)}}


def _wrong_regex(draw: Draw) -> str:
    wrong = draw.choice(
        ("(", ")", "[", "*", "a{3,1}", "[z-a]", "(?=a)", "(?<!b)", r"(a)\1", r"\p{Wind}", "(?P<", "(?q)")
    )
    if wrong == "*":
        return wrong + word(draw)
    after = "" if wrong in ("(", "[", "(?P<") else draw.choice(("", "+", "?")) + word(draw)  # nothing may close it
    return draw.choice((word(draw), f"[{word(draw)}]+", f"({word(draw)})?", "")) + wrong + after


def _grammar_format(draw: Draw) -> dict[str, Any]:
    name = word(draw)
    grammar = draw.choice(
        (
            f"start: {name}",  # no such rule
            f'{name}: "a"',  # no start
            f'start: ("a" | {name.upper()}\n{name.upper()}: /x/',  # never closed
            f'start: "{name}',
            f"start: /{_wrong_regex(draw)}/",
            f'start: "a"\nstart: "{name}"',
            f"start: {name.upper()}\n{name.upper()}: {name}",  # a terminal of a rule
            f'%{name} "a"\nstart: "a"',
            f"start {name}",
            "start: " + "(" * draw.randrange(50, 500) + '"a"',
        )
    )
    return {"response_format": {"type": "grammar", "grammar": grammar}}
