"""Messages and tools as callers pass them: what is read, and each way to get them wrong, with its remedy."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tokenizer.vocabularies import ours
from tramontane.errors import TokenizerError
from tramontane.tokenizer.messages import Thinking, read_messages, read_tools

USER = {"role": "user", "content": "x"}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "must be a list of messages"),
        ({"role": "user"}, "must be a list of messages"),
        (["hello"], r"messages\[0\] must be a mapping"),
        ([{"content": "x"}], "role=None is not known; use one of system, user, assistant, tool"),
        ([{"role": "bot", "content": "x"}], "role='bot' is not known"),
        ([{"role": ["user"], "content": "x"}], "is not known"),
        ([{"role": "user"}], r"messages\[0\].content is missing"),
        ([{"role": "user", "content": 5}], "must be text or a list of chunks"),
        ([{**USER, "name": "Bob"}], "has the key 'name', which is not honoured; known are content, role"),
        ([{**USER, "prefix": True}], "has the key 'prefix'"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "type 'image_url' is not supported"),
        ([{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}], "in a message of role user"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text must be text, not NoneType"),
        ([{"role": "user", "content": ["x"]}], "of type None is not supported"),
        ([{"role": "assistant", "content": "x", "prefix": 1}], "prefix=1 must be true or false"),
        ([{"role": "assistant", "tool_calls": [{}]}], "function must be a mapping"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "type": "code"}]}], "type='code' is not supported"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "id": 5}]}], "id must be text, not int"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f g"}}]}], "function name 'f g' must be"),
        ([{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f\n"}}]}], "must be 1 to 64"),
        ([{"role": "tool", "content": "x", "tool_call_id": 3}], "tool_call_id must be text, not int"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_read(messages: Any, reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        read_messages(messages)


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ("f", r"tools\[0\] must be a mapping"),
        ({"type": "web_search"}, "type='web_search' is not supported; use 'function'"),
        ({"type": "function"}, "function must be a mapping"),
        ({"function": {"name": "a" * 65}}, "must be 1 to 64"),
        ({"function": {"name": "f", "parameters": "{}"}}, "parameters must be a JSON schema"),
        ({"function": {"name": "f", "description": 5}}, "description must be text"),
        ({"function": {"name": "f", "returns": {}}}, "has the key 'returns', which is not honoured"),
    ],
)
def test_tools_that_cannot_be_read(tool: Any, reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        read_tools([tool])


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "at least one message"),
        ([{"role": "assistant", "content": "x"}], "starts with a user or system message"),
        ([USER, {"role": "assistant", "content": "x"}], "nothing is left to answer; add a user message, or set prefix"),
        ([USER, {"role": "tool", "content": "x"}], r"messages\[1\]: role tool cannot follow role user"),
        ([USER, {"role": "assistant", "content": ""}, USER], "needs content or tool_calls"),
        ([USER, {"role": "assistant", "content": "x", "prefix": True}, USER], "prefix is only possible in the last"),
        ([USER, {"role": "assistant", "tool_calls": [CALL]}, USER], "the last tool calls have too few results"),
        ([USER, {"role": "assistant", "tool_calls": [{**CALL, "id": None}]}, USER], "every tool call needs an id"),
        (
            [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "1"}],
            "tool_call_id is missing; name the call this answers",
        ),
        (
            [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}], "prefix": True}],
            "models of format v3 have no thinking chunks",
        ),
        (
            [USER, {"role": "assistant", "content": "x", "tool_calls": [CALL]}, USER],
            "has content and tool_calls; models of format v3 take one of them",
        ),
    ],
)
def test_conversations_that_cannot_be_written(messages: Any, reason: str) -> None:
    with pytest.raises(TokenizerError, match=reason):
        ours("v3").require_chat().encode_chat(messages)


def test_samples_must_end_with_the_assistant() -> None:
    with pytest.raises(TokenizerError, match="must end with a whole message of the assistant"):
        ours("v3").require_chat().encode_turns([USER])


def test_values_nested_without_measure_are_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(100_000):
        nested = {"a": nested}
    tool = {"type": "function", "function": {"name": "f", "parameters": nested}}
    chat = ours("v3").require_chat()
    with pytest.raises(TokenizerError, match="nested too deeply"):
        chat.encode_chat([USER], tools=[tool])
    calls: list[dict[str, Any]] = [{**CALL, "function": {"name": "f", "arguments": "[" * 10**6}}]
    messages: list[dict[str, Any]] = [
        USER,
        {"role": "assistant", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "1"},
    ]
    with pytest.raises(TokenizerError, match="nested too deeply"):
        chat.encode_chat(messages)
    while nested:  # let go level by level: Python frees nested containers by recursion
        nested = nested.pop("a")


def test_all_forms_of_content_are_read() -> None:
    message = {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"type": "thinking", "thinking": "c", "closed": False},
            {"type": "text", "text": "d"},
        ],
        "tool_calls": [{"function": {"name": "f", "arguments": {"é": 1}}, "index": 0}, {"function": {"name": "g"}}],
    }
    (read,) = read_messages([message])
    assert read.chunks == (Thinking("ab"), Thinking("c", closed=False), "d")
    assert [(call.id, call.name, call.arguments_json) for call in read.tool_calls] == [
        ("", "f", '{"é": 1}'),
        ("", "g", "{}"),
    ]
    (tool,) = read_tools([{"function": {"name": "f", "strict": True}}])
    assert tool.as_dict() == {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    reasoned = {"role": "assistant", "content": "b", "reasoning_content": "a"}
    assert read_messages([reasoned])[0].chunks == (Thinking("a"), "b")
    assert read_messages([{"role": "developer", "content": "x"}])[0].role == "system"
    assert read_messages([read]) == [read]
    assert read_tools([tool]) == [tool]


def test_what_an_unknown_key_means_is_the_callers_to_say() -> None:
    found: list[tuple[str, str]] = []
    message = {**USER, "name": "Bob", "content": [{"type": "text", "text": "x", "cache_control": {}}]}
    (read,) = read_messages([message], unknown=lambda source, key, known: found.append((source, key)))
    assert read.chunks == ("x",)
    assert read.name is None
    assert found == [("messages[0]", "name"), ("messages[0].content[0]", "cache_control")]
