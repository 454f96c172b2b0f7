"""A task of one's own: the questions of a file, answered by a choice or in words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tramontane.errors import DataError
from tramontane.evals.choices import LETTERS, choice_chance, choice_item, choice_scores
from tramontane.evals.item import Item, Question, Scores, Task
from tramontane.evals.questions import NUMBER, bare_phrase, last_number, numbers_in
from tramontane.evals.sources import file_name, read_rows


def question_task(path: Path) -> Task:
    """The task of `path` (JSON lines, Parquet; without choices also CSV). A record is
    `{"question", "choices", "answer"}` (the right choice as its text, its letter or its index from 0) or
    `{"question", "answer"}` (a text or number, or a list of those that count); `group` names the part of the task that
    it is reported under, other keys are left alone.

    Raises DataError naming the record that cannot be asked, or for a file that mixes both forms.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    rows = list(read_rows(path))
    if not rows:
        raise DataError(f"{path}: holds no questions")
    with_choices = [number for number, row in enumerate(rows) if row.get("choices")]
    if with_choices and len(with_choices) < len(rows):
        odd = next(number for number in range(len(rows)) if number not in with_choices)
        raise DataError(f"{path}: record {odd} has no choices, others have; put the two kinds into two files")
    read = _choice_item if with_choices else _answer_item
    items = [read(path, number, row) for number, row in enumerate(rows)]
    common: dict[str, Any] = {"name": f"questions:{path.stem}", "load": lambda _sources: items}
    if with_choices:
        settings = f"{file_name(path)}; 0 shots, choices after 'Question: …\\nAnswer:'"
        return Task(settings=settings, score=choice_scores, chance=choice_chance, headline="acc", **common)
    settings = f"{file_name(path)}; asked as a user's message; greedy; right if it says one of the answers that count"
    return Task(settings=settings, score=answer_scores, headline="contains", kind="generation", **common)


def answer_scores(item: Item, answers: Sequence[str]) -> Scores:
    """`contains`: an answer that counts stands in what was said, as whole words or as a number; `exact_match`: it is
    all of its first line (of numbers: the last one said). Compared without case, marks and articles."""
    said = answers[0]
    phrases, first_line = bare_phrase(" ".join(said.split())), bare_phrase(said)
    contains = is_exact = False
    for accepted in item.reference:
        if re.fullmatch(NUMBER, accepted):
            number = last_number(accepted)
            contains |= number in numbers_in(said)
            is_exact |= number == last_number(said)
        else:
            phrase = bare_phrase(accepted)
            contains |= f" {phrase} " in f" {phrases} "
            is_exact |= phrase == first_line
    return {"contains": float(contains), "exact_match": float(is_exact)}


def _question(path: Path, number: int, row: Mapping[str, Any]) -> str:
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{path}: record {number} needs `question`, a text; it has {', '.join(map(repr, row))}")
    return question.strip()


def _choice_item(path: Path, number: int, row: Mapping[str, Any]) -> Item:
    question, choices, answer = _question(path, number, row), row["choices"], row.get("answer")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        raise DataError(f"{path}: record {number}: choices must be a list of at least two texts")
    letters = LETTERS[: len(choices)]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        gold = answer
    elif isinstance(answer, str) and answer in choices:
        gold = choices.index(answer)
    elif isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip() in letters:
        gold = letters.index(answer.strip())
    else:
        raise DataError(f"{path}: record {number}: answer {answer!r} is none of the choices, their letters or indices")
    group = str(row.get("group", ""))
    return choice_item(f"{path.stem}/{number}", f"Question: {question}\nAnswer:", choices, gold, group=group)


def _answer_item(path: Path, number: int, row: Mapping[str, Any]) -> Item:
    question, answer = _question(path, number, row), row.get("answer")
    accepted = [str(each).strip() for each in (answer if isinstance(answer, list) else [answer]) if each is not None]
    if not accepted or not all(re.fullmatch(NUMBER, each) or bare_phrase(each) for each in accepted):
        raise DataError(f"{path}: record {number} needs `answer`: a text or a number, or a list of those that count")
    work = Question(prompt=question, max_tokens=256, is_chat=True)
    return Item(id=f"{path.stem}/{number}", work=work, reference=accepted, group=str(row.get("group", "")))
