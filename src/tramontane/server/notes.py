"""Notes: what of a request its answer does not show, told in the answer's headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

IGNORED = "x-ignored-fields"
CHANGED = "x-changed-fields"
MAX_NAMES = 20
MAX_NAME_CHARS = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9_.:$/@\[\]-]")


@dataclass(slots=True)
class Notes:
    """Names of fields, dotted where they lie inside others: those without effect, and those that were read as something
    else than what they say, such as a max_tokens beyond the context."""

    ignored: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)

    @property
    def headers(self) -> Mapping[str, str]:
        return {name: _listed(names) for name, names in ((IGNORED, self.ignored), (CHANGED, self.changed)) if names}


def header_text(name: str) -> str:
    """What a client sent, or a model is called, may hold anything, line ends included. Of what is long, the middle is
    left out: of a place inside a schema, both ends tell where it is."""
    if len(name) > MAX_NAME_CHARS:
        half = MAX_NAME_CHARS // 2 - 1
        name = f"{name[:half]}..{name[-half:]}"
    return _UNSAFE.sub("?", name)


def _listed(names: set[str]) -> str:
    shown = [header_text(name) for name in sorted(names)[:MAX_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")
