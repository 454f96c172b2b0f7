"""An LLM that answers by rule, for tests of everything around the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from tramontane.engine.sampling import SamplingParams
from tramontane.tokenizer import AssistantMessage

if TYPE_CHECKING:
    from tramontane.llm import LLM


class ByteEncoder:
    """One token per byte; remembers how long the texts were that it was given."""

    chat: Any = None

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        self.lengths.append(len(text))
        return list(text.encode("utf-8", "surrogatepass"))

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", "ignore")


class WordEncoder(ByteEncoder):
    """One token per character of punctuation or space and per four characters of a word."""

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        return [len(text)] * ((len(text) + 3) // 4)


@dataclass
class FakeChat:
    encoder: ByteEncoder

    def encode_chat(self, messages: Sequence[dict[str, Any]], *, tools: Any = None) -> list[int]:
        return self.encoder.encode("".join(f"<{m['role']}>{m['content']}" for m in messages))

    def parse(self, token_ids: Sequence[int], *, final: bool = True) -> AssistantMessage:
        return AssistantMessage(
            self.encoder.decode(token_ids).partition("</think>")[2] or self.encoder.decode(token_ids)
        )


@dataclass
class FakeCompletion:
    text: str
    token_ids: list[int]
    finish_reason: str = "stop"


@dataclass
class FakeLLM:
    """Answers each prompt with `answer(prompt)`, cut to max_tokens; keeps what it was asked."""

    answer: Callable[[str], str]
    reach: int = 4096
    has_chat: bool = True
    prompts: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokenizer = ByteEncoder()
        if self.has_chat:
            self.tokenizer.chat = FakeChat(self.tokenizer)

    def generate(self, prompts: Sequence[list[int]], sampling: SamplingParams) -> list[FakeCompletion]:
        self.batches.append(len(prompts))
        completions = []
        for token_ids in prompts:
            prompt = self.tokenizer.decode(token_ids)
            assert len(token_ids) + (sampling.max_tokens or 0) <= self.reach, "over-long prompt"
            self.prompts.append(prompt)
            answer = self.answer(prompt).encode()[: sampling.max_tokens]
            completions.append(FakeCompletion(answer.decode("utf-8", "ignore"), list(answer)))
        return completions


def as_llm(fake: FakeLLM) -> LLM:
    return cast("LLM", fake)
