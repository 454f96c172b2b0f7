"""Answers fed with ids that a model would have to write: tool calls, reasoning, stop strings across tokens."""

from __future__ import annotations

import json

from tests.tokenizer.vocabularies import ours
from tramontane.engine.request import Output, SequenceId, TokenLogprobs
from tramontane.llm.answer import Answer
from tramontane.llm.completion import Choice, Delta
from tramontane.tokenizer import AnswerDelta, AnswerParser, joined_message


def feed(vocabulary: str, token_ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[Delta], Choice]:
    tokenizer = ours(vocabulary)
    answer = Answer(tokenizer, stop, index=0, continuation=False, parser=AnswerParser(tokenizer))
    deltas = []
    for place, token_id in enumerate(token_ids):
        last = place == len(token_ids) - 1
        deltas.append(answer.take(Output(SequenceId(0, 0), (token_id,), "stop" if last else None)))
        if answer.stopped_by is not None:
            break
    return deltas, answer.choice()


def test_tool_calls_are_kept_out_of_the_text() -> None:
    tokenizer = ours("v7-small")
    calls = [{"name": "weather", "arguments": {"town": "Arles"}, "id": "abcdefghi"}]
    token_ids = [
        *tokenizer.encode("Let me look."),
        tokenizer.control_id("[TOOL_CALLS]"),
        *tokenizer.encode(json.dumps(calls)),
        tokenizer.eos_id,
    ]
    deltas, choice = feed("v7-small", token_ids)
    assert "".join(delta.text for delta in deltas) == choice.text == "Let me look."
    assert choice.message is not None
    [call] = choice.message.tool_calls
    assert (call.name, json.loads(call.arguments_json)) == ("weather", {"town": "Arles"})
    assert joined_message([AnswerDelta(tool_calls=delta.tool_calls) for delta in deltas]).tool_calls == (call,)
    assert sum(bool(delta.tool_calls) for delta in deltas) > 3  # it was seen to grow
    assert choice.finish_reason == "stop"


def test_an_answer_that_ends_inside_a_call_ends_for_its_length() -> None:
    tokenizer = ours("v13-small")
    token_ids = [tokenizer.control_id("[TOOL_CALLS]"), *tokenizer.encode("f"), tokenizer.control_id("[ARGS]")]
    for rest in ('{"a": ', '{"a": "b'):
        deltas, choice = feed("v13-small", [*token_ids, *tokenizer.encode(rest), tokenizer.eos_id])
        assert (choice.finish_reason, deltas[-1].finish_reason, choice.text) == ("length", "length", "")
        assert choice.message is not None
        assert [(call.name, call.arguments_json) for call in choice.message.tool_calls] == [("f", rest)]


def test_a_malformed_call_is_text() -> None:
    tokenizer = ours("v7-small")
    token_ids = [*tokenizer.encode("Hm."), tokenizer.control_id("[TOOL_CALLS]"), *tokenizer.encode("[{oops")]
    deltas, choice = feed("v7-small", [*token_ids, tokenizer.eos_id])
    assert choice.text == "Hm.[{oops"
    assert "".join(delta.text for delta in deltas) == choice.text
    assert choice.message is not None
    assert choice.message.tool_calls == ()


def test_reasoning_is_apart_from_the_text() -> None:
    tokenizer = ours("v13-small")
    token_ids = [
        tokenizer.control_id("[THINK]"),
        *tokenizer.encode("I wonder…"),
        tokenizer.control_id("[/THINK]"),
        *tokenizer.encode("Yes."),
        tokenizer.eos_id,
    ]
    deltas, choice = feed("v13-small", token_ids)
    assert "".join(delta.thinking for delta in deltas) == "I wonder…"
    assert choice.text == "Yes."
    assert choice.message is not None
    assert choice.message.thinking == "I wonder…"


def test_a_stop_string_across_tokens() -> None:
    tokenizer = ours("v3")
    token_ids = tokenizer.encode("One two. END three")
    deltas, choice = feed("v3", token_ids, stop=("END",))
    assert choice.text == "One two. "
    assert "".join(delta.text for delta in deltas) == choice.text
    assert (choice.finish_reason, choice.stopped_by) == ("stop", "END")


def test_tokens_that_came_with_the_one_that_stopped_are_no_part_of_the_answer() -> None:
    """A step may bring several tokens; the answer is the one that they would have made one by one."""
    tokenizer = ours("v7-small")
    token_ids = tokenizer.encode("North wind, south wind, east wind and west wind.")
    one_by_one = feed("v7-small", token_ids, stop=("east",))[1]
    assert len(one_by_one.token_ids) < len(token_ids)
    logprobs = tuple(TokenLogprobs(token_id, -1.0, ()) for token_id in token_ids)
    answer = Answer(tokenizer, ("east",), index=0, continuation=False, parser=AnswerParser(tokenizer))
    delta = answer.take(Output(SequenceId(0, 0), tuple(token_ids), "length", logprobs))
    assert delta.finish_reason == "stop"
    assert answer.choice().token_ids == one_by_one.token_ids
    assert answer.choice().text == one_by_one.text == "North wind, south wind, "
    assert answer.choice().logprobs == logprobs[: len(one_by_one.token_ids)]
