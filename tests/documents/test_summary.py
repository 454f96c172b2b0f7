"""Summaries: one pass when the text fits, a tree when it does not, always an end."""

from __future__ import annotations

import pytest

from tests.documents.fake_llm import FakeLLM, as_llm
from tramontane.documents.summary import summarize
from tramontane.errors import RequestError


def test_a_short_text_takes_one_instruction() -> None:
    fake = FakeLLM(lambda prompt: "Short.")
    summary = summarize(as_llm(fake), "A text.", num_words=20)
    assert (summary.text, summary.num_parts, summary.num_passes) == ("Short.", 1, 1)
    assert fake.prompts == [
        "<user>Summarize the text below in at most 20 words, saying only what it says.\n\nText:\nA text."
    ]


@pytest.mark.parametrize("has_chat", [True, False])
def test_a_long_text_is_read_whole_in_parts(has_chat: bool) -> None:
    facts = [f"Fact {i} holds." for i in range(2000)]
    fake = FakeLLM(lambda prompt: f"S{len(fake.prompts)}.", reach=2048, has_chat=has_chat)
    seen: list[tuple[int, int, int]] = []
    summary = summarize(as_llm(fake), "\n\n".join(facts), num_words=50, progress=lambda *p: seen.append(p))
    first_pass = [p for p in fake.prompts if "Fact" in p]
    assert summary.num_parts == len(first_pass) > 10
    for fact in facts:
        assert sum(f"{fact}\n" in f"{p}\n" for p in first_pass) == 1
    assert summary.num_passes >= 2
    assert summary.text == f"S{len(fake.prompts)}."
    assert all(f"S{i}." in "".join(fake.prompts) for i in range(1, summary.num_parts + 1))
    assert max(fake.batches) > 1
    assert seen[-1] == (summary.num_passes, 1, 1)
    assert [p[0] for p in seen] == sorted(p[0] for p in seen)


@pytest.mark.parametrize("answer", ["", "x" * 10_000, "é漢🙂" * 1000, "word " * 2000])
def test_every_model_comes_to_an_end(answer: str) -> None:
    fake = FakeLLM(lambda prompt: answer, reach=700)
    summary = summarize(as_llm(fake), "Some words here. " * 2000, num_words=30)
    assert summary.num_passes < 12


@pytest.mark.parametrize("num_words", [0, 9, 10_001, -5])
def test_impossible_lengths_are_refused(num_words: int) -> None:
    with pytest.raises(RequestError, match="words="):
        summarize(as_llm(FakeLLM(lambda prompt: "")), "x", num_words=num_words)


def test_a_context_too_short_names_the_remedy() -> None:
    with pytest.raises(RequestError, match=r"sees 200 tokens .* raise --max-seq-len"):
        summarize(as_llm(FakeLLM(lambda prompt: "", reach=200)), "x")
