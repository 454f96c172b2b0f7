"""Texts cut into pieces of at most so many tokens, at the best boundary near: paragraph, line, sentence, word."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BOUNDARIES = tuple(re.compile(p) for p in (r"\n[^\S\n]*\n\s*", r"\n\s*", r"(?<=[.!?;…。！？；])\s*", r"\s+"))
CHARS_PER_TOKEN = 16  # no text has more on average; longer pieces are cut before a tokenizer sees them
WINDOW_CHARS = 1 << 17  # what is looked at together: some tenths of a second's work


class Encoder(Protocol):
    """The part of a tokenizer that splitting needs."""

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a text: `text[start : start + len(piece.text)] == piece.text`."""

    start: int
    text: str
    num_tokens: int


def split_by_tokens(text: str, tokenizer: Encoder, max_tokens: int) -> list[Piece]:
    """Pieces of at most `max_tokens` tokens each (16 at least) that joined give `text` exactly."""
    return [piece for some in split_in_turns(text, tokenizer, max_tokens) for piece in some]


def split_in_turns(text: str, tokenizer: Encoder, max_tokens: int) -> Iterator[list[Piece]]:
    """As `split_by_tokens`, some pieces at a time, each time after a bounded amount of work."""
    if max_tokens < 16:
        raise ValueError(f"max_tokens={max_tokens} must be at least 16")
    pending: list[Piece] = []
    num_pending = 0
    for window in windows(text):
        done: list[Piece] = []
        for piece in divide(window, tokenizer, max_tokens, 0):
            if num_pending + piece.num_tokens > max_tokens:
                done += join(pending, tokenizer, max_tokens)
                pending, num_pending = [], 0
            pending.append(piece)
            num_pending += piece.num_tokens
        yield done
    yield join(pending, tokenizer, max_tokens)


def windows(text: str) -> Iterator[Piece]:
    """Cut at the last paragraph of each window, else at its last line or space, else anywhere."""
    start = 0
    while len(text) - start > WINDOW_CHARS:
        end = start + WINDOW_CHARS
        for mark in ("\n\n", "\n", " "):
            cut = text.rfind(mark, start + WINDOW_CHARS // 2, end)
            if cut != -1:
                end = cut + len(mark)
                break
        yield Piece(start, text[start:end], 0)
        start = end
    yield Piece(start, text[start:], 0)


def divide(piece: Piece, tokenizer: Encoder, max_tokens: int, level: int) -> Iterator[Piece]:
    """Cut at the coarsest boundary that makes every part fit; past words, in halves."""
    if len(piece.text) <= CHARS_PER_TOKEN * max_tokens:
        num_tokens = len(tokenizer.encode(piece.text))
        if num_tokens <= max_tokens or len(piece.text) == 1:
            yield Piece(piece.start, piece.text, num_tokens)
            return
    if level < len(BOUNDARIES):
        cuts = [match.end() for match in BOUNDARIES[level].finditer(piece.text)]
    else:
        cuts = [len(piece.text) // 2]
    edges = [0, *(cut for cut in cuts if 0 < cut < len(piece.text)), len(piece.text)]
    for first, last in itertools.pairwise(edges):
        part = Piece(piece.start + first, piece.text[first:last], 0)
        yield from divide(part, tokenizer, max_tokens, min(level + 1, len(BOUNDARIES)))


def join(pieces: list[Piece], tokenizer: Encoder, max_tokens: int) -> list[Piece]:
    """The pieces as one, or as few as fit: joined text may encode to more tokens than its parts did."""
    if not pieces:
        return []
    text = "".join(piece.text for piece in pieces)
    num_tokens = len(tokenizer.encode(text))
    if len(pieces) == 1 or num_tokens <= max_tokens:
        return [Piece(pieces[0].start, text, num_tokens)]
    half = len(pieces) // 2
    return join(pieces[:half], tokenizer, max_tokens) + join(pieces[half:], tokenizer, max_tokens)
