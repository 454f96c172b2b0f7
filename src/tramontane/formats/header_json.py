"""JSON of untrusted files: bounded before it is parsed, duplicate keys refused."""

from __future__ import annotations

from collections import Counter

from tramontane.bounded_json import TENSOR_HEADER, parse_bounded, structure_fault
from tramontane.errors import CheckpointError
from tramontane.formats.names import shown


def read_json_object(text: bytes) -> dict[str, object]:
    """The object that `text` is. Raises CheckpointError, without the file's name, if it is anything else."""
    if text[:1] != b"{":
        raise CheckpointError("is not JSON where it should be")
    if fault := structure_fault(text, TENSOR_HEADER):
        raise CheckpointError(fault)
    try:
        fields = parse_bounded(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
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
