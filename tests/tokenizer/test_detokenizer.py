"""Streaming text: what is shown is certain, and put together it is the whole, cut at the first stop string."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.corpus import EVERYTHING
from tests.tokenizer.vocabularies import ours, tiny_sentencepiece
from tramontane.errors import TokenizerError
from tramontane.tokenizer import Detokenizer, Tokenizer
from tramontane.tokenizer.detokenizer import StopStrings

NAMES = ("v3", "v7-small")


def first_stop(text: str, stops: list[str]) -> tuple[str, str | None]:
    """(text before the stop string that ends first, that string), found by looking at every place."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def check(tokenizer: Tokenizer, token_ids: list[int], stops: list[str], *, continuation: bool = False) -> None:
    detokenizer = Detokenizer(tokenizer, tuple(stops), continuation=continuation)
    whole = tokenizer.decode(token_ids, continuation=continuation)
    expected, stopped = first_stop(whole, stops)
    shown = ""
    for token_id in token_ids:
        shown += detokenizer.push(token_id)
        assert expected.startswith(shown)
    assert shown + detokenizer.finish() == expected
    assert detokenizer.stopped == stopped
    if stopped:
        assert detokenizer.push(token_ids[0]) == ""


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(NAMES), st.booleans(), st.data())
def test_pushes_and_finish_are_the_decoded_text_cut_at_the_first_stop(
    name: str, continuation: bool, data: st.DataObject
) -> None:
    tokenizer = ours(name)
    token_ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=20))
    text = tokenizer.decode(token_ids)
    stops = data.draw(st.lists(st.text("ab \ufffde", min_size=1, max_size=4), max_size=3))
    if text:
        start = data.draw(st.integers(0, len(text) - 1))
        stops.append(text[start : start + data.draw(st.integers(1, 6))])
    check(tokenizer, token_ids, stops, continuation=continuation)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text("abc", max_size=40), st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=4))
def test_overlapping_stops_in_text_of_few_letters(text: str, stops: list[str]) -> None:
    check(tiny_sentencepiece(), tiny_sentencepiece().encode(text), stops)


@pytest.mark.parametrize("name", NAMES)
def test_corpus_without_stops_is_shown_at_once(name: str) -> None:
    tokenizer = ours(name)
    for text in EVERYTHING[:200]:
        detokenizer = Detokenizer(tokenizer)
        assert "".join(map(detokenizer.push, tokenizer.encode(text))) == text
        assert detokenizer.finish() == ""


@pytest.mark.parametrize("name", NAMES)
def test_half_a_character_is_never_shown(name: str) -> None:
    tokenizer = ours(name)
    for text in ("👩‍👩‍👧‍👦", "日本語", "é𝔘"):
        detokenizer = Detokenizer(tokenizer)
        for token_id in tokenizer.encode(text):
            assert "\ufffd" not in detokenizer.push(token_id)
    family = tokenizer.encode("👩‍👩‍👧‍👦")
    detokenizer = Detokenizer(tokenizer)
    shown = "".join(map(detokenizer.push, family[:-1]))
    assert "\ufffd" not in shown
    assert detokenizer.finish() in ("\ufffd", "")


def test_the_first_space_is_kept_only_in_a_continuation() -> None:
    tokenizer = ours("v3")
    token_ids = tokenizer.encode("Paris")
    assert Detokenizer(tokenizer).push(token_ids[0]) == "Paris"
    assert Detokenizer(tokenizer, continuation=True).push(token_ids[0]) == " Paris"
    after_control = Detokenizer(tokenizer)
    assert [after_control.push(token_id) for token_id in (1, 3, token_ids[0], token_ids[0])] == [
        "",
        "",
        "Paris",
        " Paris",
    ]


def test_a_stop_string_is_held_back_until_it_is_none() -> None:
    tokenizer = ours("v7-small")
    detokenizer = Detokenizer(tokenizer, ("\n\nUser",))
    shown = [detokenizer.push(token_id) for token_id in tokenizer.encode("yes\n\nUs")]
    assert "".join(shown) == "yes"
    assert detokenizer.push(tokenizer.encode("!")[0]) == "\n\nUs!"
    rest = [detokenizer.push(token_id) for token_id in tokenizer.encode("\n\nUser: more")]
    assert "".join(rest) == ""
    assert detokenizer.stopped == "\n\nUser"
    assert detokenizer.finish() == ""


def test_a_stop_string_left_open_at_the_end_is_text() -> None:
    stops = StopStrings(["END"])
    assert stops.push("the EN") == "the "
    assert stops.finish() == "EN"
    assert stops.stopped is None


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("a" * 20_000, ["a" * 10_001 + "b"]),
        ("ab" * 10_000, ["ab" * 400 + "c", "abababac", "b" * 50]),
        (("a" * 99 + "c") * 200, ["a" * 100]),
    ],
)
def test_work_grows_with_the_text_and_not_with_the_stops(text: str, stops: list[str]) -> None:
    """Two comparisons per character and stop at most, on texts made to be expensive."""
    stream = StopStrings(stops)
    shown = [stream.push(text[place : place + 7]) for place in range(0, len(text), 7)]
    assert "".join(shown) + stream.finish() == text
    assert stream.stopped is None
    assert len(text) * len(stops) <= stream.comparisons <= 2 * len(text) * len(stops)


@pytest.mark.parametrize("stop", ["text", ("",), (1,), ("a", "")])
def test_impossible_stops_are_refused(stop: tuple[str, ...]) -> None:
    with pytest.raises(TokenizerError, match="non-empty strings"):
        Detokenizer(ours("v3"), stop)
