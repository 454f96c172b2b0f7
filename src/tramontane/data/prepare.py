"""One batch of records through rendering, cleaning, fingerprints, contamination and tokens: the part of a build that
runs in parallel, because it depends on nothing but its records."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tramontane.data.chat_samples import ChatSample
from tramontane.data.chat_tokens import EncodedSample, SampleEncoder
from tramontane.data.clean import drop_boilerplate, drop_lines, mask_personal_data, quality_problem, tidy
from tramontane.data.decontaminate import EvaluationNgrams
from tramontane.data.dedupe import Fingerprint, fingerprint, words_of
from tramontane.data.fill_in_middle import encode_fill_in_middle
from tramontane.data.language import is_language
from tramontane.data.recipe import DataRecipe, SetRecipe, SourceRecipe
from tramontane.data.record import Origin, Record
from tramontane.data.render import TEXT_RENDERERS, RenderContext
from tramontane.data.render_chat import CHAT_RENDERERS
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.sample_shapes import parse_row
from tramontane.errors import DataError
from tramontane.tokenizer.messages import Message, Thinking

if TYPE_CHECKING:
    from tramontane.tokenizer import Tokenizer

_CHARS_PER_TOKEN = 3.5  # pieces are cut by characters a little below the limit, then checked in tokens
_EXAMPLE_CHARS = 240
NOTHING_TOLD: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Kept:
    """A document that passed; whether it repeats another is decided by the builder, in order."""

    encoded: tuple[EncodedSample, ...]  # several where a conversation is learned question by question
    fingerprint: Fingerprint
    origin: Origin
    is_valid: bool  # belongs to the validation split
    num_text_bytes: int
    example: str
    valid_line: str | None  # of the validation split: the document as a line of JSON
    notes: Mapping[str, int]  # what was read otherwise than it stands


@dataclass(frozen=True, slots=True)
class Dropped:
    """A document left out, why, and how it begins."""

    reason: str
    origin: Origin
    num_text_bytes: int
    example: str


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """What a worker needs to know; small enough to travel with every batch."""

    recipe: DataRecipe
    set_name: str
    source_name: str
    tokenizer_folder: Path
    ngrams_path: Path | None

    @property
    def set_recipe(self) -> SetRecipe:
        return self.recipe.set[self.set_name]

    @property
    def source(self) -> SourceRecipe:
        return next(source for source in self.set_recipe.source if source.name == self.source_name)


def example_of(text: str) -> str:
    """The beginning of a text on one line, for reports."""
    line = " ".join(text.split())
    return line if len(line) <= _EXAMPLE_CHARS else line[:_EXAMPLE_CHARS] + "..."


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    from tramontane.tokenizer import load_tokenizer

    return load_tokenizer(folder)


@functools.lru_cache(maxsize=1)
def _ngrams(path: Path, ngram_len: int) -> EvaluationNgrams:
    return EvaluationNgrams.load(path, ngram_len)


def prepare(job: PrepareJob, groups: Sequence[Sequence[Record]]) -> list[Kept | Dropped]:
    """The documents of `groups` (of records rendered together), in order."""
    return [outcome for group in groups for outcome in _Preparer(job).outcomes(group)]


def seed_of(*parts: object) -> int:
    """A 64-bit seed that depends on `parts` alone, not on the machine or the order of work."""
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest(), "little")


def is_held_out(seed: int, origin: Origin, valid_fraction: float) -> bool:
    """Whether a row belongs to the validation split."""
    return seed_of(seed, "split", origin.path, origin.row) < valid_fraction * 2**64


class _Preparer:
    def __init__(self, job: PrepareJob) -> None:
        self.job, self.set, self.source = job, job.set_recipe, job.source
        self.tokenizer = _tokenizer(job.tokenizer_folder)
        decontaminate = self.source.decontaminate and job.ngrams_path is not None
        ngram_len = job.recipe.decontaminate.ngram_len
        self.ngrams = _ngrams(job.ngrams_path, ngram_len) if decontaminate and job.ngrams_path else None
        self.dropped_lines = [re.compile(pattern, re.IGNORECASE) for pattern in self.set.clean.drop_lines]
        fraction = self.source.valid_fraction
        self.valid_fraction = self.set.valid_fraction if fraction is None else fraction

    def outcomes(self, group: Sequence[Record]) -> Iterator[Kept | Dropped]:
        origin = group[0].origin
        seed = seed_of(self.job.recipe.seed, self.job.set_name, origin.source, origin.path, origin.row)
        # told by file and row alone, so that a row held out in one set is held out in all
        is_valid = is_held_out(self.job.recipe.seed, origin, self.valid_fraction)
        context = RenderContext(random.Random(seed), self.source.options, self.job.recipe.persona)
        found = False
        each = self._texts if self.set.kind == "text" else self._chats
        for outcome in each(group, context, origin, is_valid):
            found = True
            yield outcome
        if not found:
            yield Dropped("nothing to render", origin, 0, example_of(str(dict(group[0].fields))))

    def _texts(
        self, group: Sequence[Record], context: RenderContext, origin: Origin, is_valid: bool
    ) -> Iterator[Kept | Dropped]:
        for rendered in TEXT_RENDERERS[self.source.render](group, context):
            text = self._clean(rendered)
            if problem := self._problem(text):
                yield Dropped(problem, origin, len(text.encode("utf-8")), example_of(text))
                continue
            pieces = self._pieces(text, int(self.set.max_document_len * _CHARS_PER_TOKEN))
            for number, piece in enumerate(pieces, 1):
                encoded = self._encode_text(piece, context.rng, is_last=number == len(pieces))
                yield self._checked({"text": piece}, piece, [encoded], origin, is_valid)

    def _pieces(self, text: str, max_chars: int) -> list[str]:
        """`text` in pieces that fit `max_document_len` with the tokens around them."""
        room = self.set.max_document_len - 8
        pieces = []
        for piece in cut(text, max_chars):
            fits = len(piece.encode("utf-8")) <= room or len(self.tokenizer.encode(piece)) <= room
            pieces += [piece] if fits else self._pieces(piece, -(-len(piece) // 2))
        return pieces

    def _encode_text(self, text: str, rng: random.Random, *, is_last: bool) -> EncodedSample:
        if self.set.fim_rate and is_last and rng.random() < self.set.fim_rate:
            chat = self.tokenizer.require_chat()
            ids, _ = encode_fill_in_middle(text, rng, chat.encode_fim, self.tokenizer.encode, self.tokenizer.eos_id)
        else:
            ids = [*self.tokenizer.prefix_ids, *self.tokenizer.encode(text, eos=is_last)]
        token_ids = np.array(ids, np.int64)
        return EncodedSample(token_ids, np.ones(len(token_ids), np.bool_))

    def _chats(
        self, group: Sequence[Record], context: RenderContext, origin: Origin, is_valid: bool
    ) -> Iterator[Kept | Dropped]:
        encoder = SampleEncoder(self.tokenizer, self.set.max_document_len)
        for rendered in CHAT_RENDERERS[self.source.render](group, context):
            notes = SampleNotes()
            try:
                parsed = parse_row(rendered, "chat", notes, thinks=encoder.thinks)
                if not isinstance(parsed, ChatSample):
                    raise DataError("holds no conversation")
            except DataError as error:
                text = example_of(str(rendered))
                yield Dropped(f"invalid: {_without_places(error)}", origin, len(text.encode("utf-8")), text)
                continue
            sample = replace(parsed, messages=tuple(map(self._clean_message, parsed.messages)))
            text = "\n".join(chunk for message in sample.messages for chunk in map(_chunk_text, message.chunks))
            size = len(text.encode("utf-8"))
            if problem := self._problem(text):
                yield Dropped(problem, origin, size, example_of(text))
                continue
            try:
                encoded = encoder.documents(sample)
            except DataError as error:
                reason = "too long" if "tokens long" in str(error) else f"invalid: {_without_places(error)}"
                yield Dropped(reason, origin, size, example_of(text))
                continue
            told = context.notes.taken() + notes.taken()
            yield self._checked(sample.as_row(), text, encoded, origin, is_valid, told)

    def _clean_message(self, message: Message) -> Message:
        """Results of tools are data: of them nothing is changed but what is masked."""
        if message.role == "tool":
            clean = mask_personal_data if self.set.clean.mask_personal_data else str
        else:
            clean = self._clean
        return replace(
            message,
            chunks=tuple(
                clean(chunk) if isinstance(chunk, str) else replace(chunk, text=clean(chunk.text))
                for chunk in message.chunks
            ),
        )

    def _clean(self, text: str) -> str:
        clean = self.set.clean
        text = tidy(text, straight_quotes=clean.straight_quotes, fold_space=clean.fold_space)
        if self.dropped_lines:
            text = drop_lines(text, self.dropped_lines).strip("\n")
        if self.source.quality == "web":
            text = drop_boilerplate(text).strip("\n")
        return mask_personal_data(text) if clean.mask_personal_data else text

    def _problem(self, text: str) -> str | None:
        problem = quality_problem(text, self.source.quality)
        if problem is None and self.set.clean.language and not is_language(text, self.set.clean.language):
            return f"not in language {self.set.clean.language}"
        return problem

    def _checked(
        self,
        sample: Mapping[str, Any],
        text: str,
        encoded: Sequence[EncodedSample],
        origin: Origin,
        is_valid: bool,
        notes: Mapping[str, int] = NOTHING_TOLD,
    ) -> Kept | Dropped:
        words, size = words_of(text), len(text.encode("utf-8"))
        match = self.ngrams.first_match(words) if self.ngrams else None
        if match is not None:
            return Dropped("shares an n-gram with an evaluation item", origin, size, match)
        marks = fingerprint(words, self.set.dedupe, near=self.source.near_dedupe)
        line = json.dumps({"source": self.source.name, **sample}, ensure_ascii=False) if is_valid else None
        return Kept(tuple(encoded), marks, origin, is_valid, size, example_of(text), line, notes)


def _chunk_text(chunk: str | Thinking) -> str:
    return chunk if isinstance(chunk, str) else chunk.text


def _without_places(error: DataError) -> str:
    """What is wrong with a sample, the same for all samples that it is wrong with."""
    return re.sub(r"\[\d+\]", "[...]", str(error))


def cut(text: str, max_chars: int) -> list[str]:
    """`text` in pieces of at most `max_chars` and about equal length, cut between paragraphs where one ends near, else
    lines, sentences or words, else anywhere."""
    pieces, start = [], 0
    while (left := len(text) - start) > max_chars:
        goal = start + -(-left // -(-left // max_chars))
        reach = min(goal - start, start + max_chars - goal + max_chars // 4, max_chars // 2)
        end = next((at for mark in _MARKS if (at := _nearest(text, mark, goal, reach, start + max_chars))), goal)
        pieces.append(text[start:end])
        start = end
    stripped = (piece.strip("\n").rstrip() for piece in [*pieces, text[start:]])  # a first line may be indented
    return [piece for piece in stripped if piece]


_MARKS = ("\n\n", "\n", ". ", " ")


def _nearest(text: str, mark: str, goal: int, reach: int, limit: int) -> int | None:
    """Where the `mark` that ends nearest to `goal` ends, at most `reach` away and not beyond `limit`."""
    before = text.rfind(mark, goal - reach, goal) + len(mark)
    after = text.find(mark, goal - len(mark) + 1, min(goal + reach, limit)) + len(mark)
    found = [end for end in (before, after) if goal - reach < end <= limit and end >= len(mark)]
    return min(found, key=lambda end: abs(end - goal), default=None)
