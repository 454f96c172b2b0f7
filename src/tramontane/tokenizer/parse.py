"""Generated token ids to an answer: text, thinking, tool calls.

What a model writes is data: it is cut at control tokens and read by the JSON parser, nothing is ever evaluated. Output
that is no well-formed call is returned as text, so nothing a model can write raises.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tramontane.errors import TokenizerError
from tramontane.tokenizer.messages import AssistantMessage, ToolCall, mistral_tool_call_id, to_json

if TYPE_CHECKING:
    from tramontane.tokenizer.base import Tokenizer

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_DECODER = json.JSONDecoder()
_NOTHING = AssistantMessage("")


class AnswerParser:
    """The parts of an answer as its ids arrive.

    `push` and `finish` return what has become certain since: text and thinking at once (never half a character), a
    tool call when the control token after it, or the end, has come. Everything after the first stop token is ignored.
    `continuation` keeps the space of the first token, where the ids continue a text.
    """

    def __init__(self, tokenizer: Tokenizer, *, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._at_start = tokenizer.adds_space and not continuation
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_thinking = False
        self._is_ended = False
        self._call: list[tuple[str, list[str]]] = []  # the open call: control token and the text after it, in order
        self._num_calls = 0

    def push(self, token_id: int) -> AssistantMessage:
        """What `token_id` makes certain. Raises TokenizerError for a negative id."""
        if self._is_ended:
            return _NOTHING
        if token_id in self._tokenizer.stop_ids:
            return self.finish()
        name = self._tokenizer.control_name(token_id)
        if name is None:
            return self._text(self._decoder.decode(self._piece(token_id)))
        if name in ("[CALL_ID]", "[ARGS]"):
            before = self._text(self._decoder.decode(b"", final=True))
            if not self._call:
                return AssistantMessage(before.content + name)
            self._call.append((name, []))
            return before
        if name in ("[TOOL_CALLS]", "[THINK]", "[/THINK]"):
            before = self._close()
            if name == "[TOOL_CALLS]":
                self._call = [(name, [])]
            self._is_thinking = name == "[THINK]"
            return _with_thinking(before) if self._is_thinking else before
        return _NOTHING

    def finish(self) -> AssistantMessage:
        """What was held back; bytes that never became a character are U+FFFD."""
        self._is_ended = True
        return self._close()

    def _piece(self, token_id: int) -> bytes:
        piece = self._tokenizer.token_bytes(token_id)
        if self._at_start and piece:
            self._at_start = False
            return piece.removeprefix(b" ")
        return piece

    def _text(self, text: str) -> AssistantMessage:
        if self._call:
            self._call[-1][1].append(text)
            return _NOTHING
        if self._is_thinking:
            return AssistantMessage("", thinking=text)
        return AssistantMessage(text) if text else _NOTHING

    def _close(self) -> AssistantMessage:
        """End the open stretch of text, thinking or call."""
        before = self._text(self._decoder.decode(b"", final=True))
        parts = [(opener, "".join(texts)) for opener, texts in self._call]
        self._call = []
        if not parts:
            return before
        read = _read_list(parts) or _read_named(parts)
        if read is None:
            return AssistantMessage("".join(f"{opener}{text}" for opener, text in parts))
        calls, rest = read
        numbered = []
        for call_id, name, arguments_json in calls:
            digest = hashlib.sha256(f"{self._num_calls} {name} {arguments_json}".encode()).hexdigest()
            numbered.append(ToolCall(mistral_tool_call_id(call_id or digest), name, arguments_json))
            self._num_calls += 1
        return AssistantMessage(rest, tool_calls=tuple(numbered))


def parse_answer(
    tokenizer: Tokenizer, token_ids: Iterable[int], *, final: bool = True, continuation: bool = False
) -> AssistantMessage:
    """The answer in `token_ids`; with `final=False`, only what no further ids can change."""
    parser = AnswerParser(tokenizer, continuation=continuation)
    deltas = [parser.push(token_id) for token_id in token_ids]
    if final:
        deltas.append(parser.finish())
    thinking = [delta.thinking for delta in deltas if delta.thinking is not None]
    return AssistantMessage(
        content="".join(delta.content for delta in deltas),
        thinking="".join(thinking) if thinking else None,
        tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
    )


_Calls = tuple[list[tuple[str, str, str]], str]
"""Calls as (id or "", name, arguments in JSON), and the text after them."""


def _read_list(parts: list[tuple[str, str]]) -> _Calls | None:
    """`[{"name": ..., "arguments": {...}, "id": ...}, ...]` of v2 to v7; None when it is something else."""
    text = parts[0][1]
    value, end = _json_value(text)
    if len(parts) > 1 or not isinstance(value, list) or not value:
        return None
    calls = []
    for entry in value:
        if not isinstance(entry, dict) or not _is_name(entry.get("name")) or "arguments" not in entry:
            return None
        arguments = entry["arguments"]
        try:
            arguments_json = arguments if isinstance(arguments, str) else to_json(arguments)
        except TokenizerError:  # nested too deeply to be written again
            return None
        call_id = entry.get("id")
        calls.append((call_id if isinstance(call_id, str) else "", entry["name"], arguments_json))
    return calls, text[end:].strip()


def _read_named(parts: list[tuple[str, str]]) -> _Calls | None:
    """`name[CALL_ID]id[ARGS]{...}` of v11, `name[ARGS]{...}` of v13; None when it is something else."""
    openers = [opener for opener, _ in parts[1:]]
    if openers not in (["[ARGS]"], ["[CALL_ID]", "[ARGS]"]):
        return None
    name, arguments = parts[0][1].strip(), parts[-1][1]
    call_id = parts[1][1].strip() if len(parts) == 3 else ""
    value, end = _json_value(arguments)
    if not _is_name(name) or (arguments.strip() and not isinstance(value, dict)):
        return None
    return [(call_id, name, arguments[:end].strip() or "{}")], arguments[end:].strip()


def _json_value(text: str) -> tuple[object, int]:
    """(value, where it ends) of the JSON that `text` opens with; (None, 0) when there is none."""
    start = len(text) - len(text.lstrip())
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, 0
    return value, end


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _with_thinking(delta: AssistantMessage) -> AssistantMessage:
    """An opened stretch of thinking shows, even while it is empty."""
    return AssistantMessage(delta.content, delta.thinking or "", delta.tool_calls)
