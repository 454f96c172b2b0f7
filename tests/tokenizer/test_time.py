"""Time to encode adversarial text grows with its length: no pattern backtracks, no merge starts over."""

from __future__ import annotations

import time

import pytest

from tests.tokenizer.vocabularies import ours

UNITS = (
    *(" ", "\n", "\t", " \n", "a", "ab", "aA", "1", "1a", "é", "e\u0301", "\u0301", "'", "'s", "'S", "-", "!?", "{"),
    *("</s>", "[INST]", "[TOOL_CALLS]", "\u2028", "\U0001f600", "中", "\x00", "\ufffd", "a ", "  a", "a\n"),
)
NUM_CHARS = 5_000


def seconds(name: str, text: str) -> float:
    """Of this process's CPU, which other processes do not lengthen much; the least of two."""
    tokenizer, least = ours(name), float("inf")
    for _ in range(2):
        started = time.process_time()
        tokenizer.encode(text)
        least = min(least, time.process_time() - started)
    return least


@pytest.mark.parametrize("name", ["v3", "v3-tekken"])
def test_four_times_the_text_takes_about_four_times_as_long(name: str) -> None:
    for unit in UNITS:
        short, long = ((unit * num_chars)[:num_chars] for num_chars in (NUM_CHARS, 4 * NUM_CHARS))
        allowed = 8 * seconds(name, short) + 0.02  # quadratic: 16 times
        assert seconds(name, long) <= allowed, repr(unit)
