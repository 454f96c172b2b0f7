"""A conversation and the slash commands that act on it; no terminal, no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tramontane import durable
from tramontane.errors import DataError

COMMANDS = {
    "/system TEXT": "start over under a new system prompt (no TEXT: without one)",
    "/reset": "forget the conversation, keep the system prompt",
    "/retry": "answer the last message again",
    "/save FILE": "write the conversation to FILE, one line of JSON",
    "/load FILE": "go on with a conversation saved before",
    "/tokens": "how full the model's context is",
    "/stats": "print tokens and speed after each answer, or stop it",
    "/help": "this list",
    "/quit": "leave (also Ctrl-D)",
}
KEYS = "Enter sends; Alt-Enter starts a new line; Ctrl-C stops an answer; a leading space sends a slash as text."
MAX_FILE_BYTES = 64 << 20


class Conversation:
    """Messages in the order they were said, `{"role": ..., "content": ...}`, the system prompt first."""

    def __init__(self, system: str | None = None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.start(system)

    @property
    def system(self) -> str | None:
        first = self.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else None

    def start(self, system: str | None) -> None:
        """Forget everything; begin under this system prompt."""
        self.messages = [{"role": "system", "content": system}] if system else []

    def ask(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def reply(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> bool:
        """Remove the last answer, so that the message before it can be answered again; False if there is none."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            return False
        self.messages.pop()
        return True

    def save(self, path: Path) -> None:
        """Write `{"messages": [...]}`, the form of a training sample; the file appears whole or not at all."""
        durable.write(path, json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")

    def load(self, path: Path) -> None:
        """Take over a saved conversation. Raises DataError, leaving this one as it was, if the file holds none."""
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, not a conversation")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise DataError(f"{path}: not a saved conversation (no JSON)") from None
        messages = data.get("messages") if isinstance(data, dict) else None
        if not isinstance(messages, list) or not all(is_message(message) for message in messages):
            raise DataError(f'{path}: not a saved conversation (wanted {{"messages": [{{"role", "content"}}, ...]}})')
        self.messages = [{"role": message["role"], "content": message["content"]} for message in messages]


def is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in ("system", "user", "assistant")
        and isinstance(value.get("content"), str)
    )
