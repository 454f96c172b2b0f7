"""Answer: one growing answer, from the engine's token ids to text, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Iterator

from tramontane.engine.request import FinishReason, Output, TokenLogprobs
from tramontane.llm.completion import Choice, Delta
from tramontane.tokenizer import AnswerParser, AssistantMessage, Detokenizer, StopStrings, Tokenizer, ToolCall


class Answer:
    """`take` turns each Output into a Delta until `finish_reason` is set; `choice` is then the whole answer.

    In a chat, reasoning and tool calls are kept apart from the text. Stop strings are looked for in the text alone.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: tuple[str, ...], *, index: int, is_chat: bool, continuation: bool
    ) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._is_chat = is_chat
        reader = AnswerParser if is_chat else Detokenizer
        self._reader: AnswerParser | Detokenizer = reader(tokenizer, continuation=continuation)
        self._stop = StopStrings(stop)
        self._stop_ids = tokenizer.stop_ids
        self._deltas: list[Delta] = []

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the answer; the engine is to be told (`Engine.finish`)."""
        return self._stop.stopped

    def take(self, output: Output) -> Delta:
        """What an engine Output adds."""
        text, thinking = "", ""
        tool_calls: list[ToolCall] = []
        num_read = 0
        for piece in self._read(output):
            num_read += 1
            if isinstance(piece, AssistantMessage):
                text += self._stop.push(piece.content)
                thinking += piece.thinking or ""
                tool_calls += piece.tool_calls
            else:
                text += self._stop.push(piece)
            if self.stopped_by is not None:
                break  # tokens that came with the one that completed the stop string are no part of the answer
        self.finish_reason = output.finish_reason if self.stopped_by is None else "stop"
        if self.finish_reason is not None:
            text += self._stop.finish()
        delta = Delta(
            self.index,
            text,
            output.token_ids[:num_read],
            thinking=thinking,
            tool_calls=tuple(tool_calls),
            logprobs=output.logprobs and output.logprobs[:num_read],
            finish_reason=self.finish_reason,
            error=output.error,
        )
        self._deltas.append(delta)
        return delta

    def _read(self, output: Output) -> Iterator[str | AssistantMessage]:
        """What each token adds, and then what the end does."""
        for place, token_id in enumerate(output.token_ids, 1):
            # a token that ends the answer is no part of its text, be it one with a spelling
            is_end = output.finish_reason == "stop" and place == len(output.token_ids)
            yield self._reader.finish() if is_end and token_id in self._stop_ids else self._reader.push(token_id)
        if output.finish_reason is not None:
            yield self._reader.finish()

    def choice(self) -> Choice:
        """The whole answer. Raises ValueError before it has ended."""
        if self.finish_reason is None:
            raise ValueError("the answer has not ended")
        text = "".join(delta.text for delta in self._deltas)
        message = None
        if self._is_chat:
            thinking = "".join(delta.thinking for delta in self._deltas) or None
            message = AssistantMessage(text, thinking, tuple(c for delta in self._deltas for c in delta.tool_calls))
        logprobs: tuple[TokenLogprobs, ...] = tuple(entry for delta in self._deltas for entry in delta.logprobs or ())
        return Choice(
            index=self.index,
            text=text,
            token_ids=tuple(token_id for delta in self._deltas for token_id in delta.token_ids),
            finish_reason=self.finish_reason,
            stopped_by=self.stopped_by,
            logprobs=logprobs or None,
            message=message,
            error=self._deltas[-1].error,
        )
