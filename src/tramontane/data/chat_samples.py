"""Training samples of conversations, in the JSON of Mistral's fine-tuning API.

    {"messages": [{"role": "system" | "user" | "assistant" | "tool", "content": ..., ...}], "tools": [...]}

Loss is taken on assistant messages only; one with `"weight": 0` is read but not learned. Roles must alternate so that
training sees what serving renders: system? (user assistant (tool+ assistant)*)+, the last one being learned from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tramontane.errors import DataError

Message = Mapping[str, Any]

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_KEYS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "weight", "prefix"},
    "tool": {"role", "content", "tool_call_id", "name"},
}
_FOLLOWERS = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "tool": ("tool", "assistant"),
}


@dataclass(frozen=True, slots=True)
class ChatSample:
    """A checked conversation. Contents are plain text; `is_learned[k]` is for the k-th assistant message."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    is_learned: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one conversation, the first preferred."""

    chosen: ChatSample
    rejected: ChatSample


@dataclass(frozen=True, slots=True)
class ClassifierSample:
    """A text or conversation with its labels: target name -> the labels that hold."""

    text: str | None
    messages: tuple[Message, ...]
    labels: Mapping[str, tuple[str, ...]]


def parse_chat(value: Mapping[str, Any]) -> ChatSample:
    """Raises DataError saying which message is wrong and how to mend it."""
    _only_keys(value, {"messages", "tools"}, "the sample")
    tools = _tools(value.get("tools"))
    messages = _messages(value.get("messages"), tools)
    if messages[-1]["role"] != "assistant":
        raise DataError(f"the last message has role {messages[-1]['role']!r}; end with the assistant's answer to learn")
    weights = [message.get("weight", 1) for message in messages if message["role"] == "assistant"]
    if not any(weights):
        raise DataError("every assistant message has weight 0, so there is nothing to learn; give one weight 1")
    stripped = tuple({key: item for key, item in message.items() if key != "weight"} for message in messages)
    return ChatSample(stripped, tools, tuple(bool(weight) for weight in weights))


def parse_preference(value: Mapping[str, Any]) -> PreferencePair:
    """`{"messages": [..., user], "chosen": answer, "rejected": answer, "tools"?}`; an answer is text or an assistant
    message. Only the answers are learned from. Raises DataError."""
    _only_keys(value, {"messages", "tools", "chosen", "rejected"}, "the sample")
    context = value.get("messages")
    if not isinstance(context, list) or not context:
        raise DataError("messages must be a list with at least one message")
    answers = []
    for key in ("chosen", "rejected"):
        answer = value.get(key)
        message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
        if not isinstance(message, dict) or message.get("role") != "assistant":
            raise DataError(f"{key} must be the text of an answer or a message of role 'assistant'")
        silent = [{**each, "weight": 0} if _is_assistant(each) else each for each in context]
        try:
            sample = parse_chat({"messages": [*silent, message], "tools": value.get("tools")})
        except DataError as error:
            raise DataError(f"{key}: {error}") from None
        answers.append(sample)
    if answers[0].messages[-1] == answers[1].messages[-1]:
        raise DataError("chosen and rejected are the same answer; a pair must differ")
    return PreferencePair(*answers)


def parse_classifier(value: Mapping[str, Any]) -> ClassifierSample:
    """`{"text" | "messages": ..., "labels": {target: label | [labels]}}`. Raises DataError."""
    _only_keys(value, {"text", "messages", "labels"}, "the sample")
    if ("text" in value) == ("messages" in value):
        raise DataError("give either text or messages")
    labels = value.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError('labels must be an object such as {"sentiment": "joy"}')
    read = {}
    for target, label in labels.items():
        several = label if isinstance(label, list) else [label]
        if not all(isinstance(each, str) and each for each in several):
            raise DataError(f"labels[{target!r}]={label!r} must be a text or a list of texts")
        if len(set(several)) != len(several):
            raise DataError(f"labels[{target!r}] names a label twice")
        read[target] = tuple(several)
    if "text" in value:
        return ClassifierSample(_text(value["text"], "text"), (), read)
    return ClassifierSample(None, _messages(value["messages"], ()), read)


def _only_keys(value: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(value) - known):
        raise DataError(f"{where} has unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _is_assistant(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _text(value: object, where: str) -> str:
    """Text, or a list of text chunks, as one string that is not empty."""
    if isinstance(value, list):
        for chunk in value:
            if not isinstance(chunk, dict) or chunk.get("type") != "text" or not isinstance(chunk.get("text"), str):
                raise DataError(f"{where} holds a chunk that is not text; only text can be learned from")
        value = "".join(chunk["text"] for chunk in value)
    if not isinstance(value, str):
        raise DataError(f"{where} must be text, not {type(value).__name__}")
    if not value.strip():
        raise DataError(f"{where} is empty; write something or remove the message")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where} holds half of a character (a lone surrogate); encode the text properly") from None
    return value


