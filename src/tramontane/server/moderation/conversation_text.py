"""A conversation as a text to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def conversation_text(messages: Sequence[dict[str, Any]]) -> str:
    """`role: text`, one message after the other."""
    return "\n".join(f"{message['role']}: {message_text(message)}" for message in messages)


def message_text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(chunk.get("text", "") for chunk in content if chunk["type"] == "text")
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls") or ()]
    return " ".join(part for part in (content, *calls) if part)
