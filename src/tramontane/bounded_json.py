"""What JSON of unknown origin may be made of, counted before it is parsed: parsed, `{}` takes thirty times its size."""

from __future__ import annotations

MAX_FIELDS = 3_000_000
MAX_LISTS = 800_000
MAX_OBJECTS = 300_000
"""The largest vocabularies: 262,000 tokens as objects of three fields, or half a million merges as lists of two."""


def structure_fault(text: bytes) -> str | None:
    """What `text` has too much of; signs within strings count too. None where it may be parsed."""
    for name, limit, signs in (
        ("objects", MAX_OBJECTS, (b"{",)),
        ("lists", MAX_LISTS, (b"[",)),
        ("fields", MAX_FIELDS, (b":", b",")),
    ):
        if sum(map(text.count, signs)) > limit:
            return f"its JSON holds more than {limit:,} {name}, which no model needs"
    return None
