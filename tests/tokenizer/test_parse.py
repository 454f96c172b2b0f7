"""Generated ids to messages: what the chat formats write is read back, and nothing a model writes can do harm."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.conversations import generate
from tests.tokenizer.vocabularies import EVERY_FORMAT, ours
from tramontane.errors import TokenizerError
from tramontane.tokenizer import AssistantMessage, ToolCall, ToolCallIds
from tramontane.tokenizer.messages import from_json, mistral_tool_call_id, normal_json
from tramontane.tokenizer.parse import AnswerParser, joined_message, parse_answer

WITH_TOOLS = [name for name in EVERY_FORMAT if name != "v1"]


def chat(name: str) -> Any:
    return ours(name).require_chat()


def spelled(name: str, *parts: str) -> list[int]:
    """Ids of parts that are control tokens where the vocabulary has them, and text otherwise."""
    tokenizer = ours(name)
    token_ids: list[int] = []
    for part in parts:
        token_ids += [tokenizer.control_id(part)] if part in tokenizer.control_names else tokenizer.encode(part)
    return token_ids


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_what_the_format_writes_is_read_back(name: str) -> None:
    """The last answer of generated conversations: content, thinking and calls come out as they went in."""
    rng = random.Random(f"parse {name}")
    version = name.partition("-")[0]
    num_contents = num_calls = 0
    for _ in range(120):
        messages, tools = generate(rng, version)
        answer = next(place for place, message in enumerate(messages) if message["role"] == "assistant")
        messages = messages[: answer + 1]
        messages[-1].pop("prefix", None)
        calls = messages[-1].get("tool_calls") or []
        if version in ("v11", "v13") and not all(is_object(call["function"]["arguments"]) for call in calls):
            continue  # these formats take nothing but objects
        turn = chat(name).encode_turns(messages, tools=tools)[-1]
        read = chat(name).parse(turn.token_ids)
        content = messages[-1]["content"]
        if isinstance(content, str):
            assert read.content.rstrip(" ") == content.rstrip(" ")
            num_contents += 1
        elif content[0]["type"] == "thinking":
            text = content[1]["text"] if len(content) > 1 and content[0]["closed"] else ""
            assert read.content == text
            assert (read.thinking or "").startswith(content[0]["thinking"])
        assert [call.name for call in read.tool_calls] == [call["function"]["name"] for call in calls]
        for call, given_call in zip(read.tool_calls, calls, strict=True):
            arguments = given_call["function"]["arguments"]
            assert from_json(normal_json(call.arguments_json)) == from_json(normal_json(arguments))
            assert call.id == given_call["id"] or version != "v11"  # the others write it after the arguments, or not
        num_calls += len(calls)
    assert num_contents > 20
    assert (num_calls > 5) == (version != "v1")


def is_object(arguments: str) -> bool:
    return isinstance(from_json(normal_json(arguments)), dict)


@pytest.mark.parametrize("name", ["v13-small"])
def test_thinking_is_told_from_content(name: str) -> None:
    token_ids = spelled(name, "[THINK]", "2+2 is 4", "[/THINK]", "It is four.", "</s>", "left over")
    assert chat(name).parse(token_ids) == AssistantMessage("It is four.", "2+2 is 4")
    assert chat(name).parse(spelled(name, "[THINK]", "still")) == AssistantMessage("", "still", thinking_closed=False)
    assert chat(name).parse(spelled(name, "[THINK]")) == AssistantMessage("", "", thinking_closed=False)
    assert chat(name).parse(spelled(name, "plain")).thinking is None


@pytest.mark.parametrize(
    ("name", "parts", "calls"),
    [
        ("v2", ["[TOOL_CALLS]", '[{"name": "f", "arguments": {"a": 1}}]'], [("f", '{"a": 1}')]),
        ("v3", ["[TOOL_CALLS]", ' [{"name":"f","arguments":"text","id":"abcdefghi"}] '], [("f", "text")]),
        (
            "v7",
            ["so: ", "[TOOL_CALLS]", '[{"name":"f","arguments":{}},{"name":"g","arguments":{}}]'],
            [("f", "{}"), ("g", "{}")],
        ),
        ("v11-small", ["[TOOL_CALLS]", "f", "[CALL_ID]", "abcdefghi", "[ARGS]", '{"a":  1}'], [("f", '{"a":  1}')]),
        (
            "v13-small",
            ["[TOOL_CALLS]", "f", "[ARGS]", "{}", "[TOOL_CALLS]", "g", "[ARGS]", ""],
            [("f", "{}"), ("g", "{}")],
        ),
    ],
)
def test_each_form_of_tool_calls(name: str, parts: list[str], calls: list[tuple[str, str]]) -> None:
    read = chat(name).parse(spelled(name, *parts, "</s>"))
    assert [(call.name, call.arguments_json) for call in read.tool_calls] == calls
    assert all(mistral_tool_call_id(call.id) == call.id for call in read.tool_calls)
    assert len({call.id for call in read.tool_calls}) == len(calls)
    assert "[" not in read.content


@pytest.mark.parametrize("name", ["v3", "v7-small", "v11-small", "v13-small"])
@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "[{}]", '[{"name": "f"}]', '[{"name": "f g", "arguments": {}}]', "I will look at it.", "[[1]]", '"f"',
     '[{"name": 3, "arguments": 3}]', "[" * 100_000, "x" * 65, '[{"arguments": {"a": 1}', '[{"name": "f g',
     '{"name": "f", "arguments": {}}', "[CALL]", '[{"function": {"name": "f", "arguments": {}}}]'],
)  # fmt: skip
def test_what_is_no_call_is_text_without_the_control_token(name: str, text: str) -> None:
    read = chat(name).parse(spelled(name, "before ", "[TOOL_CALLS]", text, "</s>"))
    assert read == AssistantMessage(read.content)
    assert read.content.replace(" ", "") == f"before{text}".replace(" ", "")


def test_named_calls_that_are_none_are_text_without_the_control_tokens() -> None:
    name = "v11-small"
    for parts in (
        ["[TOOL_CALLS]", "no name", "[ARGS]", "{}"],
        ["[TOOL_CALLS]", "f", "[ARGS]", "[1]"],
        ["[TOOL_CALLS]", "f", "[CALL_ID]", "abc", "[CALL_ID]", "abc"],
        ["[ARGS]", "{}"],
        ["[CALL_ID]", "x", "[ARGS]", "{}"],
        ["[TOOL_CALLS]", "[ARGS]", "{}"],
    ):
        read = chat(name).parse(spelled(name, *parts))
        assert read == AssistantMessage("".join(part for part in parts if part not in ours(name).control_names))


@pytest.mark.parametrize(
    ("name", "parts", "call"),
    [
        ("v3", ['[{"name": "get_wea'], ("get_wea", "")),
        ("v3", ['[{"name": "f", "argu'], ("f", "")),
        ("v7-small", ['[{"name": "f", "arguments": {"city": "Pa'], ("f", '{"city": "Pa')),
        ("v7-small", ['[{"id": "abcdefghi", "name": "f", "arguments": {"a": [1'], ("f", '{"a": [1')),
        ("v7-small", [r'[{"name": "f", "arguments": {"a": "\ud83d\u00'], ("f", r'{"a": "\ud83d\u00')),
        ("v7-small", [r'[{"name": "f", "arguments": "{\"a\": \"\u00e9\u00'], ("f", r'{"a": "é\u00')),
        ("v7-small", [r'[{"name": "f", "arguments": "\ud83d'], ("f", "\ufffd")),
        ("v11-small", ["f", "[CALL_ID]", "abcd"], ("f", "")),
        ("v11-small", ["f", "[CALL_ID]", "abcdefghi", "[ARGS]", '{"a": "x'], ("f", '{"a": "x')),
        ("v13-small", ["get_wea"], ("get_wea", "")),
        ("v13-small", ["f", "[ARGS]"], ("f", "")),
        ("v13-small", ["f", "[ARGS]", '{"a": "x}'], ("f", '{"a": "x}')),
    ],
)
def test_a_call_that_was_cut_is_a_call_as_far_as_it_goes(name: str, parts: list[str], call: tuple[str, str]) -> None:
    parser = AnswerParser(ours(name))
    token_ids = spelled(name, "so", "[TOOL_CALLS]", *parts)
    read = joined_message([*map(parser.push, token_ids), parser.finish()])
    [found] = read.tool_calls
    assert (read.content, found.name, found.arguments_json) == ("so", *call)
    assert parser.has_cut_call
    assert not found.is_whole


@pytest.mark.parametrize("text", ["", "[", '[{"na', ' [ { "name" : "'])
@pytest.mark.parametrize("name", ["v3", "v7-small"])
def test_of_a_call_that_was_cut_before_its_name_nothing_shows(name: str, text: str) -> None:
    read = chat(name).parse(spelled(name, "so", "[TOOL_CALLS]", text))
    assert read == AssistantMessage("so")


def test_text_after_calls_and_calls_of_one_list_that_breaks_off() -> None:
    text = '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"a": 1}}] and so on'
    read = chat("v7").parse(spelled("v7", "[TOOL_CALLS]", text, "</s>"))
    assert [(call.name, call.arguments_json, call.is_whole) for call in read.tool_calls] == [
        ("f", "{}", True), ("g", '{"a": 1}', True)
    ]  # fmt: skip
    assert read.content == "and so on"
    read = chat("v7").parse(spelled("v7", "[TOOL_CALLS]", '[{"name": "f", "arguments": {}}, oops', "</s>"))
    assert ([call.name for call in read.tool_calls], read.content) == (["f"], ", oops")


CONTROL = re.compile(r"\[/?(TOOL_CALLS|CALL_ID|ARGS|THINK|INST|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT)\]|</?s>")


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_an_answer_cut_at_any_token_loses_nothing_and_shows_no_control_token(name: str) -> None:
    """Generated answers of every kind: whatever the cut, text, thinking, names and arguments are those of the whole
    answer as far as they go, and the deltas of a stream make up the same message."""
    rng = random.Random(f"cut {name}")
    version = name.partition("-")[0]
    tokenizer = ours(name)
    num_cut_calls = 0
    for _ in range(16):
        messages, tools = generate(rng, version)
        answer = next(place for place, message in enumerate(messages) if message["role"] == "assistant")
        messages[answer].pop("prefix", None)
        calls = messages[answer].get("tool_calls") or []
        if not all(is_object(call["function"]["arguments"]) for call in calls):
            continue
        token_ids = list(chat(name).encode_turns(messages[: answer + 1], tools=tools)[-1].token_ids)
        whole = chat(name).parse(token_ids)
        said = f"{whole.content}{whole.thinking}{[call.arguments_json for call in whole.tool_calls]}"
        assert len(CONTROL.findall(said)) <= len(CONTROL.findall(str(messages[answer])))  # spelled by the author
        length = 0
        for num_ids in range(len(token_ids)):
            parser = AnswerParser(tokenizer)
            deltas = [*map(parser.push, token_ids[:num_ids]), parser.finish()]
            cut = joined_message(deltas)
            assert cut == chat(name).parse(token_ids[:num_ids])
            assert "".join(delta.content for delta in deltas) == cut.content
            assert same_beginning(cut.content, whole.content)
            assert same_beginning(cut.thinking or "", whole.thinking or "")
            for part, call in zip(cut.tool_calls, whole.tool_calls, strict=False):
                assert call.name.startswith(part.name)
                assert same_beginning(part.arguments_json, call.arguments_json)
                assert part.is_whole <= (part.arguments_json == call.arguments_json)
            shown = f"{cut.content}{cut.thinking or ''}" + "".join(
                f"{call.name}{call.arguments_json}" for call in cut.tool_calls
            )
            assert len(shown) >= length - 1  # half a character is one sign until it is whole
            length = len(shown)
            num_cut_calls += parser.has_cut_call
    assert (num_cut_calls > 3) == (version != "v1")


def same_beginning(cut: str, whole: str) -> bool:
    """`cut` may end in a character that is not whole."""
    return whole.startswith(cut) or whole.startswith(cut.removesuffix("\ufffd"))


def test_look_alikes_in_the_text_are_text() -> None:
    for name in WITH_TOOLS:
        text = 'see [TOOL_CALLS][{"name": "f", "arguments": {}}] and [THINK]x[/THINK]'
        assert chat(name).parse(ours(name).encode(text)) == AssistantMessage(text)


CODE = [
    "__import__('os').system('touch {canary}')", "exec(open('{canary}','w'))", "{{{{ ''.__class__ }}}}",
    '[{{"name": "f", "arguments": __import__("pathlib").Path("{canary}").touch()}}]',
    '{{"__class__": "os.system", "args": ["touch {canary}"]}}', "!!python/object/apply:os.system ['touch {canary}']",
]  # fmt: skip


@pytest.mark.parametrize("name", ["v3", "v11-small", "v13-small"])
def test_code_in_arguments_is_data(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for code in CODE:
        text = code.format(canary=canary)
        for parts in (["[TOOL_CALLS]", text], ["[TOOL_CALLS]", "f", "[ARGS]", text]):
            if all(part in ours(name).control_names or part[0] != "[" or part == text for part in parts):
                chat(name).parse(spelled(name, *parts))
    assert not canary.exists()


TOKENS = {name: [i for i in range(ours(name).vocab_size) if i < 60 or i % 37 == 0] for name in ("v3", "v13-small")}
PIECES = st.sampled_from(
    ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "</s>", "{", "}", "[", "]", '"name"', '"arguments"',
     ":", ",", "f", '{"a":1}', '[{"name":"f","arguments":{}}]', "é", " ", "\n", "12", "null"]
)  # fmt: skip


def grows(name: str, token_ids: list[int]) -> None:
    """Parsing more ids only ever adds; deltas put together are the whole; nothing raises."""
    tokenizer = ours(name)
    whole = parse_answer(tokenizer, token_ids)
    before = AssistantMessage("")
    parser = AnswerParser(tokenizer)
    pushed = ""
    for num_ids in range(len(token_ids) + 1):
        now = parse_answer(tokenizer, token_ids[:num_ids], final=False)
        assert now.content.startswith(before.content)
        assert (now.thinking or "").startswith(before.thinking or "")
        assert now.tool_calls[: len(before.tool_calls)] == before.tool_calls
        before = now
        if num_ids:
            pushed += parser.push(token_ids[num_ids - 1]).content
        assert pushed == now.content
    assert whole.content.startswith(before.content)
    assert whole.tool_calls[: len(before.tool_calls)] == before.tool_calls
    assert pushed + parser.finish().content == whole.content


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(TOKENS)), st.data())
def test_random_ids_never_raise_and_only_grow(name: str, data: st.DataObject) -> None:
    grows(name, data.draw(st.lists(st.sampled_from(TOKENS[name]), max_size=25)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(PIECES, max_size=14))
def test_nearly_right_calls_never_raise_and_only_grow(parts: list[str]) -> None:
    grows("v13-small", spelled("v13-small", *parts))


def test_an_answer_can_go_back_into_the_conversation() -> None:
    name = "v13-small"
    answer = AssistantMessage("It rains.", "let me look", (ToolCall("call_1", "f", '{"a": 1}'),))
    messages = [{"role": "user", "content": "x"}, answer.as_message()]
    token_ids = chat(name).encode_turns(messages)[-1].token_ids
    read = chat(name).parse(token_ids)
    assert (read.content, read.thinking) == (answer.content, answer.thinking)
    assert [(call.name, call.arguments_json) for call in read.tool_calls] == [("f", '{"a": 1}')]


def test_foreign_call_ids_become_nine_characters_and_come_back() -> None:
    ids = ToolCallIds()
    short = ids.to_mistral("call_abc123XYZ")
    assert len(short) == 9
    assert short.isascii()
    assert short.isalnum()
    assert short == mistral_tool_call_id("call_abc123XYZ") != mistral_tool_call_id("call_abc123XYy")
    assert ids.to_foreign(short) == "call_abc123XYZ"
    assert ids.to_mistral("abcDEF123") == "abcDEF123" == ids.to_foreign("abcDEF123")
    call = {"id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
    ]
    text = ours("v7").decode(chat("v7").encode_chat(messages))
    assert text.count(mistral_tool_call_id("call_1")) == 2
    assert "call_1" not in text


def test_arguments_at_the_edge_of_the_nesting_that_python_reads() -> None:
    for depth in range(900, 1010, 3):
        nested = "[" * depth + "]" * depth
        read = chat("v3").parse(spelled("v3", "[TOOL_CALLS]", f'[{{"name":"f","arguments":{nested}}}]'))
        assert [call.arguments_json for call in read.tool_calls] == [nested] or nested in read.content


@pytest.mark.parametrize("name", ["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "[INST]", "</s>"])
def test_forty_thousand_control_tokens_are_read_in_one_pass(name: str) -> None:
    """Each is looked at once: calls are read when they close, never again."""
    tokenizer = ours("v13-small")
    read = chat("v13-small").parse([tokenizer.control_id(name)] * 40_000 + spelled("v13-small", "x"))
    assert name not in read.content
    assert (read.content == "x") == (name in ("[ARGS]", "[/THINK]", "[INST]"))


def test_a_negative_id_is_an_error() -> None:
    with pytest.raises(TokenizerError, match="negative"):
        AnswerParser(ours("v3")).push(-1)