def _messages(value: object, tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError("messages must be a list with at least one message")
    declared = {tool["function"]["name"] for tool in tools}
    read: list[Message] = []
    open_calls: list[str] = []  # ids still waiting for their result
    seen_ids: set[str] = set()
    for place, message in enumerate(value):
        where = f"messages[{place}]"
        role = _role(message, where)
        before = read[-1]["role"] if read else None
        if open_calls and role != "tool":
            raise DataError(f"{where}: tool call {open_calls[0]!r} has no result; add a message of role 'tool' first")
        followers = ("tool",) if open_calls else _FOLLOWERS[before]
        if role not in followers:
            after = f"after role {before!r}" if before else "at the start"
            raise DataError(f"{where}: role {role!r} {after}; expected {' or '.join(map(repr, followers))}")
        if role == "tool":
            read.append(_tool_result(message, where, open_calls))
        elif role == "assistant":
            read.append(_assistant(message, where, declared, seen_ids))
            open_calls = [call["id"] for call in read[-1].get("tool_calls", ())]
        else:
            read.append({**message, "content": _text(message.get("content"), f"{where}: content")})
    if open_calls:
        raise DataError(f"tool call {open_calls[0]!r} has no result; add it and the assistant's answer to it")
    return tuple(read)


def _role(message: object, where: str) -> str:
    if not isinstance(message, dict):
        raise DataError(f"{where} must be an object with role and content, not {type(message).__name__}")
    role = message.get("role")
    if role not in _KEYS:
        raise DataError(f"{where}: role {role!r} is unknown; use system, user, assistant or tool")
    _only_keys(message, _KEYS[role], where)
    if message.get("prefix"):
        raise DataError(f"{where}: a prefix cannot be learned from; remove it")
    return str(role)


def _tool_result(message: Message, where: str, open_calls: list[str]) -> Message:
    call_id = message.get("tool_call_id")
    if call_id not in open_calls:
        raise DataError(f"{where}: tool_call_id {call_id!r} answers no open call; open are {open_calls}")
    open_calls.remove(call_id)
    return {**message, "content": _text(message.get("content"), f"{where}: content")}


def _assistant(message: Message, where: str, declared: set[str], seen_ids: set[str]) -> Message:
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        raise DataError(f"{where}: weight {weight!r} must be 0 (do not learn) or 1")
    calls = message.get("tool_calls")
    if not calls:
        content = _text(message.get("content"), f"{where}: content")
        return {key: item for key, item in message.items() if key != "tool_calls"} | {"content": content}
    if message.get("content"):
        raise DataError(f"{where}: has both content and tool_calls; keep one of them")
    if not isinstance(calls, list):
        raise DataError(f"{where}: tool_calls must be a list")
    read = [_tool_call(call, f"{where}: tool_calls[{place}]", declared, seen_ids) for place, call in enumerate(calls)]
    return {key: item for key, item in message.items() if key != "content"} | {"tool_calls": read}


def _tool_call(call: object, where: str, declared: set[str], seen_ids: set[str]) -> dict[str, Any]:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        raise DataError(f"{where} must be an object with id and function")
    call_id = call.get("id")
    if not isinstance(call_id, str) or not 1 <= len(call_id) <= 64:
        raise DataError(f"{where}: id {call_id!r} must be a text of 1 to 64 characters, best 9 letters or digits")
    if call_id in seen_ids:
        raise DataError(f"{where}: id {call_id!r} was used before; give each call its own")
    seen_ids.add(call_id)
    name, arguments = call["function"].get("name"), call["function"].get("arguments")
    if name not in declared:
        raise DataError(f"{where}: function {name!r} is not declared; add it to tools")
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    try:
        is_object = isinstance(arguments, str) and isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise DataError(f"{where}: arguments must be a JSON object, as an object or as text")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tools(value: object) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise DataError("tools must be a list")
    names: set[str] = set()
    for place, tool in enumerate(value):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type", "function") != "function":
            raise DataError(f'tools[{place}] must be {{"type": "function", "function": {{"name", "parameters"}}}}')
        name = function.get("name")
        if not isinstance(name, str) or not _FUNCTION_NAME.match(name):
            raise DataError(f"tools[{place}]: name {name!r} must be 1 to 64 letters, digits, '_' or '-'")
        if name in names:
            raise DataError(f"tools[{place}]: {name!r} is declared twice")
        names.add(name)
        if not isinstance(function.get("parameters", {}), dict):
            raise DataError(f"tools[{place}]: parameters must be a JSON schema object")
    return tuple(value)
