"""Every check of IFEval on an answer that follows its instruction and on some that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evals.sample_data import write_rows
from tramontane.errors import DataError
from tramontane.evals.instructions import CHECKS, IFEVAL, count_sentences, follows, load_ifeval
from tramontane.evals.sources import Sources

LONG = "The old man walked slowly along the river and thought about the days of his youth. "
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["wind", "sea"]}, ["The Wind and the sea"], ["wind only", "winter"]),
    ("keywords:frequency", {"keyword": "wind", "frequency": 2, "relation": "at least"}, ["wind, Wind"], ["wind"]),
    ("keywords:frequency", {"keyword": "wind", "frequency": 2, "relation": "less than"}, ["wind"], ["wind wind"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rain"]}, ["a train"], ["Rain fell"]),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, ["Zz"], ["z"]),
    ("language:response_language", {"language": "de"}, ["Der Wind kam aus den Bergen und es war sehr kalt."], [LONG]),
    ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"},
     ["One. Two."], ["One. Two! Three?"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["don't go home"], ["don't go"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     ["a\n***\nb", "a *** b\n***"], ["a", "a\n***\n***\nb"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
     ["One.\n\n\"Then, two."], ["One.\n\nNow two.", "Then.", "a\n\nthen\n\nb"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] of [city]"], ["[name]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. more", "x\n\n p. s. y"], ["Bye. PS"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Bye.\nP.P.S more"], ["Bye.\nP.S. more"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "- a\n  - b"], ["* a", "**bold**\n* a"]),
    ("detectable_format:constrained_response", {}, ["My answer is maybe."], ["Maybe."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2},
     ["*a* and **b**"], ["*a* and * *", "** **"]),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2},
     ["Section 1\nx\nSection 2\ny"], ["Section 1\nx", "Section one"]),
    ("detectable_format:json_format", {}, ['{"a": [1]}', '```json\n{"a": 1}\n```'], ["{a: 1}", "Here: {}"]),
    ("detectable_format:title", {}, ["<<the wind>>\ntext"], ["<< >>", "the wind"]),
    ("combination:two_responses", {}, ["a\n******\nb"], ["a\n******\na", "a", "a******b******c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, ["say hi. Hi!"], ["Hi!"]),
    ("startend:end_checker", {"end_phrase": "That is all."},
     ["Text. That is all.", 'x "That is all."'], ["That is all. x"]),
    ("startend:quotation", {}, ['"text"'], ["text", '"']),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"},
     ["A wind"], ["THE WIND"]),
    ("change_case:english_capital", {}, [LONG.upper()],
     [LONG, "DER WIND KAM AUS DEN BERGEN UND ES WAR SEHR KALT HEUTE"]),
    ("change_case:english_lowercase", {}, [LONG.lower()], [LONG]),
    ("punctuation:no_comma", {}, ["no pause"], ["one, two"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[case[0] for case in CASES])
def test_check(name: str, arguments: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not follows(text, name, arguments)] == []
    assert [text for text in (*bad, "", " ") if follows(text, name, arguments)] == []


def test_every_check_has_a_case() -> None:
    assert {name for name, *_ in CASES} == CHECKS.keys()


def test_sentences_are_counted_past_abbreviations() -> None:
    assert count_sentences('Dr. Who met Mr. A. Smith. "Where?" he asked! It was 3.5 miles away') == 3 + 1


def test_scores_are_strict_and_loose(tmp_path: Path) -> None:
    row = {
        "key": 7,
        "prompt": "Say it.",
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{}, {"num_words": None}],
    }
    write_rows(tmp_path / "ifeval" / "ifeval_input_data.jsonl", [row])
    [item] = load_ifeval(Sources(tmp_path))
    scores = IFEVAL.score(item, ['Sure, here it is:\n"The wind"'])
    assert (scores["prompt_strict"], scores["prompt_loose"]) == (0.0, 1.0)
    assert (scores["followed_strict"], scores["followed_loose"], scores["instructions"]) == (0.0, 2.0, 2.0)
    write_rows(tmp_path / "ifeval" / "ifeval_input_data.jsonl", [row | {"instruction_id_list": ["a:b", "c:d"]}])
    with pytest.raises(DataError, match="prompt 7 has the instruction 'a:b'"):
        load_ifeval(Sources(tmp_path))
