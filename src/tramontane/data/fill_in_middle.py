"""Fill-in-the-middle samples: a text turned around so that its middle comes last (arXiv:2207.14255)."""

from __future__ import annotations

import random
from collections.abc import Callable

EncodeFim = Callable[[str, str], list[int]]
"""`(prompt, suffix) -> token ids` up to where the middle begins: `ChatFormat.encode_fim`."""


def split_middle(text: str, rng: random.Random) -> tuple[str, str, str]:
    """(prefix, middle, suffix) of `text`, cut at two places drawn evenly over its characters; together they are the
    text. The middle is never empty. Raises ValueError for an empty text."""
    if not text:
        raise ValueError("an empty text has no middle")
    start, end = sorted(rng.sample(range(len(text) + 1), 2))
    return text[:start], text[start:end], text[end:]


def encode_fill_in_middle(
    text: str,
    rng: random.Random,
    encode_fim: EncodeFim,
    encode: Callable[[str], list[int]],
    eos_id: int,
) -> tuple[list[int], int]:
    """Token ids of the turned text, closed by `eos_id`, and how many of them are given (what follows is the middle).

    The middle is written by itself, as the model will have to write it.
    """
    prefix, middle, suffix = split_middle(text, rng)
    given = encode_fim(prefix, suffix)
    return [*given, *encode(middle), eos_id], len(given)
