from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tramontane.data.chat_samples import parse_chat, parse_classifier, parse_preference
from tramontane.data.sample_files import check_file, read_samples
from tramontane.errors import DataError

GOOD: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "windy?"}]},
        {
            "role": "assistant",
            "content": "",
            "weight": 0,
            "tool_calls": [{"id": "abcdefghi", "function": {"name": "weather", "arguments": {"town": "Nice"}}}],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "yes"},
        {"role": "assistant", "content": "Yes."},
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}],
}


def test_a_whole_conversation() -> None:
    sample = parse_chat(GOOD)
    assert sample.is_learned == (False, True)
    assert sample.messages[1]["content"] == "Is it windy?"
    assert sample.messages[2]["tool_calls"][0]["function"]["arguments"] == '{"town": "Nice"}'
    assert "content" not in sample.messages[2]
    assert "weight" not in sample.messages[2]


def message(place: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda sample: sample["messages"][place].update(changes)


def call(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda sample: sample["messages"][2]["tool_calls"][0].update(changes)


def without(place: int) -> Callable[[dict[str, Any]], None]:
    return lambda sample: sample["messages"].pop(place)


def appended(value: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda sample: sample["messages"].append(value)


def tools(*values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda sample: sample.update(tools=list(values))


FUNCTION = {"type": "function", "function": {"name": "weather", "parameters": {}}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda sample: sample.update(extra=1), "unknown key 'extra'; known are messages, tools"),
        (lambda sample: sample.update(messages=[]), "at least one message"),
        (lambda sample: sample.update(messages="hi"), "must be a list"),
        (lambda sample: sample["messages"].insert(0, "hi"), "messages[0] must be an object"),
        (message(1, role="bot"), "messages[1]: role 'bot' is unknown; use system, user, assistant or tool"),
        (message(1, role=None), "role None is unknown"),
        (message(1, colour="red"), "messages[1] has unknown key 'colour'"),
        (message(1, content=""), "messages[1]: content is empty"),
        (message(1, content=" \n"), "messages[1]: content is empty"),
        (message(1, content=None), "content must be text, not NoneType"),
        (message(1, content=7), "content must be text, not int"),
        (message(1, content=[{"type": "image_url", "image_url": "x"}]), "a chunk that is not text"),
        (message(1, content="\ud83d"), "half of a character"),
        (message(4, weight=2), "weight 2 must be 0 (do not learn) or 1"),
        (message(4, weight=True), "weight True must be"),
        (message(4, weight=0), "nothing to learn"),
        (message(4, prefix=True), "a prefix cannot be learned from"),
        (message(2, content="and text"), "both content and tool_calls"),
        (message(2, tool_calls="x"), "tool_calls must be a list"),
        (message(2, tool_calls=["x"]), "tool_calls[0] must be an object"),
        (call(id=""), "must be a text of 1 to 64"),
        (call(id=5), "must be a text of 1 to 64"),
        (call(function={"name": "other", "arguments": "{}"}), "function 'other' is not declared; add it to tools"),
        (call(function={"name": "weather", "arguments": "{"}), "arguments must be a JSON object"),
        (call(function={"name": "weather", "arguments": "[1]"}), "arguments must be a JSON object"),
        (without(3), "messages[3]: tool call 'abcdefghi' has no result"),
        (message(3, tool_call_id="123456789"), "answers no open call; open are ['abcdefghi']"),
        (without(1), "messages[1]: role 'assistant' after role 'system'; expected 'user'"),
        (without(4), "the last message has role 'tool'; end with the assistant's answer"),
        (
            lambda sample: sample["messages"].append({"role": "user", "content": "x"}),
            "the last message has role 'user'",
        ),
        (
            lambda sample: sample["messages"].append(dict(sample["messages"][4])),
            "after role 'assistant'; expected 'user'",
        ),
        (lambda sample: sample["messages"].insert(2, dict(sample["messages"][1])), "role 'user' after role 'user'"),
        (lambda sample: sample["messages"].insert(4, dict(sample["messages"][3])), "answers no open call"),
        (lambda sample: sample.update(messages=sample["messages"][:3]), "tool call 'abcdefghi' has no result"),
        (tools(FUNCTION, FUNCTION), "'weather' is declared twice"),
        (tools("x"), 'tools[0] must be {"type": "function"'),
        (tools({"type": "function", "function": {"name": "a b"}}), "name 'a b' must be 1 to 64"),
        (tools({"type": "function", "function": {"name": "weather", "parameters": 3}}), "must be a JSON schema object"),
        (lambda sample: sample.update(tools={}), "tools must be a list"),
    ],
)
def test_every_mistake_is_told_with_its_remedy(change: Callable[[dict[str, Any]], Any], expected: str) -> None:
    sample = deepcopy(GOOD)
    change(sample)
    with pytest.raises(DataError) as caught:
        parse_chat(sample)
    assert expected in str(caught.value)


def test_a_call_id_is_used_once() -> None:
    sample = deepcopy(GOOD)
    sample["messages"] += [{"role": "user", "content": "Again?"}, *deepcopy(sample["messages"][2:])]
    with pytest.raises(DataError, match="'abcdefghi' was used before"):
        parse_chat(sample)


def test_preference_pairs() -> None:
    context = [*({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})]
    value = {"messages": [*context, {"role": "user", "content": "Joke?"}], "chosen": "Knock knock.", "rejected": "No."}
    pair = parse_preference(value)
    assert pair.chosen.is_learned == pair.rejected.is_learned == (False, True)
    assert pair.rejected.messages[-1] == {"role": "assistant", "content": "No."}
    for changes, expected in (
        ({"chosen": "No."}, "the same answer"),
        ({"chosen": ""}, "chosen: messages[3]: content is empty"),
        ({"rejected": {"role": "user", "content": "x"}}, "rejected must be the text of an answer"),
        ({"messages": context}, "chosen: messages[2]: role 'assistant' after role 'assistant'"),
        ({"messages": None}, "messages must be a list"),
        ({"score": 1}, "unknown key 'score'"),
    ):
        with pytest.raises(DataError) as caught:
            parse_preference(value | changes)
        assert expected in str(caught.value)


def test_classifier_samples() -> None:
    sample = parse_classifier({"text": "So happy!", "labels": {"emotion": "joy", "topics": ["self", "day"]}})
    assert sample.labels == {"emotion": ("joy",), "topics": ("self", "day")}
    talk = parse_classifier({"messages": [{"role": "user", "content": "Hi"}], "labels": {"emotion": "calm"}})
    assert talk.messages[0]["content"] == "Hi"
    for value, expected in (
        ({"text": "x", "labels": {}}, "labels must be an object"),
        ({"text": "x"}, "labels must be an object"),
        ({"labels": {"a": "b"}}, "either text or messages"),
        ({"text": "x", "messages": [], "labels": {"a": "b"}}, "either text or messages"),
        ({"text": "", "labels": {"a": "b"}}, "text is empty"),
        ({"text": "x", "labels": {"a": 1}}, "must be a text or a list of texts"),
        ({"text": "x", "labels": {"a": ["b", "b"]}}, "names a label twice"),
    ):
        with pytest.raises(DataError) as caught:
            parse_classifier(value)
        assert expected in str(caught.value)


HOSTILE: list[tuple[bytes, str]] = [
    (b"{", "not valid JSON"),
    (b"null", "a JSON NoneType"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"messages": NaN}', "NaN is not valid JSON"),
    (b"\xff\xfe{}", "byte 0 is not UTF-8"),
    (b"\x00\x01\x02binary", "not valid JSON"),
    (b'{"messages": ' + b"9" * 5000 + b"}", "not valid JSON"),
]


def test_a_file_is_checked_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"\n".join([good, *(line for line, _ in HOSTILE), b"", good]) + b"\n")
    check = check_file(path, parse_chat)
    assert (check.num_valid, check.num_invalid) == (2, len(HOSTILE))
    for place, (problem, (_, expected)) in enumerate(zip(check.problems, HOSTILE, strict=True)):
        assert problem.line == place + 2
        assert expected in problem.message
    assert len(check_file(path, parse_chat, max_problems=2).problems) == 2
    with pytest.raises(DataError, match=r"chat\.jsonl:2: not valid JSON"):
        list(read_samples(path, parse_chat))
    lines = [line for line, _ in read_samples(path, parse_chat, skip_invalid=True)]
    assert lines == [1, len(HOSTILE) + 3]


def test_a_huge_line_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tramontane.data.sample_files.MAX_LINE_BYTES", 2_000)
    path = tmp_path / "chat.jsonl"
    good = json.dumps(GOOD).encode()
    path.write_bytes(b"x" * 9_001 + b"\n" + good)
    check = check_file(path, parse_chat)
    assert (check.num_valid, check.num_invalid) == (1, 1)
    assert check.problems[0].line == 1


@pytest.mark.parametrize("data", [b"", b"\n\n"])
def test_an_empty_file_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(data)
    assert "empty" in check_file(path, parse_chat).problems[0].message
    with pytest.raises(DataError, match="holds no sample"):
        list(read_samples(path, parse_chat))


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert check_file(path, parse_chat).num_valid == 1
