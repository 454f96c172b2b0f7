"""Run as a program by test_terminal_chat.py: the terminal chat over an LLM that answers by rule."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from tramontane.cli import main as command
from tramontane.cli.options import ModelOptions
from tramontane.errors import RequestError

if TYPE_CHECKING:
    from tramontane.llm import LLM


class ScriptedLLM:
    """What it does depends on the message.

    count: 0, 1, 2 … without end. slow: ready after a second. prefill: no word yet, without end. stuck: nothing happens
    at all. long: too long a prompt. think: a thought first.
    Anything else: the conversation so far. A character is a token.
    """

    max_seq_len = 4000

    tokenizer = SimpleNamespace(require_chat=lambda: None)
    checkpoint = SimpleNamespace(sampling={})

    def count_chat_tokens(self, messages: Sequence[dict[str, Any]]) -> int:
        return sum(len(message["content"]) for message in messages)

    def stream_deltas(self, messages: Sequence[dict[str, Any]], _params: object) -> Iterator[Any]:
        text = messages[-1]["content"]
        if text == "long":
            raise RequestError("the prompt has 9000 tokens, more than max_seq_len=4096")
        try:
            if text == "count":
                for i in range(10_000_000):
                    yield delta(f"{i} ")
                    time.sleep(0.01)
            elif text == "slow":
                yield delta("Wait … ")
                time.sleep(1)
                yield delta("ready.")
            elif text == "prefill":
                print("<reading>", flush=True)
                for _ in range(10_000_000):
                    yield delta("")
                    time.sleep(0.01)
            elif text == "stuck":
                print("<stuck>", flush=True)
                time.sleep(600)
            elif text == "think":
                yield delta("", thinking="Hm.")
                yield delta("Done.")
            else:
                for part in ("I heard: ", " | ".join(f"{m['role']}={m['content']!r}" for m in messages), ".\x1b[2J"):
                    yield delta(part)
        finally:
            print("<closed>", end="")


def delta(text: str, thinking: str = "") -> Any:
    return SimpleNamespace(text=text, thinking=thinking, token_ids=(1,), finish_reason=None)


def load(_options: ModelOptions) -> LLM:
    return cast("LLM", ScriptedLLM())


if __name__ == "__main__":
    setattr(ModelOptions, "load", load)  # noqa: B010 - an assignment would be typed against the method
    sys.exit(command.run(["chat", *sys.argv[1:]]))
