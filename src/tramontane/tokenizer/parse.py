"""Generated token ids to an answer: text, thinking, tool calls.

What a model writes is data: it is cut at control tokens and nothing is ever evaluated. Nothing a model can write
raises, none of its text is lost, and no control token is ever spelled.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tramontane.tokenizer.call_text import CallOutput, CallText, ToolCallDelta
from tramontane.tokenizer.messages import AssistantMessage, ToolCall, mistral_tool_call_id

if TYPE_CHECKING:
    from tramontane.tokenizer.base import Tokenizer

_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """What some token ids add to an answer."""

    content: str = ""
    thinking: str | None = None  # "": a stretch of it was opened
    ends_thinking: bool = False
    tool_calls: tuple[ToolCallDelta, ...] = ()


_NOTHING = AnswerDelta()


class AnswerParser:
    """The parts of an answer as its ids arrive.

    `push` and `finish` return what has become certain since, never half a character. A call is opened when its name is
    whole and its arguments begin, and grows with these; one that was cut comes with what there is of it. Everything
    after the first stop token is ignored. `continuation` keeps the space of the first token, where the ids continue a
    text; without `reads_calls`, calls are text like any other. Ids of calls are the model's where it writes them before
    the arguments, else derived from `call_seed`, so that a call can be shown before it is whole.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, continuation: bool = False, reads_calls: bool = True, call_seed: str = ""
    ) -> None:
        self._tokenizer = tokenizer
        self._at_start = tokenizer.adds_space and not continuation
        self._reads_calls = reads_calls
        self._call_seed = call_seed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_thinking = False
        self._is_ended = False
        self._calls: CallText | None = None
        self._call_ids: list[str] = []
        self.has_cut_call = False  # one of the calls is not whole, and never will be

    def push(self, token_id: int) -> AnswerDelta:
        """What `token_id` makes certain. Raises TokenizerError for a negative id."""
        if self._is_ended:
            return _NOTHING
        if token_id in self._tokenizer.stop_ids:
            return self._end(is_cut=False)
        match self._tokenizer.control_name(token_id):
            case None:
                return self._text(self._decoder.decode(self._piece(token_id)))
            case "[CALL_ID]" | "[ARGS]" as name if self._calls is not None:
                before = self._text(self._decoder.decode(b"", final=True))
                return joined_delta((before, _of_calls(self._calls.mark(name))))
            case "[TOOL_CALLS]" if self._reads_calls:
                before = self._close(is_cut=False)
                is_named = "[ARGS]" in self._tokenizer.control_names
                self._calls = CallText(self._open_call, is_named=is_named)
                return before
            case "[THINK]":
                before = self._close(is_cut=False)
                self._is_thinking = True
                return joined_delta((before, AnswerDelta(thinking="")))
            case "[/THINK]":
                return self._close(is_cut=False)
            case _:
                return _NOTHING

    def finish(self) -> AnswerDelta:
        """The end, of an answer that was cut where no stop token came: what was held back. Bytes that never became a
        character are U+FFFD."""
        return _NOTHING if self._is_ended else self._end(is_cut=True)

    def _end(self, *, is_cut: bool) -> AnswerDelta:
        self._is_ended = True
        return self._close(is_cut=is_cut)

    def _piece(self, token_id: int) -> bytes:
        piece = self._tokenizer.token_bytes(token_id)
        if self._at_start and piece:
            self._at_start = False
            return piece.removeprefix(b" ")
        return piece

    def _text(self, text: str) -> AnswerDelta:
        if not text:
            return _NOTHING
        if self._calls is not None:
            return _of_calls(self._calls.push(text))
        return AnswerDelta(thinking=text) if self._is_thinking else AnswerDelta(text)

    def _close(self, *, is_cut: bool) -> AnswerDelta:
        """End the open stretch of text, thinking or call."""
        parts = [self._text(self._decoder.decode(b"", final=True))]
        if self._calls is not None:
            parts.append(_of_calls(self._calls.end(is_cut=is_cut)))
            self.has_cut_call |= self._calls.has_cut_call
            self._calls = None
        if self._is_thinking and not is_cut:
            self._is_thinking = False
            parts.append(AnswerDelta(ends_thinking=True))
        return joined_delta(parts)

    def _open_call(self, name: str, written_id: str) -> tuple[int, str]:
        place = len(self._call_ids)
        call_id = written_id
        if not _CALL_ID.fullmatch(written_id) or written_id in self._call_ids:
            call_id = mistral_tool_call_id(hashlib.sha256(f"{self._call_seed} {place} {name}".encode()).hexdigest())
        self._call_ids.append(call_id)
        return place, call_id


def parse_answer(
    tokenizer: Tokenizer, token_ids: Iterable[int], *, final: bool = True, continuation: bool = False
) -> AssistantMessage:
    """The answer in `token_ids`; with `final=False`, only what no further ids can change."""
    parser = AnswerParser(tokenizer, continuation=continuation)
    deltas = [parser.push(token_id) for token_id in token_ids]
    if final:
        deltas.append(parser.finish())
    return joined_message(deltas)


def joined_delta(deltas: Iterable[AnswerDelta]) -> AnswerDelta:
    """What `deltas` add together."""
    deltas = [delta for delta in deltas if delta is not _NOTHING]
    if len(deltas) < 2:
        return deltas[0] if deltas else _NOTHING
    thinking = [delta.thinking for delta in deltas if delta.thinking is not None]
    return AnswerDelta(
        content="".join(delta.content for delta in deltas),
        thinking="".join(thinking) if thinking else None,
        ends_thinking=any(delta.ends_thinking for delta in deltas),
        tool_calls=_merged(call for delta in deltas for call in delta.tool_calls),
    )


def joined_message(deltas: Iterable[AnswerDelta]) -> AssistantMessage:
    """The message that `deltas` make up, from the first to the last."""
    whole = joined_delta(deltas)
    return AssistantMessage(
        content=whole.content,
        thinking=whole.thinking,
        tool_calls=tuple(
            ToolCall(call.id, call.name, call.arguments_json, is_whole=call.ends) for call in _merged(whole.tool_calls)
        ),
        thinking_closed=whole.thinking is None or whole.ends_thinking,
    )


def _merged(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """One delta of each call."""
    merged: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        before = merged.get(delta.index)
        if before is not None:
            arguments = before.arguments_json + delta.arguments_json
            delta = ToolCallDelta(delta.index, arguments, before.id, before.name, ends=before.ends or delta.ends)
        merged[delta.index] = delta
    return tuple(merged.values())


def _of_calls(output: CallOutput) -> AnswerDelta:
    if not output.text and not output.calls:
        return _NOTHING
    return AnswerDelta(output.text, tool_calls=_merged(output.calls))
