"""Chat formats judged by mistral-common: the same ids for the same conversations, and the same ones refused."""

from __future__ import annotations

import random
from typing import Any

import pytest
from mistral_common.exceptions import MistralCommonException
from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Tool
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from pydantic import ValidationError

from tests.tokenizer.conversations import TOOLS, Conversation, generate, shuffled
from tests.tokenizer.corpus import TEXTS, random_texts
from tests.tokenizer.vocabularies import COPIED, EVERY_FORMAT, from_gguf, from_tokenizer_json, ours, theirs
from tramontane.errors import TokenizerError
from tramontane.tokenizer import Tokenizer

_ROLES: dict[str, Any] = {
    "system": SystemMessage,
    "user": UserMessage,
    "assistant": AssistantMessage,
    "tool": ToolMessage,
}


def judged(
    judge: MistralTokenizer[Any, Any, Any, Any, Any],
    messages: Conversation,
    tools: list[dict[str, Any]] | None,
    mode: ValidationMode = ValidationMode.serving,
) -> list[int]:
    """mistral-common's ids, by its validator of `mode`, its normaliser and its encoder."""
    request: ChatCompletionRequest[Any] = ChatCompletionRequest(
        model="any",
        messages=[_ROLES[message["role"]](**message) for message in messages],
        tools=None if tools is None else [Tool(**tool) for tool in tools],
    )
    request = get_validator(judge.version, mode).validate_request(request)
    normal = judge._instruct_request_normalizer.from_chat_completion_request(request)
    token_ids: list[int] = judge.instruct_tokenizer.encode_instruct(normal).tokens
    return token_ids


def version_of(name: str) -> str:
    return name.partition("-")[0]


def chat_of(tokenizer: Tokenizer) -> Any:
    return tokenizer.require_chat()


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_same_ids_as_mistral_common(name: str) -> None:
    rng = random.Random(f"chat {name}")
    chat = chat_of(ours(name))
    assert chat.name == version_of(name)
    for _ in range(100):
        messages, tools = generate(rng, version_of(name))
        assert chat.encode_chat(messages, tools=tools) == judged(theirs(name), messages, tools), messages


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_same_conversations_refused_as_by_mistral_common(name: str) -> None:
    rng = random.Random(f"rules {name}")
    chat = chat_of(ours(name))
    outcomes = set()
    for _ in range(200):
        messages, tools = shuffled(rng, version_of(name))
        try:
            expected = judged(theirs(name), messages, tools)
        except (MistralCommonException, ValidationError, ValueError, AssertionError):
            with pytest.raises(TokenizerError):
                chat.encode_chat(messages, tools=tools)
            outcomes.add("refused")
        else:
            assert chat.encode_chat(messages, tools=tools) == expected, messages
            outcomes.add("encoded")
    assert outcomes == {"refused", "encoded"}


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_samples_to_learn_from_are_the_ids_of_mode_finetuning(name: str) -> None:
    rng = random.Random(f"samples {name}")
    chat = chat_of(ours(name))
    num_encoded = 0
    for _ in range(100):
        messages, tools = generate(rng, version_of(name))
        messages = [{key: value for key, value in message.items() if key != "prefix"} for message in messages]
        try:
            expected = judged(theirs(name), messages, tools, ValidationMode.finetuning)
        except MistralCommonException:
            with pytest.raises(TokenizerError):
                chat.encode_turns(messages, tools=tools)
            continue
        turns = chat.encode_turns(messages, tools=tools)
        assert [token_id for turn in turns for token_id in turn.token_ids] == expected
        assert turns[0].role == "start"
        assert turns[-1].role == "assistant"
        assert turns[-1].token_ids[-1] == ours(name).eos_id
        num_encoded += 1
    assert num_encoded > 10


