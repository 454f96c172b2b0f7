from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tramontane.data.chat_samples import parse_chat, parse_classifier, parse_preference
from tramontane.data.sample_files import check_file, read_samples
from tramontane.data.sample_notes import SampleNotes
from tramontane.errors import DataError
from tramontane.tokenizer.messages import Message, Thinking, ToolCall

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
    assert sample.messages[1].chunks == ("Is it ", "windy?")
    assert sample.messages[2].tool_calls == (ToolCall("abcdefghi", "weather", '{"town": "Nice"}'),)
    assert not sample.messages[2].has_content
    assert [tool.name for tool in sample.tools] == ["weather"]


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
        (lambda sample: sample.update(messages=[]), "at least one message"),
        (lambda sample: sample.update(messages="hi"), "must be a list"),
        (lambda sample: sample["messages"].insert(0, "hi"), "messages[0] must be a mapping"),
        (message(1, role="bot"), "messages[1].role='bot' is not known; use one of system, user, assistant, tool"),
        (message(1, role=None), "role=None is not known"),
        (message(1, content=None), "messages[1].content is missing"),
        (message(1, content=7), "content must be text or a list of chunks"),
        (message(1, content=[{"type": "image_url", "image_url": "x"}]), "type 'image_url' is not supported"),
        (message(1, images=["x.png"]), "messages[1].images: only text can be learned from"),
        (message(1, content="\ud83d"), "half of a character"),
        (message(4, content=""), "messages[4]: content is empty; write an answer or remove"),
        (message(4, content=" \n"), "nothing is left to learn: answers of nothing but blank space"),
        (message(4, weight=2), "weight 2 must be 0 (do not learn) or 1"),
        (message(4, weight=0.5), "weight 0.5 must be 0"),
        (message(4, weight=0), "nothing to learn"),
        (message(4, prefix=True), "must end with a whole message of the assistant"),
        (message(2, tool_calls="x"), "tool_calls must be a list"),
        (message(2, tool_calls=["x"]), "tool_calls[0] must be a mapping"),
        (call(id=5), "id must be text"),
        (without(3), "messages[3]: the calls before it have too few results"),
        (without(4), "must end with a whole message of the assistant"),
        (appended({"role": "user", "content": "x"}), "must end with a whole message of the assistant"),
        (
            appended({"role": "assistant", "content": "x", "weight": 0}),
            "messages[5]: follows an assistant message of an",
        ),
        (lambda sample: sample["messages"].insert(4, dict(sample["messages"][3])), "have too many results"),
        (lambda sample: sample["messages"].insert(1, dict(sample["messages"][3])), "tool cannot follow role system"),
        (tools("x"), "tools[0] must be a mapping"),
        (tools({"type": "function", "function": {"name": "a b"}}), "name 'a b' must be 1 to 64"),
        (tools({"type": "function", "function": {"name": "weather", "parameters": 3}}), "must be a JSON schema"),
        (lambda sample: sample.update(tools={}), "tools must be a list"),
        (lambda sample: sample.update(audio="x.wav"), "audio: only text can be learned from"),
    ],
)
def test_every_mistake_is_told_with_its_remedy(change: Callable[[dict[str, Any]], Any], expected: str) -> None:
    sample = deepcopy(GOOD)
    change(sample)
    with pytest.raises(DataError) as caught:
        parse_chat(sample)
    assert expected in str(caught.value)


