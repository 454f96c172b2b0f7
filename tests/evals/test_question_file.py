"""Questions of one's own: how records are read, judged and refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.evals.sample_data import write_rows
from tramontane.errors import DataError
from tramontane.evals.item import Item, Pair, Pairs, Question
from tramontane.evals.question_file import answer_scores, question_task
from tramontane.evals.runner import evaluate
from tramontane.evals.sources import Sources
from tramontane.evals.target import EngineTarget


def said(answer: str, accepted: Sequence[str]) -> dict[str, float]:
    return answer_scores(Item(id="x", work=Question(prompt="", max_tokens=1), reference=list(accepted)), [answer])


def test_an_answer_counts_where_it_is_said() -> None:
    assert said("It is Paris, of course.", ["Paris"]) == {"contains": 1.0, "exact_match": 0.0}
    assert said("The Paris!\nand more", ["paris"]) == {"contains": 1.0, "exact_match": 1.0}
    assert said("Parisian", ["Paris"]) == {"contains": 0.0, "exact_match": 0.0}
    assert said("Either Rome\nor New\nYork", ["Oslo", "New York"]) == {"contains": 1.0, "exact_match": 0.0}


def test_numbers_are_compared_as_numbers() -> None:
    assert said("There are 1,250.0 of them in 3 rows", ["1250"]) == {"contains": 1.0, "exact_match": 0.0}
    assert said("in 3 rows: 1,250", ["1250"]) == {"contains": 1.0, "exact_match": 1.0}
    assert said("in 3-4 days", ["-4"]) == {"contains": 0.0, "exact_match": 0.0}
    assert said("12500", ["1250"]) == {"contains": 0.0, "exact_match": 0.0}


@pytest.mark.parametrize("answer", [1, "B", "the Loire"])
def test_choices_are_named_by_text_letter_or_index(tmp_path: Path, answer: object) -> None:
    path = tmp_path / "rivers.jsonl"
    write_rows(path, [{"question": "The longest?", "choices": ["the Seine", "the Loire"], "answer": answer, "id": 7}])
    [item] = question_task(path).load(Sources())
    context = "Question: The longest?\nAnswer:"
    assert item.work == Pairs((Pair(context, " the Seine"), Pair(context, " the Loire")))
    assert item.reference["gold"] == 1


def test_own_questions_are_measured(target: EngineTarget, tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"question": f"{n} + {n}?", "answer": 2 * n, "group": "sums"} for n in range(3)])
    rows = [{"question": "Wet?", "choices": ["water", "sand", "salt"], "answer": "water"} for _ in range(2)]
    write_rows(tmp_path / "b.jsonl", rows)
    tasks = [question_task(tmp_path / "a.jsonl"), question_task(tmp_path / "b.jsonl")]
    results = evaluate(target, tasks, Sources(), tmp_path / "out")["results"]
    assert results["questions:a"]["headline"] == "contains"
    assert results["questions:a"]["metrics"]["contains"]["num_items"] == 3
    assert results["questions:b"]["chance"]["acc"] == pytest.approx(1 / 3)
    logged = [json.loads(line) for line in (tmp_path / "out" / "questions-a.jsonl").read_text().splitlines()]
    assert [entry["prompt"] for entry in logged] == ["0 + 0?", "1 + 1?", "2 + 2?"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no questions"),
        ([{"prompt": "a"}], "record 0 needs `question`, a text; it has 'prompt'"),
        ([{"question": "a"}], "record 0 needs `answer`"),
        ([{"question": "a", "answer": ["", "b"]}], "record 0 needs `answer`"),
        ([{"question": "a", "choices": ["x", "y"], "answer": 2}], "answer 2 is none of the choices"),
        ([{"question": "a", "choices": ["x", "y"], "answer": True}], "answer True is none of the choices"),
        ([{"question": "a", "choices": ["x"], "answer": 0}], "choices must be a list of at least two"),
        (
            [{"question": "a", "choices": ["x", "y"], "answer": 0}, {"question": "b", "answer": "c"}],
            "record 1 has no ch",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_record(tmp_path: Path, rows: list[Any], message: str) -> None:
    write_rows(tmp_path / "own.jsonl", rows)
    with pytest.raises(DataError, match=message):
        question_task(tmp_path / "own.jsonl")