@pytest.mark.parametrize("name", COPIED)
def test_same_ids_by_way_of_gguf_and_tokenizer_json(name: str) -> None:
    rng = random.Random(f"copies {name}")
    copies = [chat_of(copy(name)) for copy in (from_gguf, from_tokenizer_json)]
    assert [copy.name for copy in copies] == [version_of(name)] * 2
    for _ in range(30):
        messages, tools = generate(rng, version_of(name))
        expected = chat_of(ours(name)).encode_chat(messages, tools=tools)
        for copy in copies:
            assert copy.encode_chat(messages, tools=tools) == expected


@pytest.mark.parametrize("name", ["v3", "v7", "v3-tekken"])
def test_fill_in_the_middle_is_mistral_commons(name: str) -> None:
    chat, judge = chat_of(ours(name)), theirs(name)
    texts = [*TEXTS, *random_texts(40, seed=3), "\n\n    return x", ")\n", "☺"]
    for prompt, suffix in zip(texts, reversed(texts), strict=True):
        assert chat.encode_fim(prompt, suffix) == judge.encode_fim(FIMRequest(prompt=prompt, suffix=suffix)).tokens
    assert chat.encode_fim("a", None) == judge.encode_fim(FIMRequest(prompt="a", suffix=None)).tokens


def test_fill_in_the_middle_of_a_small_vocabulary_keeps_the_suffix_whole() -> None:
    """mistral-common drops two tokens for its marker; where a vocabulary needs three, that would leave half of it."""
    tokenizer = ours("v7-small")
    assert len(tokenizer.encode("☺")) == 3
    for suffix in ("x", ")\n", "\n\n  return"):
        token_ids = chat_of(tokenizer).encode_fim("def f():", suffix)
        assert tokenizer.decode(token_ids, keep_control=True) == f"<s>[SUFFIX]{suffix}[PREFIX]def f():"


def test_tool_schemas_enter_the_prompt_as_given() -> None:
    chat = chat_of(ours("v3-tekken"))
    token_ids = chat.encode_chat([{"role": "user", "content": "x"}], tools=TOOLS)
    assert token_ids == judged(theirs("v3-tekken"), [{"role": "user", "content": "x"}], TOOLS)
    assert '"description": "Météo d\'une ville' in ours("v3-tekken").decode(token_ids)


@pytest.mark.parametrize("name", [name for name in EVERY_FORMAT if version_of(name) != "v1"])
def test_a_turn_says_where_it_spells_ids_of_calls_and_which_one_shows_the_tools(name: str) -> None:
    rng = random.Random(f"ids {name}")
    tokenizer = ours(name)
    num_ids = 0
    for _ in range(100):
        messages, tools = generate(rng, version_of(name))
        messages = [{key: value for key, value in message.items() if key != "prefix"} for message in messages]
        try:
            turns = chat_of(tokenizer).encode_turns(messages, tools=tools)
        except TokenizerError:
            continue
        shown = [turn for turn in turns if turn.shows_tools]
        has_user = any(message["role"] == "user" for message in messages)
        assert len(shown) == (1 if tools and has_user else 0)
        for turn in turns:
            spelled = b"".join(tokenizer.token_bytes(turn.token_ids[place]) for place in turn.call_id_places).decode()
            rest = tokenizer.decode(
                [t for place, t in enumerate(turn.token_ids) if place not in turn.call_id_places], keep_control=True
            )
            ids = [
                call["id"]
                for message in messages
                for call in message.get("tool_calls", ())
                if message["role"] == turn.role and call["id"] in tokenizer.decode(turn.token_ids)
            ]
            if version_of(name) in ("v2", "v13"):
                assert not turn.call_id_places
            elif turn.role == "assistant":
                assert all(call_id in spelled for call_id in ids)
                assert not any(call_id in rest for call_id in ids)
                assert len(spelled) <= 13 * len(ids)  # a token may hold a quote beside the id
                num_ids += len(ids)
    assert num_ids > 3 or version_of(name) in ("v2", "v13")