CALLED = {"role": "assistant", "content": None, "tool_calls": GOOD["messages"][2]["tool_calls"]}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            call(function={"name": "other", "arguments": "{}"}),
            "calls of functions that are not declared; add them to tools: 1",
        ),
        (call(function={"name": "weather", "arguments": "{"}), "whose arguments are no JSON object"),
        (call(function={"name": "weather", "arguments": "[1]"}), "whose arguments are no JSON object"),
    ],
)
def test_a_call_that_must_not_be_learned_is_seen_and_told(
    change: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    sample, notes = deepcopy(GOOD), SampleNotes()
    del sample["messages"][2]["weight"]
    change(sample)
    assert parse_chat(sample, notes).is_learned == (False, True)
    assert expected in notes.lines()[0]
    with pytest.raises(DataError, match="nothing is left to learn"):
        parse_chat({**sample, "messages": sample["messages"][:3]})


def test_keys_that_mean_nothing_to_training_are_passed_over_and_counted() -> None:
    notes = SampleNotes()
    rows = [
        {"id": 7, "source": "x", "temperature": 0.5, "parallel_tool_calls": False, "metadata": {"a": 1}, "score": None},
        {"id": 8, "prompt": "the first message again"},
    ]
    for row in rows:
        sample = deepcopy(GOOD) | row
        sample["messages"][1] |= {"name": "Bob", "timestamp": 3}
        sample["messages"][4] |= {"refusal": None, "annotations": [], "audio": None}
        assert parse_chat(sample, notes) == parse_chat(GOOD)
    (line,) = notes.lines()
    assert line.startswith("keys without a meaning for training, passed over: ")
    for told in (
        "id (2)",
        "source (1)",
        "parallel_tool_calls (1)",
        "name in messages (2)",
        "annotations in messages (2)",
    ):
        assert told in line
    assert "score" not in line
    assert "refusal" not in line


def test_other_spellings_of_the_same_conversation_are_read() -> None:
    older = deepcopy(GOOD)
    older["functions"] = [tool["function"] for tool in older.pop("tools")]
    older["messages"][0]["role"] = "developer"
    older["messages"][2] |= {"function_call": older["messages"][2].pop("tool_calls")[0]["function"], "content": None}
    older["messages"][3] = {"role": "function", "name": "weather", "content": "yes"}
    sample = parse_chat(older)
    call_id = sample.messages[2].tool_calls[0].id
    assert len(call_id) == 9
    assert sample.messages[3].tool_call_id == call_id
    assert [message.role for message in sample.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert sample.tools == parse_chat(GOOD).tools
    refused = parse_chat({"messages": [GOOD["messages"][1], {"role": "assistant", "content": None, "refusal": "No."}]})
    assert refused.messages[1].chunks == ("No.",)
    for weights in ((1.0, 0.0), (True, False), (None, 0)):
        first, second = deepcopy(GOOD["messages"][-1]), deepcopy(GOOD["messages"][-1])
        first["weight"], second["weight"] = weights
        messages = [GOOD["messages"][1], first, GOOD["messages"][1], second]
        assert parse_chat({"messages": messages}).is_learned == (True, False)


def test_calls_and_results_without_ids_are_paired() -> None:
    calls: list[dict[str, Any]] = [{"function": {"name": name, "arguments": {}}} for name in ("weather", "time")]
    results = [{"role": "tool", "name": name, "content": name} for name in ("time", "weather")]
    functions = [{"type": "function", "function": {"name": name}} for name in ("weather", "time")]
    messages = [GOOD["messages"][1], {"role": "assistant", "tool_calls": calls}, *results, GOOD["messages"][4]]
    sample = parse_chat({"messages": messages, "tools": functions})
    ids = {call.name: call.id for call in sample.messages[1].tool_calls}
    assert len(set(ids.values())) == 2
    assert [(m.name, m.tool_call_id) for m in sample.messages[2:4]] == [
        ("time", ids["time"]),
        ("weather", ids["weather"]),
    ]
    named = [{**result, "tool_call_id": f"given{k}"} for k, result in enumerate(results)]
    messages[2:4] = named
    sample = parse_chat({"messages": messages, "tools": functions})
    assert [call.id for call in sample.messages[1].tool_calls] == ["given0", "given1"]


@pytest.mark.parametrize(
    ("content", "text"), [(None, ""), ("", ""), ({"knots": 12}, '{"knots": 12}'), ([1, 2], "[1, 2]"), (12, "12")]
)
def test_results_that_are_values_are_json(content: Any, text: str) -> None:
    sample = deepcopy(GOOD)
    sample["messages"][3]["content"] = content
    assert parse_chat(sample).messages[3].chunks == (text,)


def test_reasoning_is_read_where_it_can_be_written_and_else_told() -> None:
    messages = [GOOD["messages"][1], {"role": "assistant", "content": "Yes.", "reasoning_content": "The trees move."}]
    assert parse_chat({"messages": messages}).messages[1].chunks == (Thinking("The trees move."), "Yes.")
    for name in ("reasoning", "thinking"):
        other = [messages[0], {"role": "assistant", "content": "Yes.", name: "The trees move."}]
        assert parse_chat({"messages": other}) == parse_chat({"messages": messages})
    notes = SampleNotes()
    assert parse_chat({"messages": messages}, notes, thinks=False).messages[1].chunks == ("Yes.",)
    assert notes.lines() == ("reasoning_content left out, which models of this chat format cannot write: 1",)


def test_preference_pairs() -> None:
    context = [*({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})]
    value = {"messages": [*context, {"role": "user", "content": "Joke?"}], "chosen": "Knock knock.", "rejected": "No."}
    pair = parse_preference(value)
    assert pair.chosen.is_learned == pair.rejected.is_learned == (False, True)
    assert pair.rejected.messages[-1] == Message("assistant", ("No.",))
    several = parse_preference(
        value | {"chosen": [CALLED, GOOD["messages"][3], GOOD["messages"][4]], "tools": [FUNCTION]}
    )
    assert several.chosen.is_learned == (False, True, True)
    notes = SampleNotes()
    assert parse_preference(value | {"score": 1}, notes) == pair
    assert notes.lines() == ("keys without a meaning for training, passed over: score (1)",)
    for changes, expected in (
        ({"chosen": "No."}, "the same answer"),
        ({"chosen": ""}, "chosen: messages[3]: content is empty"),
        ({"rejected": {"role": "user", "content": "x"}}, "rejected must be the text of an answer"),
        ({"messages": context}, "messages ends with the assistant's; a pair needs a question"),
        ({"messages": None}, "messages must be a list"),
    ):
        with pytest.raises(DataError) as caught:
            parse_preference(value | changes)
        assert expected in str(caught.value)


def test_classifier_samples() -> None:
    sample = parse_classifier({"text": "So happy!", "labels": {"emotion": "joy", "topics": ["self", "day"]}})
    assert sample.labels == {"emotion": ("joy",), "topics": ("self", "day")}
    talk = parse_classifier({"messages": [{"role": "user", "content": "Hi"}], "labels": {"emotion": "calm"}})
    assert talk.messages == (Message("user", ("Hi",)),)
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
