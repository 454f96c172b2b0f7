"""Conversations as other programs write them, turned into `messages` of the chat API: ShareGPT's turns, transcripts,
exports of ChatGPT."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tramontane.errors import DataError

_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response", "tool_response", "function"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
    "system": "system",
}
_TAGGED_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_TAGGED_RESULT = re.compile(r"</?tool_response>")
_TRANSCRIPT = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")


def decoded(value: Any) -> Any:
    """Lists and objects that stand as JSON text in a cell, as in CSV; everything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def turns_in(value: Any) -> list[Any] | None:
    """Turns of a conversation, ShareGPT's too, also as JSON text; None for anything else."""
    value = decoded(value)
    if isinstance(value, Mapping) and ("role" in value or {"from", "value"} <= value.keys()):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        return None
    if all("role" in turn for turn in value):
        return value
    return from_sharegpt(value, with_tools=False) if all({"from", "value"} <= turn.keys() for turn in value) else None


def tools_of(value: Any) -> list[Any] | None:
    """Tools in the form of the chat API, from JSON text and from bare functions too."""
    value = decoded(value)
    if value in (None, "", []):
        return None
    if not isinstance(value, list):
        raise DataError("tools must be a list")
    return [
        {"type": "function", "function": tool} if isinstance(tool, dict) and "name" in tool else tool for tool in value
    ]


def from_sharegpt(turns: Any, *, with_tools: bool) -> list[dict[str, Any]]:
    """ShareGPT's `from` and `value`, and turns of role and content that stand under the same name. Calls are turns of
    `function_call` (JSON), and with tools also Hermes' `<tool_call>` in an answer. Raises DataError naming the turn."""
    if not isinstance(turns, list):
        raise DataError("conversations must be a list")
    messages = []
    for place, turn in enumerate(turns):
        if not isinstance(turn, dict) or not ("role" in turn or {"from", "value"} <= turn.keys()):
            raise DataError(f"conversations[{place}] must be an object with from and value")
        messages.append(turn if "role" in turn else _from_turn(turn, place, with_tools=with_tools))
    return messages


def _from_turn(turn: Mapping[str, Any], place: int, *, with_tools: bool) -> dict[str, Any]:
    speaker, text = turn["from"], turn["value"]
    role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise DataError(f"conversations[{place}]: from={speaker!r} is not known; use one of {', '.join(_SPEAKERS)}")
    rest = {key: item for key, item in turn.items() if key not in ("from", "value")}
    if role == "call":
        calls = decoded(text)
        calls = calls if isinstance(calls, list) else [calls]
        return {**rest, "role": "assistant", "content": None, "tool_calls": [_call(call, place) for call in calls]}
    message = {**rest, "role": role, "content": text}
    if with_tools and isinstance(text, str) and role == "assistant" and (found := _TAGGED_CALL.findall(text)):
        message["content"] = _TAGGED_CALL.sub("", text).strip() or None
        message["tool_calls"] = [_call(decoded(each), place) for each in found]
    elif with_tools and isinstance(text, str) and role == "tool":
        message["content"] = _TAGGED_RESULT.sub("", text).strip()
    return message


def _call(call: Any, place: int) -> dict[str, Any]:
    if not isinstance(call, dict) or "name" not in call:
        raise DataError(f"conversations[{place}]: a call must be JSON with name and arguments")
    return {"function": {"name": call["name"], "arguments": call.get("arguments", call.get("parameters"))}}


def from_transcript(text: str) -> list[dict[str, Any]] | None:
    """`Human: … Assistant: …` with empty lines between, as in Anthropic's HH; None for another text."""
    before, *parts = _TRANSCRIPT.split(text)
    if not parts or before.strip() or parts[0] != "Human":
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[name], "content": said.strip()} for name, said in zip(parts[::2], parts[1::2], strict=True)]


def from_chatgpt(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The branch of a conversation exported from ChatGPT that was seen last. Raises DataError for one that used
    pictures or ChatGPT's own tools, whose parts an export does not hold."""
    try:
        return _last_branch(value["mapping"], value.get("current_node"))
    except (AttributeError, TypeError):  # somewhere something else than an object
        raise DataError("mapping must be a tree of messages, as ChatGPT exports it") from None


def _last_branch(nodes: Mapping[str, Any], key: Any) -> list[dict[str, Any]]:
    if key is None:
        key = next((name for name, node in nodes.items() if not node.get("children")), None)
    messages: list[dict[str, Any]] = []
    seen = set()
    while key in nodes and key not in seen:
        seen.add(key)
        node = nodes[key]
        key = node.get("parent")
        message = node.get("message") or {}
        role = (message.get("author") or {}).get("role")
        content = message.get("content") or {}
        parts = content.get("parts") or []
        is_hidden = (message.get("metadata") or {}).get("is_visually_hidden_from_conversation")
        if not message or is_hidden or (role == "system" and not any(parts)):
            continue
        is_text = content.get("content_type") == "text" and all(isinstance(part, str) for part in parts)
        if role == "tool" or not is_text or message.get("recipient", "all") != "all":
            raise DataError("the conversation used pictures or tools of ChatGPT, which cannot be learned from")
        messages.insert(0, {"role": role, "content": "\n".join(parts)})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()  # a question that was never answered
    return messages


def parted(chosen: Sequence[Any], rejected: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """(what two conversations share, the rest of each); the rests begin with the assistant's. Raises DataError."""
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    same = min(same, len(chosen) - 1, len(rejected) - 1)
    while same > 0 and _role(chosen[same - 1]) == "assistant":
        same -= 1
    if same < 1 or [_role(chosen[same]), _role(rejected[same])] != ["assistant"] * 2:
        raise DataError("chosen and rejected must share their beginning and part at an answer of the assistant")
    return list(chosen[:same]), list(chosen[same:]), list(rejected[same:])


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None
