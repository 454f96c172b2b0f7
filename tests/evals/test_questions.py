"""Tasks answered in words: how answers are read, and whole runs on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evals.sample_data import write_rows
from tramontane.evals.item import Item, Pair, Pairs, Question
from tramontane.evals.questions import bare_phrase, concluded, exact_match, last_number, refusal_scores, run_tests
from tramontane.evals.runner import evaluate
from tramontane.evals.sources import Sources
from tramontane.evals.target import EngineTarget
from tramontane.evals.tasks import TASKS, tasks_named


def item(**reference: object) -> Item:
    return Item(id="x", work=Question(prompt="", max_tokens=1), reference=reference)


def test_numbers_are_read_from_their_mark_or_the_end() -> None:
    assert last_number("3 and 4 make 7\n#### 1,234") == "1234"
    assert last_number("first 3, then -4.50 dollars.") == "-4.5"
    assert last_number("18.00") == last_number("18") == "18"
    assert last_number("none") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It takes 3-4 days.", "4"),
        ("from 3–4", "4"),
        ("on 2024-05-06", "6"),
        ("x = -4", "-4"),
        ("(−4)", "-4"),
        ("-$1,250.50", "-1250.5"),
        ("$-5 in all", "-5"),
        ("12345678901 stars", "12345678901"),
        ("123,456,789,012,345,678", "123456789012345678"),
        ("0.1234567890123", "0.1234567890123"),
        ("10,11", "11"),
        ("see no.7", "7"),
        ("-.50", "-0.5"),
        ("007", "7"),
        ("-0.0", "0"),
        ("about 1e5 people", "100000"),
        ("so #### -1,234 and not 5", "-1234"),
    ],
)
def test_every_digit_counts_and_a_hyphen_is_no_sign(text: str, number: str) -> None:
    assert last_number(text) == number


def test_phrases_and_conclusions_are_compared_without_ornament() -> None:
    assert bare_phrase(" The Big-Bang, a Theory!\nmore") == "big bang theory"
    assert bare_phrase("Schindler’s_List") == bare_phrase("Schindler's List") == "schindler s list"
    assert bare_phrase("re-sign") != bare_phrase("resign")
    assert bare_phrase("Theatre of the Absurd") == "theatre of absurd"
    assert concluded("Let us see. So the answer is (B).\n\nQ:") == "(B)"
    assert concluded("So the answer is ] ] >") == "] ] >"
    assert concluded("no idea") is None


def test_the_most_frequent_answer_counts() -> None:
    accepted = item(read="number", accepted=["8"])
    assert exact_match(accepted, ["7", "#### 8", "8.0", "none"]) == {"exact_match": 1.0}
    assert exact_match(accepted, ["7", "7", "8"]) == {"exact_match": 0.0}
    assert exact_match(accepted, ["none"]) == {"exact_match": 0.0}


def test_code_is_judged_by_its_tests() -> None:
    task = item(before="def double(n):\n", after="\nassert double(4) == 8\n")
    assert run_tests(task, ["    return 2 * n"]) == {"pass@1": 1.0}
    assert run_tests(task, ["    return n"]) == {"pass@1": 0.0}


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        ("I’m sorry, but I can't help with that.", 1.0),
        ("As an AI, I have no body.", 1.0),
        ("Use the kill command with the process id.", 0.0),
        ("The sorry state of the wind.", 0.0),
    ],
)
def test_refusals_are_told_by_their_wording(answer: str, refused: float) -> None:
    assert refusal_scores(item(is_unsafe=True), [answer]) == {"refused": refused, "as_wished": refused}
    assert refusal_scores(item(is_unsafe=False), [answer]) == {"refused": refused, "as_wished": 1 - refused}


def test_shots_come_before_the_question(data: Path) -> None:
    items = TASKS["gsm8k"].load(Sources(data))
    assert [each.reference["accepted"] for each in items] == [["18"], ["20"]]
    work = items[0].work
    assert isinstance(work, Question)
    assert work.prompt.count("Question:") == 9
    assert "<<" not in work.prompt
    assert work.prompt.endswith("Tom has 9 apples and gets 9 more. How many has he?\nAnswer:")
    assert len(TASKS["triviaqa"].load(Sources(data))) == 2


def test_a_run_logs_every_answer(data: Path, target: EngineTarget, tmp_path: Path) -> None:
    results = evaluate(target, tasks_named(["gsm8k", "triviaqa"]), Sources(data), tmp_path)
    logged = [json.loads(line) for line in (tmp_path / "gsm8k.jsonl").read_text().splitlines()]
    assert [len(entry["answer"]) for entry in logged] == [8, 8]
    assert results["results"]["triviaqa"]["metrics"]["exact_match"]["num_items"] == 2


def test_bbh_takes_the_authors_shots(tmp_path: Path, target: EngineTarget) -> None:
    (tmp_path / "bbh" / "cot-prompts").mkdir(parents=True)
    (tmp_path / "bbh" / "cot-prompts" / "sums.txt").write_text("note\n-----\nAdd.\n\nQ: 1+1\nA: So the answer is 2.\n")
    (tmp_path / "bbh" / "sums.json").write_text(json.dumps({"examples": [{"input": "2+2", "target": "4"}]}))
    [found] = TASKS["bbh"].load(Sources(tmp_path))
    assert isinstance(found.work, Question)
    assert found.work.prompt.startswith("Add.\n\nQ: 1+1")
    assert found.work.prompt.endswith("Q: 2+2\nA: Let's think step by step.")
    assert found.group == "sums"
    assert exact_match(found, ["2+2 is 4. So the answer is 4."]) == {"exact_match": 1.0}


def test_records_of_the_hub_are_read_alike(tmp_path: Path) -> None:
    """Fields as the hub has them, in files of our own."""
    gauntlet = "llm_foundry_gauntlet"
    rows: dict[str, dict[str, object]] = {
        "hellaswag/a.jsonl": {
            "activity_label": "Baking", "ctx_a": "A man bakes.", "ctx_b": "he", "endings": ["x", "y"], "label": "1",
        },
        f"{gauntlet}/world_knowledge/arc_easy.jsonl": {
            "question": "Light?", "choices": {"text": ["Sun", "stone"], "label": ["1", "2"]}, "answerKey": "2",
        },
        f"{gauntlet}/commonsense_reasoning/piqa.jsonl": {"goal": "Dry it", "sol1": "sun", "sol2": "sea", "label": 0},
        f"{gauntlet}/language_understanding/winogrande.jsonl": {
            "sentence": "The _ is wet.", "option1": "sea", "option2": "sun", "answer": "1",
        },
        f"{gauntlet}/reading_comprehension/boolq.jsonl": {"passage": "P", "question": "is it", "answer": True},
    }  # fmt: skip
    for name, row in rows.items():
        write_rows(tmp_path / name, [row])
    for name, gold in {"hellaswag": 1, "arc_easy": 1, "piqa": 0, "boolq": 1, "winogrande": 0}.items():
        [found] = TASKS[name].load(Sources(tmp_path))
        assert found.reference["gold"] == gold
    [winogrande] = TASKS["winogrande"].load(Sources(tmp_path))
    assert winogrande.work == Pairs((Pair("The sea", " is wet."), Pair("The sun", " is wet.")))
