"""generation_config.json: how the makers of a model advise drawing its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tramontane.config.fields import Fields
from tramontane.errors import ConfigError

NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty")


def read_generation_config(data: Mapping[str, Any], source: str = "generation_config.json") -> dict[str, float | int]:
    """The sampling settings of the file, by their names in SamplingParams: those stated, and no others.

    `max_new_tokens` is how long an answer becomes where nobody says. The file's other keys (beams, caches, token ids)
    belong to the library that wrote it. `do_sample` false makes it greedy, whatever else is stated; top_k 0 is no
    limit. Raises ConfigError for a value that is no number.
    """
    fields = Fields(data, source)
    length: dict[str, float | int] = {}
    if (max_new_tokens := fields.optional_integer("max_new_tokens")) is not None:
        if max_new_tokens < 1:
            raise ConfigError(f"{source}: max_new_tokens={max_new_tokens} must be at least 1")
        length["default_max_tokens"] = max_new_tokens
    advice: dict[str, float | int] = {}
    for name in NUMBERS:
        if (number := fields.optional_number(name)) is not None:
            advice[name] = number
    if top_k := fields.optional_integer("top_k"):
        advice["top_k"] = top_k
    return length | (advice if fields.flag("do_sample", default=True) else {})
