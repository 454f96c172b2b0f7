"""The order of a conversation: what clients send, as the chat formats can write it.

Formats know few orders: instructions at the beginning or after a question, nothing between calls and their results, the
last word to the user. OpenAI's API takes any order, and the clients built on it send it. What has no place is put where
it has one rather than refused, and the answer's headers say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tramontane.server.notes import Notes
from tramontane.tokenizer.chat import ChatFormat, Features, MistralChat

Message = dict[str, Any]


def in_order(messages: Sequence[Message], chat: ChatFormat | None, notes: Notes, *, num_ours: int = 0) -> list[Message]:
    """The first `num_ours` messages are no part of the request. Noted as ignored: empty answers, reasoning that the
    model's format has no place for, text beside calls where it has none. Noted as changed: instructions read as a
    user's words, words moved behind the results of calls, calls at the beginning (the oldest turns were cut off), which
    get an empty question, an answer at the end that is to be continued."""
    features = chat.features if isinstance(chat, MistralChat) else None
    told: list[tuple[str, Message]] = []
    waiting: list[tuple[str, Message]] = []
    num_open = 0  # calls without a result
    for place, given in enumerate(messages, -num_ours):
        name = f"messages.{place}"
        message = _readable(given, features, name, notes)
        if message["role"] == "assistant":
            if is_empty(message):
                notes.ignored.add(name)
                continue
            num_open = len(message["tool_calls"])
            if message["prefix"] and place < len(messages) - num_ours - 1:
                message = {**message, "prefix": False}
                notes.ignored.add(f"{name}.prefix")
        elif message["role"] == "system" and not _takes_system(told, features):
            message = {**message, "role": "user"}
            notes.changed.add(f"{name}.role")
        if message["role"] in ("user", "system") and num_open > 0:
            waiting.append((name, message))
            notes.changed.add(name)
            continue
        told.append((name, message))
        if message["role"] == "tool":
            num_open -= 1
            if num_open <= 0:
                told += waiting
                waiting = []
    told += waiting
    if told and told[0][1]["role"] == "assistant" and told[0][1]["tool_calls"]:
        notes.changed.add(told[0][0])
        told.insert(0, ("", {"role": "user", "content": ""}))
    if told and _is_unfinished(told[-1][1]):
        name, message = told[-1]
        told[-1] = (name, {**message, "prefix": True})
        notes.changed.add(f"{name}.prefix")
    ordered = [message for _, message in told]
    return ordered if features is not None and len(ordered) != 1 else _alternating(ordered)


def is_empty(message: Message) -> bool:
    """An answer that says nothing, as one of ours does that ended with its first token."""
    return message["role"] == "assistant" and not message["tool_calls"] and not any(_chunks(message))


def _readable(message: Message, features: Features | None, name: str, notes: Notes) -> Message:
    """Without what the format cannot write."""
    chunks = message["content"]
    if isinstance(chunks, list) and (features is None or not features.thinks):
        kept = [chunk for chunk in chunks if chunk["type"] != "thinking"]
        if len(kept) < len(chunks):
            notes.ignored.add(f"{name}.thinking")
            message = {**message, "content": kept}
    mixes = features is not None and features.mixes_content_and_calls
    if message["role"] == "assistant" and message["tool_calls"] and any(_chunks(message)) and not mixes:
        notes.ignored.add(f"{name}.content")
        message = {**message, "content": None}
    return message


def _takes_system(told: Sequence[tuple[str, Message]], features: Features | None) -> bool:
    """Whether instructions may come next."""
    if features is None:
        return all(message["role"] == "system" for _, message in told)
    return not told or told[-1][1]["role"] in ("system", "user")


def _is_unfinished(message: Message) -> bool:
    return message["role"] == "assistant" and not message["tool_calls"] and not message["prefix"]


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message, the first that is no instruction the user's."""
    merged: list[Message] = []
    for message in messages:
        if message["role"] == "assistant" and all(before["role"] == "system" for before in merged):
            merged.append({"role": "user", "content": ""})
        if merged and merged[-1]["role"] == message["role"] != "tool" and not merged[-1].get("tool_calls"):
            merged[-1] = {**message, "content": _chunks(merged[-1]) + _chunks(message)}
        else:
            merged.append(message)
    return merged


def _chunks(message: Message) -> list[dict[str, Any]]:
    """Those that say anything."""
    content = message["content"] or []
    chunks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [chunk for chunk in chunks if chunk.get("text") or chunk.get("thinking")]
