from __future__ import annotations

from typing import Any

import pytest

from tramontane.config import read_generation_config
from tramontane.errors import ConfigError


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ({}, {}),
        ({"temperature": 0.7, "top_p": 0.9, "min_p": 0.05}, {"temperature": 0.7, "top_p": 0.9, "min_p": 0.05}),
        ({"do_sample": True, "temperature": 1, "top_k": 40, "repetition_penalty": 1.1}, None),
        ({"do_sample": False, "temperature": 0.7}, {}),
        ({"top_k": 0, "temperature": None}, {}),
        ({"do_sample": False, "max_new_tokens": 512, "max_length": 20}, {"default_max_tokens": 512}),
        ({"bos_token_id": 1, "eos_token_id": [2, 3], "num_beams": 4, "transformers_version": "5.0"}, {}),
    ],
)
def test_what_is_stated_is_taken_and_nothing_else(data: dict[str, Any], advice: dict[str, Any] | None) -> None:
    expected = {name: value for name, value in data.items() if name != "do_sample"} if advice is None else advice
    assert read_generation_config(data) == expected


def test_an_answer_of_no_tokens_is_no_advice() -> None:
    with pytest.raises(ConfigError, match="max_new_tokens=0 must be at least 1"):
        read_generation_config({"max_new_tokens": 0})


@pytest.mark.parametrize("value", ["warm", True, [0.7], 1e999])
def test_a_value_that_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^generation_config.json: temperature="):
        read_generation_config({"temperature": value})
