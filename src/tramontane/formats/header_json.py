"""JSON of untrusted files: bounded before it is parsed, duplicate keys refused."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tramontane.bounded_json import structure_fault
from tramontane.errors import CheckpointError
from tramontane.formats.names import shown


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


def read_json_object(text: bytes) -> dict[str, object]:
    """The object that `text` is. Raises CheckpointError, without the file's name, if it is anything else."""
    if text[:1] != b"{":
        raise CheckpointError("is not JSON where it should be")
    if fault := structure_fault(text):
        raise CheckpointError(fault)
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise CheckpointError("its JSON is nested too deeply") from None
    except ValueError as error:  # bad UTF-8, bad JSON, a number of thousands of digits
        raise CheckpointError(f"its JSON is not valid ({error.__class__.__name__}); download it again") from None
    if not isinstance(fields, dict):
        raise CheckpointError("its JSON is not an object")
    return fields


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise CheckpointError(f"its JSON names {shown([twice])} twice")
    return fields


def _refuse_constant(text: str) -> object:
    raise CheckpointError(f"its JSON holds {text}, which is not a number")
