"""Answer: one growing answer, from the engine's token ids to text, reasoning and tool calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tramontane.engine.request import FinishReason, Output, TokenLogprobs
from tramontane.llm.completion import Choice, Delta
from tramontane.tokenizer import (
    AnswerDelta,
    AnswerParser,
    Detokenizer,
    StopStrings,
    Tokenizer,
    joined_delta,
    joined_message,
)


class Answer:
    """`take` turns each Output into a Delta until `finish_reason` is set; `choice` is then the whole answer.

    In a chat (`parser`), reasoning and tool calls are kept apart from the text. Stop strings are looked for in the text
    alone. An answer that ends inside a tool call ends for its length, whatever the engine says: it is not whole.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: tuple[str, ...],
        *,
        index: int,
        continuation: bool,
        parser: AnswerParser | None = None,
    ) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._parser = parser
        self._detokenizer = Detokenizer(tokenizer, continuation=continuation)
        self._stop = StopStrings(stop)
        self._stop_ids = tokenizer.stop_ids
        self._parts: list[AnswerDelta] = []
        self._deltas: list[Delta] = []

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the answer; the engine is to be told (`Engine.finish`)."""
        return self._stop.stopped

    def take(self, output: Output) -> Delta:
        """What an engine Output adds."""
        parts: list[AnswerDelta] = []
        for part in self._read(output):
            parts.append(dataclasses.replace(part, content=self._stop.push(part.content)))
            if self.stopped_by is not None:
                break  # tokens that came with the one that completed the stop string are no part of the answer
        num_read = len(parts)
        self.finish_reason = output.finish_reason if self.stopped_by is None else "stop"
        if self.finish_reason is not None:
            parts.append(AnswerDelta(self._stop.finish()))
        if self.finish_reason == "stop" and self._parser is not None and self._parser.has_cut_call:
            self.finish_reason = "length"
        self._parts += parts
        added = joined_delta(parts)
        delta = Delta(
            self.index,
            added.content,
            output.token_ids[:num_read],
            thinking=added.thinking or "",
            ends_thinking=added.ends_thinking,
            tool_calls=added.tool_calls,
            logprobs=output.logprobs and output.logprobs[:num_read],
            finish_reason=self.finish_reason,
            error=output.error,
        )
        self._deltas.append(delta)
        return delta

    def _read(self, output: Output) -> Iterator[AnswerDelta]:
        """What each token adds, and then what the end does."""
        parser, detokenizer = self._parser, self._detokenizer
        for place, token_id in enumerate(output.token_ids, 1):
            if parser is not None:
                yield parser.push(token_id)
                continue
            # a token that ends the answer is no part of its text, be it one with a spelling
            is_end = output.finish_reason == "stop" and place == len(output.token_ids) and token_id in self._stop_ids
            yield AnswerDelta(detokenizer.finish() if is_end else detokenizer.push(token_id))
        if output.finish_reason is not None:
            yield AnswerDelta(detokenizer.finish()) if parser is None else parser.finish()

    def choice(self) -> Choice:
        """The whole answer. Raises ValueError before it has ended."""
        if self.finish_reason is None:
            raise ValueError("the answer has not ended")
        message = joined_message(self._parts)
        message = dataclasses.replace(message, thinking=message.thinking or None)
        logprobs: tuple[TokenLogprobs, ...] = tuple(entry for delta in self._deltas for entry in delta.logprobs or ())
        return Choice(
            index=self.index,
            text=message.content,
            token_ids=tuple(token_id for delta in self._deltas for token_id in delta.token_ids),
            finish_reason=self.finish_reason,
            stopped_by=self.stopped_by,
            logprobs=logprobs or None,
            message=None if self._parser is None else message,
            error=self._deltas[-1].error,
        )
