"""JSON of unknown origin: what it may be made of is counted before it is parsed; parsed, `{}` takes thirty times its
size."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class JsonLimits(NamedTuple):
    """The most of each that a file may hold; signs within strings count too."""

    num_bytes: int
    objects: int
    lists: int
    fields: int


VOCABULARY = JsonLimits(64 << 20, 300_000, 800_000, 3_000_000)
"""The largest: 262,000 tokens as objects of three fields, or half a million merges as lists of two, in 33 MB."""

TENSOR_HEADER = JsonLimits(32 << 20, 150_000, 300_000, 1_500_000)
"""Of 130,000 tensors; the largest mixtures have some 50,000, in 7 MB."""

CONFIG = JsonLimits(8 << 20, 50_000, 100_000, 400_000)
"""The largest name tokens or labels: some thousand, in less than 1 MB."""


def structure_fault(text: bytes, limits: JsonLimits) -> str | None:
    """What `text` has too much of. None where it may be parsed."""
    if len(text) > limits.num_bytes:
        return f"it is larger than {limits.num_bytes >> 20} MiB, which no model needs"
    for name, limit, signs in (
        ("objects", limits.objects, (b"{",)),
        ("lists", limits.lists, (b"[",)),
        ("fields", limits.fields, (b":", b",")),
    ):
        if sum(map(text.count, signs)) > limit:
            return f"its JSON holds more than {limit:,} {name}, which no model needs"
    return None


def parse_bounded(text: bytes, **hooks: Callable[..., Any]) -> Any:
    """`json.loads` of a text in which `structure_fault` finds none; its errors."""
    with collector_paused():
        return json.loads(text.decode("utf-8"), **hooks)  # type: ignore[arg-type]  # any of its hooks


@contextmanager
def collector_paused() -> Iterator[None]:
    """For building many small objects without cycles: collections triggered on the way take most of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
