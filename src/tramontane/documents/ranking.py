"""Passages ranked by the words they share with a question: Okapi BM25 (Robertson and Zaragoza, 2009)."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

K1 = 1.2  # how soon a repeated word stops counting
B = 0.75  # how much a long passage is held back
# Scripts written without spaces are matched character by character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document: its text, where it starts (characters), and its score for the question."""

    start: int
    text: str
    score: float


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def rank(texts: Sequence[str], question: str) -> list[float]:
    """One BM25 score per text, 0 where it shares no word with the question; higher is better."""
    return score([Counter(words(text)) for text in texts], question)


def score(counts: Sequence[Counter[str]], question: str) -> list[float]:
    """As `rank`, of texts whose words are counted."""
    lengths = [count.total() for count in counts]
    mean_length = max(sum(lengths) / max(len(lengths), 1), 1.0)
    asked = set(words(question))
    containing = Counter(word for count in counts for word in count.keys() & asked)
    rarity = {word: math.log(1 + (len(counts) - n + 0.5) / (n + 0.5)) for word, n in containing.items()}
    return [
        sum(
            rarity[word] * count[word] * (K1 + 1) / (count[word] + K1 * (1 - B + B * length / mean_length))
            for word in count.keys() & asked
        )
        for count, length in zip(counts, lengths, strict=True)
    ]
