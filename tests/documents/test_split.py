"""Pieces join to the text exactly, none is over-long, cuts fall on the best boundary."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.documents.fake_llm import ByteEncoder, WordEncoder
from tramontane.documents.split import split_by_tokens

TEXTS = st.text(alphabet=st.sampled_from("ab .\n!é漢🙂\t"), max_size=400) | st.text(max_size=200)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, max_tokens=st.integers(16, 64))
def test_pieces_join_to_the_text_and_fit(text: str, max_tokens: int) -> None:
    for encoder in (ByteEncoder(), WordEncoder()):
        pieces = split_by_tokens(text, encoder, max_tokens)
        assert "".join(piece.text for piece in pieces) == text
        for piece in pieces:
            assert piece.num_tokens == len(encoder.encode(piece.text)) <= max_tokens
            assert text[piece.start : piece.start + len(piece.text)] == piece.text


def test_cuts_fall_between_paragraphs_then_sentences() -> None:
    text = "One two three. Four five six.\n\nSeven eight nine. Ten eleven twelve.\n\nThirteen."
    pieces = split_by_tokens(text, ByteEncoder(), 50)
    assert [piece.text for piece in pieces] == [
        "One two three. Four five six.\n\n",
        "Seven eight nine. Ten eleven twelve.\n\nThirteen.",
    ]
    pieces = split_by_tokens(text, ByteEncoder(), 20)
    assert pieces[0].text == "One two three. "


def test_a_long_run_without_spaces_is_never_given_whole_to_the_tokenizer() -> None:
    encoder = ByteEncoder()
    pieces = split_by_tokens("a" * 1_000_000, encoder, 1000)
    assert max(encoder.lengths) <= 16_000
    assert all(piece.num_tokens <= 1000 for piece in pieces)


@pytest.mark.parametrize("text", ["Some words in a sentence. " * 4000, "x" * 100_000, "a b\n\n" * 20_000])
def test_no_text_is_encoded_more_than_a_few_times(text: str) -> None:
    encoder = ByteEncoder()
    split_by_tokens(text, encoder, 256)
    assert sum(encoder.lengths) <= 6 * len(text)


def test_a_limit_too_small_for_one_character_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        split_by_tokens("x", ByteEncoder(), 15)
