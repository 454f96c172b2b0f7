"""Completion, Choice, Delta: what a model answered, whole or as it comes."""

from __future__ import annotations

from dataclasses import dataclass

from tramontane.engine.request import FinishReason, TokenLogprobs
from tramontane.tokenizer import AssistantMessage, ToolCallDelta


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one answer. `text` is certain: never half a character or stop string."""

    index: int  # which of the n answers
    text: str
    token_ids: tuple[int, ...]
    thinking: str = ""  # reasoning of a chat answer, apart from its text
    ends_thinking: bool = False
    tool_calls: tuple[ToolCallDelta, ...] = ()  # opened, and what their arguments have grown by
    logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None  # set in the last Delta of each answer
    error: str | None = None  # set where finish_reason is "error" or "refused"


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished answer. `text` ends before the stop string; `token_ids` are all that were generated.

    `finish_reason` is "length" where a limit or the answer's end cut a tool call; `message` has it as far as it goes.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stopped_by: str | None = None  # the stop string, where one ended the answer
    logprobs: tuple[TokenLogprobs, ...] | None = None  # one per token id, where asked for
    message: AssistantMessage | None = None  # the answer as a chat message, tool calls parsed
    error: str | None = None  # set where finish_reason is "error" or "refused"


@dataclass(frozen=True, slots=True)
class Completion:
    """Everything answered to one prompt; `text` and the like are those of the first choice."""

    prompt_token_ids: tuple[int, ...]
    choices: tuple[Choice, ...]
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None  # one per prompt token, None for the first
    num_cached_tokens: int = 0  # prompt tokens that were not computed again

    @property
    def text(self) -> str:
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...] | None:
        return self.choices[0].logprobs

    @property
    def message(self) -> AssistantMessage | None:
        return self.choices[0].message
