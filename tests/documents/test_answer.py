"""Questions over a document: the right passages are shown, numbered in order, and cited."""

from __future__ import annotations

import pytest

from tests.documents.fake_llm import FakeLLM, as_llm
from tramontane.documents.answer import PASSAGE_TOKENS, answer_question
from tramontane.errors import RequestError

FILLER = [f"Paragraph {i} speaks of other things entirely, at some length and to no end." for i in range(200)]
TEXT = "\n\n".join([*FILLER[:150], "The tramontane reaches Perpignan on a hundred days a year.", *FILLER[150:]])


def test_the_passage_that_holds_the_answer_is_shown_and_cited() -> None:
    fake = FakeLLM(lambda prompt: "A hundred days [2], not [7].")
    answer = answer_question(as_llm(fake), TEXT, "How often does the tramontane reach Perpignan?", num_passages=3)
    assert len(answer.passages) == 3
    assert any("hundred days" in passage.text for passage in answer.passages)
    assert [p.start for p in answer.passages] == sorted(p.start for p in answer.passages)
    assert answer.cited == (2,)
    for number, passage in enumerate(answer.passages, 1):
        assert f"[{number}] {passage.text}" in fake.prompts[0]
        assert TEXT[passage.start :].lstrip().startswith(passage.text)


def test_a_short_document_is_shown_whole() -> None:
    fake = FakeLLM(lambda prompt: "Yes [1].")
    answer = answer_question(as_llm(fake), "Water is wet.", "Is water wet?")
    assert [p.text for p in answer.passages] == ["Water is wet."]


def test_passages_give_way_to_a_short_context() -> None:
    fake = FakeLLM(lambda prompt: "?", reach=2 * PASSAGE_TOKENS + 300)
    answer = answer_question(as_llm(fake), TEXT, "tramontane?", num_passages=50)
    assert 1 <= len(answer.passages) <= 2
    assert "tramontane reaches" in " ".join(p.text for p in answer.passages)


@pytest.mark.parametrize(("question", "passages", "message"), [(" ", 4, "empty"), ("x?", 0, "passages=0")])
def test_impossible_requests_are_refused(question: str, passages: int, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        answer_question(as_llm(FakeLLM(lambda prompt: "")), TEXT, question, num_passages=passages)


def test_what_a_model_thinks_first_is_not_its_answer() -> None:
    answer = answer_question(as_llm(FakeLLM(lambda prompt: "Hm [3].</think>Yes [1].")), "Water is wet.", "Is it?")
    assert (answer.text, answer.cited) == ("Yes [1].", (1,))
