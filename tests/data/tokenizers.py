"""A small home-grown tokenizer for tests."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.temporary import temporary_folder
from tramontane.data.tokenizer_training import train_vocabulary, write_tekken

_TEXT = "The quick wind blows over hills and houses while children tell each other stories about a blue lantern. "


@functools.cache
def tokenizer_folder() -> Path:
    """A folder with a tekken.json of 400 tokens, made once per test run."""
    folder = temporary_folder()
    words = [f"{left}{right}" for left in _TEXT.split() for right in _TEXT.split()]
    write_tekken(folder / "tekken.json", train_vocabulary([_TEXT * 9, " ".join(words * 2)], 400))
    return folder
