"""BM25 against the formula worked by hand, and what it must prefer."""

from __future__ import annotations

import math

import pytest

from tramontane.documents.ranking import rank


def test_scores_equal_the_formula() -> None:
    texts = ["wind wind north", "sea", "north sea wind"]
    k1, b, mean = 1.2, 0.75, 7 / 3

    def term(count: int, length: int, containing: int) -> float:
        rarity = math.log(1 + (3 - containing + 0.5) / (containing + 0.5))
        return rarity * count * (k1 + 1) / (count + k1 * (1 - b + b * length / mean))

    expected = [term(2, 3, 2) + term(1, 3, 2), 0.0, term(1, 3, 2) + term(1, 3, 2)]
    assert rank(texts, "Wind, NORTH?") == pytest.approx(expected)


def test_rare_words_weigh_more_than_common_ones() -> None:
    texts = ["the cat the cat", "the tramontane", "the dog", "the sea"]
    scores = rank(texts, "the tramontane")
    assert max(range(4), key=scores.__getitem__) == 1


@pytest.mark.parametrize(("texts", "question"), [([], "x"), (["", ""], "x"), (["a b"], ""), (["a b"], "!?")])
def test_nothing_to_match_scores_zero(texts: list[str], question: str) -> None:
    assert rank(texts, question) == [0.0] * len(texts)


def test_scripts_without_spaces_match_by_character() -> None:
    scores = rank(["風は北から吹く", "海は青い"], "北風")
    assert scores[0] > scores[1] == 0
