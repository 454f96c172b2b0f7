"""Changes to JSON that keep it JSON: what random bytes seldom get past the parser with."""

from __future__ import annotations

import json
import random
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, 2**31, 2**53, 2**63, 2**64, 10**30, "", "x", "a" * 300, "\ud800", "\0", "../x",
    "[INST]", [], {}, [[]], [None], {"": {}}, {"type": "text", "text": "x"}, {"$ref": "#"}, {"type": "object"},
)  # fmt: skip
MOST_LEVELS = 40


def mutate_json(data: bytes, max_bytes: int, seed: int) -> bytes | None:
    """A few values replaced, removed, doubled or nested; None for what is no JSON, or would get too large."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    draw = random.Random(seed)
    for _ in range(draw.randrange(1, 4)):
        value = _changed(value, draw, MOST_LEVELS)
    changed = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    return changed if len(changed) <= max_bytes else None


def _changed(value: Any, draw: random.Random, levels: int) -> Any:
    """`value` with one change at a random place in it."""
    if levels and isinstance(value, dict | list) and value and draw.random() < 0.85:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        return _changed_at(value, key, draw, levels)
    match draw.randrange(5):
        case 0:
            return [value]
        case 1:
            return {draw.choice(("type", "a", "content", "properties")): value}
        case 2 if isinstance(value, str):
            place = draw.randrange(len(value) + 1)
            return value[:place] + draw.choice(("\u202e", "\n", "}", "x" * 50, '"', "\\")) + value[place:]
        case _:
            return draw.choice(HOSTILE)


def _changed_at(value: Any, key: Any, draw: random.Random, levels: int) -> Any:
    copy = value.copy()
    match draw.randrange(8):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, list):
            copy.insert(key, copy[key])
        case 1:
            copy[draw.choice(list(copy))] = copy[key]
        case 2 if isinstance(copy, dict):
            copy[key + draw.choice(("_", "s", " "))] = copy.pop(key)
        case _:
            copy[key] = _changed(copy[key], draw, levels - 1)
    return copy
