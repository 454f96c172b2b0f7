"""The text of tool calls, read as it comes: what of it is a call, and what is text that only stood where calls do.

A call shows once its name is whole and its arguments begin; from then on these grow as the model writes them: JSON if
it behaves, whole if nothing cut them. What a call is written with beside them (brackets, keys, separators) is never
shown, and neither is a call that was cut before its name began.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NAME_BEGUN = re.compile(r"\s*[a-zA-Z0-9_-]{0,64}\s*")
_MAX_HEADER_CHARS = 1000
"""What stands before the arguments of a call is read as it comes up to this length, and else when the call ends."""

_MAX_NAME_CHARS = 200  # the spaces around it included

_STRING = r'"((?:[^"\\]|\\.)*)'
_PAIR = re.compile(rf'"(\w+)"\s*:\s*{_STRING}"\s*,?\s*', re.S)
_HEADER = re.compile(rf'\s*[\[,]\s*\{{\s*((?:"\w+"\s*:\s*{_STRING}"\s*,\s*)+)"arguments"\s*:\s*', re.S)
_CUT_HEADER = re.compile(
    rf'\s*(?:[\[,]\s*)?(?:\{{\s*((?:"\w+"\s*:\s*{_STRING}"\s*,?\s*)*)(?:"(?P<key>\w*)(?:"\s*(?::\s*(?:"(?P<value>[^"]*))?)?)?)?)?',
    re.S,
)
_LAST_ESCAPE = re.compile(r"(?:[^\\]|\\.)*?(\\(?:u[0-9a-fA-F]{0,3})?)\Z", re.S)
_SURROGATE = re.compile("[\ud800-\udfff]")

OpenCall = Callable[[str, str], tuple[int, str]]
"""(name, id that the model wrote or "") of a call to (its place in the answer, its id)."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """What is added to the call at place `index` of an answer. Its `id` and `name` come with the first."""

    index: int
    arguments_json: str  # more of it
    id: str = ""
    name: str = ""
    ends: bool = False  # the call is whole now


@dataclass(slots=True)
class CallOutput:
    """What has become certain: text that is no call, and parts of calls."""

    text: str = ""
    calls: list[ToolCallDelta] = field(default_factory=list)


class JsonExtent:
    """How far one JSON value reaches. Brackets are counted and strings skipped; nothing else is checked."""

    def __init__(self) -> None:
        self.first = ""  # character: it says what kind of value this is
        self.is_whole = False
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def take(self, text: str, start: int = 0) -> int:
        """Where in `text` from `start` on the value ends; its length where it does not."""
        for place in range(start, len(text)):
            char = text[place]
            self.first = self.first or char
            if self.first not in '"[{':
                if char in ",]} \t\r\n":  # ends a number or a word, and is no part of it
                    self.is_whole = True
                    return place
                continue
            if self._in_string:
                self._in_string = self._is_escaped or char != '"'
                self._is_escaped = char == "\\" and not self._is_escaped
            elif char == '"':
                self._in_string = True
            elif char in "[{":
                self._depth += 1
            elif char in "]}":
                self._depth -= 1
            if self._depth <= 0 and not self._in_string:
                self.is_whole = True
                return place + 1
        return len(text)


class CallText:
    """Text after one `[TOOL_CALLS]`: a list of calls, or one call by name.

    `[{"name": ..., "arguments": {...}, "id": ...}, ...]` (v2 to v7), or, of models that have these control tokens
    (`is_named`), `name[CALL_ID]id[ARGS]{...}` (v11) and `name[ARGS]{...}` (v13). Anything else is text.
    """

    def __init__(self, open_call: OpenCall, *, is_named: bool) -> None:
        self.has_cut_call = False
        self._open_call = open_call
        self._is_named = is_named
        self._read: Callable[[str, int, CallOutput], int] = self._start
        self._held: list[str] = []  # since the last call: text, should no call come of it
        self._index: int | None = None  # of the open call
        self._value = JsonExtent()  # its arguments
        self._quoted: list[str] = []  # arguments written as a string, decoded when it ends
        self._entry: JsonExtent | None = None  # of a list, begun; of a call by name there is none
        self._has_entries = False
        self._last = ""  # character of an entry that is no space

    def push(self, text: str) -> CallOutput:
        output, place = CallOutput(), 0
        while place < len(text):
            place = self._read(text, place, output)
        return output

    def mark(self, name: str) -> CallOutput:
        """`[CALL_ID]` or `[ARGS]`. They mean nothing but in their places."""
        output, held = CallOutput(), "".join(self._held).strip()
        if self._read == self._read_name and _NAME.fullmatch(held):
            self._held = [held]
            self._read = self._read_id if name == "[CALL_ID]" else self._begin_arguments
        elif self._read == self._read_id and name == "[ARGS]":
            self._read = self._begin_arguments
        elif self._read in (self._start, self._read_name, self._read_id, self._read_entry):
            self._give_up(output)
        return output

    def end(self, *, is_cut: bool) -> CallOutput:
        """No more text comes; `is_cut` if it was not the model that ended it."""
        output = CallOutput()
        if self._index is not None:
            self._add(output, _decoded("".join(self._quoted)))
            self.has_cut_call = True
        elif self._read == self._begin_arguments and not is_cut:
            self._open(self._held[0], output, self._held_id())
            self._close(output, "{}")  # of a call without arguments
        elif self._read in (self._read_id, self._begin_arguments):
            self._open_cut(self._held[0], output, self._held_id())
        elif self._read == self._read_name:
            self._open_cut("".join(self._held).strip(), output)
        elif self._read == self._read_entry:
            self._end_entry(output)
        return output

    def _end_entry(self, output: CallOutput) -> None:
        held = "".join(self._held)
        header = _CUT_HEADER.fullmatch(held) if len(held) <= _MAX_HEADER_CHARS else None
        if header is None:
            self._give_up(output)
            return
        pairs = dict(_PAIR.findall(header[1] or ""))
        begun = header["value"] if header["key"] == "name" else None
        if name := pairs.get("name", begun):
            self._open_cut(name, output, pairs.get("id", ""))

    def _start(self, text: str, place: int, output: CallOutput) -> int:
        if text[place].isspace():
            self._held.append(text[place])
            return place + 1
        if text[place] == "[":
            self._read = self._read_entry
        elif self._is_named:
            self._read = self._read_name
        else:
            self._give_up(output)
        return place

    def _read_name(self, text: str, place: int, output: CallOutput) -> int:
        self._held.append(text[place:])
        held = "".join(self._held)
        if len(held) > _MAX_NAME_CHARS or not _NAME_BEGUN.fullmatch(held):
            self._give_up(output)
        return len(text)

    def _read_id(self, text: str, place: int, output: CallOutput) -> int:
        self._held.append(text[place:])
        return len(text)

    def _begin_arguments(self, text: str, place: int, output: CallOutput) -> int:
        if text[place].isspace():
            return place + 1
        if text[place] == "{":
            self._open(self._held[0], output, self._held_id())
        else:
            self._give_up(output)
        return place

    def _read_entry(self, text: str, place: int, output: CallOutput) -> int:
        """An entry of the list up to its arguments; the whole of it where these are not where they belong."""
        char = text[place]
        if self._entry is not None:
            if self._last == ":" and not char.isspace() and len(self._held) <= _MAX_HEADER_CHARS:
                header = _HEADER.fullmatch("".join(self._held))
                pairs = dict(_PAIR.findall(header[1])) if header else {}
                if _NAME.fullmatch(pairs.get("name", "")):
                    self._open(pairs["name"], output, pairs.get("id", ""))
                    return place
            self._entry.take(char)
        elif self._last and char == "{":
            self._entry = JsonExtent()
            self._entry.take(char)
        elif not self._last and char == "]" and self._has_entries:
            self._held, self._read = [], self._skip_space
            return place + 1
        elif not char.isspace() and (self._last or char != ("," if self._has_entries else "[")):
            self._give_up(output)
            return place
        self._held.append(char)
        self._last = self._last if char.isspace() else char
        if self._entry is not None and self._entry.is_whole:
            self._take_whole_entry(output)
        return place + 1

    def _take_whole_entry(self, output: CallOutput) -> None:
        text = "".join(self._held)
        try:
            entry = json.loads(text[text.index("{") :])
        except (ValueError, RecursionError):
            entry = {}
        name, arguments = entry.get("name"), entry.get("arguments")
        if not isinstance(name, str) or not _NAME.fullmatch(name) or "arguments" not in entry:
            self._give_up(output)
            return
        call_id = entry.get("id")
        try:
            arguments_json = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        except RecursionError:
            self._give_up(output)
            return
        self._open(name, output, call_id if isinstance(call_id, str) else "")
        self._close(output, _SURROGATE.sub("\ufffd", arguments_json))
        self._next_entry()

    def _read_value(self, text: str, place: int, output: CallOutput) -> int:
        end = self._value.take(text, place)
        part = text[place:end]
        if self._entry is not None:
            self._entry.take(part)
            if self._value.first == '"':
                self._quoted.append(part)
                part = _decoded("".join(self._quoted)) if self._value.is_whole else ""
        if not self._value.is_whole:
            self._add(output, part)
            return end
        self._close(output, part)
        self._read = self._skip_space if self._entry is None else self._read_rest_of_entry
        return end

    def _read_rest_of_entry(self, text: str, place: int, output: CallOutput) -> int:
        entry = self._entry or JsonExtent()
        end = entry.take(text, place)
        if entry.is_whole:
            self._next_entry()
        return end

    def _next_entry(self) -> None:
        self._entry, self._has_entries, self._last, self._held = None, True, "", []
        self._read = self._read_entry

    def _skip_space(self, text: str, place: int, output: CallOutput) -> int:
        if text[place].isspace():
            return place + 1
        self._read = self._read_text
        return place

    def _read_text(self, text: str, place: int, output: CallOutput) -> int:
        output.text += text[place:]
        return len(text)

    def _held_id(self) -> str:
        return "".join(self._held[1:]).strip()

    def _open(self, name: str, output: CallOutput, call_id: str = "") -> None:
        self._index, call_id = self._open_call(name, call_id)
        output.calls.append(ToolCallDelta(self._index, "", call_id, name))
        self._held, self._value, self._quoted = [], JsonExtent(), []
        self._read = self._read_value

    def _open_cut(self, name: str, output: CallOutput, call_id: str = "") -> None:
        """A call that was cut inside or behind its name."""
        if not _NAME.fullmatch(name):
            self._give_up(output)
            return
        self._open(name, output, call_id)
        self.has_cut_call = True

    def _add(self, output: CallOutput, arguments_json: str) -> None:
        if arguments_json and self._index is not None:
            output.calls.append(ToolCallDelta(self._index, arguments_json))

    def _close(self, output: CallOutput, arguments_json: str) -> None:
        if self._index is not None:
            output.calls.append(ToolCallDelta(self._index, arguments_json, ends=True))
        self._index = None

    def _give_up(self, output: CallOutput) -> None:
        """What is held, and all that comes, is text."""
        output.text += "".join(self._held)
        self._held, self._read = [], self._read_text


def _decoded(literal: str) -> str:
    """The text of a JSON string, which may lack its end; `""` for none. An escape that was cut stays as it is, and half
    a surrogate pair is U+FFFD."""
    if not literal:
        return ""
    extent = JsonExtent()
    extent.take(literal)
    body = literal[1:-1] if extent.is_whole else literal[1:]
    cut = _LAST_ESCAPE.fullmatch(body)
    rest = cut[1] if cut else ""
    try:
        text = str(json.loads(f'"{body[: len(body) - len(rest)]}"', strict=False))
    except ValueError:
        text = body[: len(body) - len(rest)]
    return _SURROGATE.sub("\ufffd", text) + rest
