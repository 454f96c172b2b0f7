"""Kneser-Ney against a direct reading of its formulas, and as a target."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from tramontane.evals.ngram import FALLBACK, ORDER, KneserNey, NgramTarget
from tramontane.evals.runner import evaluate
from tramontane.evals.sources import Sources
from tramontane.evals.tasks import tasks_named
from tramontane.llm import LLM

VOCAB = 7


def texts(num_texts: int, seed: int) -> list[list[int]]:
    """Texts that begin with 0 and tend to count upwards."""
    draw = random.Random(seed)
    made = []
    for _ in range(num_texts):
        text = [0]
        for _ in range(draw.randint(3, 25)):
            text.append(1 + (text[-1] + draw.choice((0, 0, 0, 1, 2))) % (VOCAB - 1))
        made.append(text)
    return made


def trained(documents: list[list[int]]) -> KneserNey:
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    return KneserNey(np.array([t for text in documents for t in text]), starts, VOCAB)


class Slow:
    """The definition, with dictionaries."""

    def __init__(self, documents: list[list[int]]) -> None:
        raw = [
            Counter(tuple(text[i : i + n]) for text in documents for i in range(len(text) - n + 1))
            for n in range(1, ORDER + 1)
        ]
        self.counts: list[dict[tuple[int, ...], int]] = []
        for n, occurrences in enumerate(raw, start=1):
            preceded = Counter(longer[1:] for longer in raw[n]) if n < ORDER else Counter()
            self.counts.append({g: c if n == ORDER or g[0] == 0 else preceded[g] for g, c in occurrences.items()})
        self.discounts: list[tuple[float, ...]] = []
        for counts in self.counts:
            n1, n2, n3, n4 = (sum(c == k for c in counts.values()) for k in (1, 2, 3, 4))
            if n1 * n2 * n3 * n4 == 0:
                self.discounts.append((0, *FALLBACK))
                continue
            y = n1 / (n1 + 2 * n2)
            self.discounts.append((0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3))
        assert sum(discounts[1:] == FALLBACK for discounts in self.discounts) <= 2
        self.followers: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for n, counts in enumerate(self.counts, start=1):
            for gram, count in counts.items():
                self.followers[gram[:-1]].append((n, count))

    def probability(self, context: tuple[int, ...], token: int) -> float:
        below = 1 / VOCAB if not context else self.probability(context[1:], token)
        followers = self.followers.get(context)
        if not followers:
            return below
        discount = self.discounts[len(context)]
        total = sum(count for _, count in followers)
        count = self.counts[len(context)].get((*context, token), 0)
        left = sum(discount[min(c, 3)] for _, c in followers)
        return (max(count - discount[min(count, 3)], 0) + left * below) / total


def test_probabilities_are_those_of_the_definition() -> None:
    documents = texts(60, seed=1)
    model, slow = trained(documents), Slow(documents)
    assert all(
        0 <= d <= k for discounts in slow.discounts for k, d in enumerate(discounts)
    )  # else the seed is a bad one
    for text in texts(10, seed=2):
        wanted = [math.log(slow.probability(tuple(text[max(0, i - 4) : i]), token)) for i, token in enumerate(text)]
        assert model.logprobs(text) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_probabilities_add_up_to_one() -> None:
    model = trained(texts(60, seed=1))
    for context in ([0], [0, 1, 2, 3], [5, 5, 5, 5], [3, 4, 5, 6], [6, 0, 6, 0]):
        total = sum(math.exp(model.logprobs([*context, token])[-1]) for token in range(VOCAB))
        assert total == pytest.approx(1, rel=1e-5)


def test_as_a_target_it_is_measured_like_a_model(llm: LLM, data: Path, tmp_path: Path) -> None:
    tokenizer = llm.tokenizer
    documents = [tokenizer.encode(text, bos=True) for text in ("Anna saw herself.", "The boys helped themselves.") * 3]
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    model = KneserNey(np.array([t for text in documents for t in text]), starts, tokenizer.vocab_size)
    target = NgramTarget(model, tokenizer, "5-gram", window=64, stride=32)
    results = evaluate(target, tasks_named(["blimp"]), Sources(data), tmp_path)
    assert results["results"]["blimp"]["groups"]["anaphor_agreement"]["acc"]["value"] == 1.0
