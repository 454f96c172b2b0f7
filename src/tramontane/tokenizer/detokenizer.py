"""Detokenizer: token ids to text as they are generated, cut at stop strings."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tramontane.errors import TokenizerError

if TYPE_CHECKING:
    from tramontane.tokenizer.base import Tokenizer


class StopStrings:
    """Cuts a stream of text at the first of several strings, holding back what may turn out to open one.

    Put together, the pushes and `finish` are the whole text, cut before the stop string whose match ends first (the
    longest of them, where several end at one place). `stopped` is that string, None before.

    One Knuth-Morris-Pratt matcher per stop string: work per character is constant on average, whatever the lengths
    of text and stops, also on text made to be expensive. `comparisons` counts it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise TokenizerError("stop must be a list of non-empty strings")
        self.stopped: str | None = None
        self.comparisons = 0
        self._matchers = [_Matcher(text) for text in dict.fromkeys(stop)]
        self._held: deque[str] = deque()
        self._held_len = 0

    def push(self, text: str) -> str:
        """Text that has become safe to show. After a stop string: nothing."""
        if self.stopped is not None:
            return ""
        if not self._matchers:
            return text
        self._held.append(text)
        held_len = self._held_len
        self._held_len += len(text)
        for place, char in enumerate(text):
            complete = ""
            for matcher in self._matchers:
                self.comparisons += matcher.push(char)
                if matcher.num_matched == len(matcher.stop):
                    complete = max(complete, matcher.stop, key=len)
            if complete:
                self.stopped = complete
                return self._release(held_len + place + 1 - len(complete))
        return self._release(self._held_len - max(matcher.num_matched for matcher in self._matchers))

    def finish(self) -> str:
        """What was held back: no stop string came of it. After a stop string: nothing."""
        return "" if self.stopped is not None else self._release(self._held_len)

    def _release(self, num_chars: int) -> str:
        """Take the first characters of what is held; each is moved once, however long it was held."""
        self._held_len -= num_chars
        safe: list[str] = []
        while num_chars:
            text = self._held.popleft()
            if len(text) > num_chars:
                self._held.appendleft(text[num_chars:])
            safe.append(text[:num_chars])
            num_chars -= len(safe[-1])
        return "".join(safe)


class Detokenizer:
    """Text of one generated sequence, given out as soon as it is certain.

    `push` returns what a token makes safe to show: never half a UTF-8 character, and no text that may turn out to
    open a stop string. Put together, the pushes and `finish` are `tokenizer.decode` of all ids, cut as StopStrings
    does. `continuation` keeps the space of the first token, where the ids continue a text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, continuation: bool = False) -> None:
        self._tokenizer = tokenizer
        self._at_start = tokenizer.adds_space and not continuation
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = StopStrings(stop)

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text; None while there is none."""
        return self._stop.stopped

    @property
    def comparisons(self) -> int:
        """Characters compared with stop strings so far."""
        return self._stop.comparisons

    def push(self, token_id: int) -> str:
        """Text that has become safe. Raises TokenizerError for a negative id. After a stop string: nothing."""
        piece = self._tokenizer.token_bytes(token_id)
        if self._at_start and piece:
            piece = piece.removeprefix(b" ")
            self._at_start = False
        return self._stop.push(self._decoder.decode(piece))

    def finish(self) -> str:
        """What was held back; bytes that never became a character are U+FFFD."""
        return self._stop.push(self._decoder.decode(b"", final=True)) + self._stop.finish()


class _Matcher:
    """How much of one stop string the text ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.num_matched = 0
        self._borders = _borders(stop)

    def push(self, char: str) -> int:
        """Take the next character; returns the number of comparisons made."""
        comparisons = 1
        while self.num_matched and self.stop[self.num_matched] != char:
            self.num_matched = self._borders[self.num_matched - 1]
            comparisons += 1
        if self.stop[self.num_matched] == char:
            self.num_matched += 1
        return comparisons


def _borders(text: str) -> list[int]:
    """Length of the longest border (proper prefix that is also a suffix) of each `text[: i + 1]`."""
    borders = [0] * len(text)
    length = 0
    for place in range(1, len(text)):
        while length and text[place] != text[length]:
            length = borders[length - 1]
        if text[place] == text[length]:
            length += 1
        borders[place] = length
    return borders
