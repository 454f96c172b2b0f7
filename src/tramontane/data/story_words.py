"""Who and what a story is about: names and memorable words, to ask for a story with them."""

from __future__ import annotations

import random
import re
from collections import Counter

_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,11}\b")
_WORD = re.compile(r"\b[a-z]{4,10}\b")
_DAYS = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Christmas", "God", "English"}
_COMMON_TEXT = """
about after again along also always another around asked away back because been before began being both came
come could day didn does done down each even ever every everyone felt find first found from gave going good
great have having hear heard help here home into just kept knew know later like liked little long look looked
looking made make many more most much must named need never next once only other over play played right said
same saying says seen some something soon started still such take than that their them then there these they
thing things think this those thought time together told took tried turn until upon very want wanted wants
went were what when where which while will wish with without would your yours
"""
_COMMON = frozenset(_COMMON_TEXT.split())


def characters(text: str, most: int = 2) -> list[str]:
    """Names that stand inside sentences at least twice, the most frequent first."""
    names = Counter(name for name in _NAME.findall(text) if name not in _DAYS)
    return [name for name, count in names.most_common(most) if count >= 2]


def memorable_words(text: str, rng: random.Random, count: int = 3) -> list[str]:
    """Up to `count` content words that occur once to four times, drawn by `rng`, in order of appearance."""
    counts = Counter(_WORD.findall(text))
    candidates = [word for word, times in counts.items() if times <= 4 and word not in _COMMON]
    drawn = rng.sample(candidates, min(count, len(candidates)))
    return sorted(drawn, key=text.index)
