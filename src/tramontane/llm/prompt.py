"""Prompt: token ids ready for the engine, and how their answers are to be read back."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tramontane.engine.sampling import SamplingParams
from tramontane.errors import RequestError
from tramontane.llm.answer import Answer
from tramontane.tokenizer import AnswerParser, Tokenizer

Message = Mapping[str, Any]
"""A chat message in the form of Mistral's and OpenAI's APIs: role, content, tool_calls, …"""


@dataclass(frozen=True, slots=True)
class Prompt:
    tokenizer: Tokenizer
    token_ids: list[int]
    is_chat: bool = False
    continuation: bool = True  # the answer goes on in the middle of a text
    reads_calls: bool = True  # of tools, in a chat; else they are text like any other

    def answers(self, params: SamplingParams) -> list[Answer]:
        digest = hashlib.sha256(array("q", self.token_ids).tobytes()).hexdigest() if self.is_chat else ""
        return [
            Answer(
                self.tokenizer,
                params.stop,
                index=index,
                continuation=self.continuation,
                parser=self._parser(f"{digest} {index}") if self.is_chat else None,
            )
            for index in range(params.n)
        ]

    def _parser(self, call_seed: str) -> AnswerParser:
        """`call_seed`: of this prompt and answer alone, so that the next turn of the conversation has other ids."""
        return AnswerParser(
            self.tokenizer, continuation=self.continuation, reads_calls=self.reads_calls, call_seed=call_seed
        )


def text_prompt(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> Prompt:
    """A text to continue, or its token ids; a text gets what the checkpoint puts around every
    text, mostly the beginning-of-sequence token.

    Raises RequestError for anything else, TokenizerError for text that cannot be encoded.
    """
    if isinstance(prompt, str):
        return Prompt(tokenizer, tokenizer.encode_prompt(prompt))
    token_ids = list(prompt)
    if not all(isinstance(token_id, int) for token_id in token_ids):
        raise RequestError("a prompt must be text or a list of token ids")
    return Prompt(tokenizer, token_ids)


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Message] | None = None) -> Prompt:
    """A conversation to answer. Raises TokenizerError if the model cannot chat, or not in this way."""
    token_ids = tokenizer.require_chat().encode_chat(messages, tools=tools)
    return Prompt(tokenizer, token_ids, is_chat=True, continuation=bool(messages[-1].get("prefix")))


def fim_prompt(tokenizer: Tokenizer, prompt: str, suffix: str | None) -> Prompt:
    """A gap to fill between two texts. Raises TokenizerError if the model has no infilling format."""
    return Prompt(tokenizer, tokenizer.require_chat().encode_fim(prompt, suffix))


def read_prompt(
    tokenizer: Tokenizer, prompt: str | Sequence[int] | Sequence[Message], tools: Sequence[Message] | None = None
) -> Prompt:
    """A conversation where `prompt` is a list of messages, else a text or token ids to continue."""
    if not isinstance(prompt, str) and prompt and isinstance(prompt[0], Mapping):
        return chat_prompt(tokenizer, prompt, tools)  # type: ignore[arg-type]  # told apart by the first element
    if tools:
        raise RequestError("tools go with a conversation; give a list of messages")
    return text_prompt(tokenizer, prompt)  # type: ignore[arg-type]
