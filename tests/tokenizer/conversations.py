"""Generated conversations, well-formed and broken, in the form of the chat API."""

from __future__ import annotations

import random
from typing import Any

from tests.tokenizer.corpus import TEXTS, random_texts

Conversation = list[dict[str, Any]]

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Météo d'une ville, e.g. Zürich",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "no-arguments_1", "description": "", "parameters": {}}},
]
_ARGUMENTS = (
    '{"city": "Zürich"}',
    '{"b":1,"a":[true,null,1.5]}',
    "{}",
    "",
    "not json",
    '"text"',
    '{"deep":{"a":{"b":"</s>"}}}',
)
_RESULTS = ('{"temp": 21.5, "sky":"☀️"}', "sunny", "[1,2]", "", "42", "null", '{"x": "[/TOOL_RESULTS]"}')
_TEXTS = [text for text in (*TEXTS, *random_texts(60, seed=2)) if text]


def generate(rng: random.Random, version: str) -> tuple[Conversation, list[dict[str, Any]] | None]:
    """A conversation that format `version` can write, with tools or None."""
    with_tools = version != "v1" and rng.random() < 0.6
    messages: Conversation = []
    if rng.random() < 0.6:
        messages += [_system(rng, version) for _ in range(rng.choice((1, 1, 2)))]
    for _ in range(rng.randrange(1, 5)):
        messages += [_user(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
        if rng.random() < 0.1:
            messages += [_system(rng, version), _user(rng)]
        if with_tools and rng.random() < 0.5:
            messages += _calls(rng, version)
        messages += [_answer(rng, version) for _ in range(rng.choice((1, 1, 1, 2)))]
    match rng.randrange(4):
        case 0:
            messages[-1]["prefix"] = True
        case 1 if with_tools:
            messages += [_user(rng), *_calls(rng, version)]
        case _:
            messages.append(_user(rng))
    return messages, TOOLS[: rng.randrange(1, 3)] if with_tools else None


def shuffled(rng: random.Random, version: str) -> tuple[Conversation, list[dict[str, Any]] | None]:
    """A conversation with something moved, dropped, doubled or changed: most are broken, some are not."""
    messages, tools = generate(rng, version)
    for _ in range(rng.randrange(1, 3)):
        place = rng.randrange(len(messages))
        match rng.randrange(7):
            case 0:
                del messages[place]
            case 1:
                messages.insert(place, dict(messages[rng.randrange(len(messages))]))
            case 2:
                other = rng.randrange(len(messages))
                messages[place], messages[other] = messages[other], messages[place]
            case 3 if messages[place]["role"] == "assistant":
                messages[place] = {**messages[place], "prefix": True}
            case 4 if messages[place]["role"] == "assistant":
                messages[place] = {"role": "assistant", "content": rng.choice(("", None, "x"))}
            case 5 if messages[place]["role"] == "tool":
                messages[place] = {**messages[place], "tool_call_id": call_id(rng)}
            case 6:
                messages.append(messages.pop(place))
        if not messages:
            messages = [_user(rng)]
    return messages, tools


def call_id(rng: random.Random) -> str:
    return "".join(rng.choices("abcXYZ019", k=9))


def _text(rng: random.Random) -> str:
    return rng.choice(_TEXTS) + rng.choice(("", "", " ", "   ", "\n"))


def _content(rng: random.Random, text: str) -> Any:
    if rng.random() < 0.8:
        return text
    return [{"type": "text", "text": part} for part in (text, *rng.sample(_TEXTS, rng.randrange(3)))]


def _system(rng: random.Random, version: str) -> dict[str, Any]:
    content = _content(rng, _text(rng))
    if version == "v13" and rng.random() < 0.2:
        content = [{"type": "text", "text": "Think first."}, _thinking(rng), {"type": "text", "text": _text(rng)}]
    return {"role": "system", "content": content}


def _user(rng: random.Random) -> dict[str, Any]:
    return {"role": "user", "content": _content(rng, _text(rng))}


def _thinking(rng: random.Random) -> dict[str, Any]:
    return {"type": "thinking", "thinking": _text(rng), "closed": rng.random() < 0.8}


def _answer(rng: random.Random, version: str) -> dict[str, Any]:
    content = _content(rng, _text(rng))
    if version == "v13" and rng.random() < 0.4:
        content = [_thinking(rng), {"type": "text", "text": _text(rng)}][: rng.choice((1, 2, 2))]
    return {"role": "assistant", "content": content}


def _calls(rng: random.Random, version: str) -> Conversation:
    """An assistant message with calls, and their results, out of order where ids allow it."""
    num_calls = 1 if version == "v2" else rng.choice((1, 1, 2, 3))
    calls = [
        {
            "id": call_id(rng),
            "type": "function",
            "function": {"name": rng.choice(("get_weather", "no-arguments_1")), "arguments": rng.choice(_ARGUMENTS)},
        }
        for _ in range(num_calls)
    ]
    message: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": calls}
    if version not in ("v2", "v3") and rng.random() < 0.3:
        message["content"] = _text(rng)
    results: Conversation = [
        {
            "role": "tool",
            "content": rng.choice(_RESULTS),
            "tool_call_id": call["id"],
            **({"name": "get_weather"} if rng.random() < 0.5 else {}),
        }
        for call in calls
    ]
    rng.shuffle(results)
    return [message, *results]
