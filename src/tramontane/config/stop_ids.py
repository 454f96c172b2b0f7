"""Token ids that end an answer, as the configuration files of a checkpoint state them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tramontane.config.fields import Fields

KEY = "eos_token_id"


def read_stop_ids(data: Mapping[str, Any], source: str, vocab_size: int) -> tuple[int, ...]:
    """Every `eos_token_id` of config.json or generation_config.json, sorted; that of a nested `text_config` too.

    One id or a list of them. Raises ConfigError, naming file and key, for a value that is no id, or an id for which
    the embedding table has no row.
    """
    fields = Fields(data, source)
    stop_ids = _read(fields, vocab_size)
    if isinstance(data.get("text_config"), Mapping) and (nested := fields.optional_section("text_config")) is not None:
        stop_ids |= _read(nested, vocab_size)
    return tuple(sorted(stop_ids))


def _read(fields: Fields, vocab_size: int) -> set[int]:
    if fields.is_list(KEY):
        values = fields.optional_list(KEY) or []
    else:
        value = fields.optional_integer(KEY)
        values = [] if value is None else [value]
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool):
            fields.refuse(KEY, "must be a token id or a list of token ids")
        if not 0 <= value < vocab_size:
            fields.refuse(KEY, f"is outside the vocabulary of {vocab_size} tokens; give the id of the model's own end")
    return set(values)
