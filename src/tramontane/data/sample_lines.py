"""From a row of a file of samples to tokens with loss masks, no longer than they may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from tramontane.data.chat_samples import ChatSample, ClassifierSample, PreferencePair
from tramontane.data.chat_tokens import EncodedSample, SampleEncoder
from tramontane.data.sample_files import Parse
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.sample_shapes import Sample, SampleKind, parse_row
from tramontane.errors import DataError

TooLong = Literal["error", "drop", "truncate", "split"]
"""What becomes of a sample of more than `max_len` tokens: it is refused, left out, cut at its end, or made several (a
conversation between its questions, each part with the system prompt; a text anywhere)."""


@dataclass(frozen=True, slots=True)
class EncodedLine:
    """What one row gives: samples, each a document for each source of the kind, and the labels of a classifier's."""

    samples: tuple[tuple[EncodedSample, ...], ...]
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def line_parser(
    kind: SampleKind,
    encoder: SampleEncoder,
    notes: SampleNotes,
    *,
    max_len: int,
    too_long: TooLong = "error",
) -> Parse[EncodedLine]:
    """What turns a row into tokens, or raises DataError. `notes` count what is read otherwise than it stands."""
    lines = _Lines(encoder, notes, max_len, too_long)

    def parse(row: Mapping[str, Any]) -> EncodedLine:
        sample = parse_row(row, kind, notes, thinks=encoder.thinks)
        return EncodedLine(()) if sample is None else lines.encoded(sample)

    return parse


class _Lines:
    def __init__(self, encoder: SampleEncoder, notes: SampleNotes, max_len: int, too_long: TooLong) -> None:
        self.encoder, self.notes, self.max_len, self.too_long = encoder, notes, max_len, too_long

    def encoded(self, sample: Sample) -> EncodedLine:
        if isinstance(sample, PreferencePair):
            return EncodedLine(tuple(self._fitted([self.encoder.preference(sample)])))
        if isinstance(sample, ClassifierSample):
            token_ids = self.encoder.classifier(sample)
            unlearned = EncodedSample(token_ids, np.zeros(len(token_ids), np.bool_))
            return EncodedLine(tuple(self._fitted([(unlearned,)], is_learned=False)), sample.labels)
        if isinstance(sample, str):
            pieces = self.encoder.text(sample, self.max_len if self.too_long == "split" else None)
            if len(pieces) > 1:
                self.notes.tell(f"longer than {self.max_len} tokens, split")
            return EncodedLine(tuple(self._fitted([(piece,) for piece in pieces])))
        documents = self.encoder.documents(sample)
        if self.too_long == "split" and any(len(each.token_ids) > self.max_len for each in documents):
            parts = list(self._parts(sample))
            self.notes.tell(f"longer than {self.max_len} tokens, split between questions")
            documents = [document for part in parts for document in self.encoder.documents(part)]
        elif len(documents) > 1:
            self.notes.tell("conversations with tools, learned question by question")
        return EncodedLine(tuple(self._fitted([(document,) for document in documents])))

    def _fitted(
        self, samples: Sequence[tuple[EncodedSample, ...]], *, is_learned: bool = True
    ) -> Iterator[tuple[EncodedSample, ...]]:
        for sample in samples:
            longest = max(len(document.token_ids) for document in sample)
            if longest <= self.max_len:
                yield sample
                continue
            if self.too_long == "error":
                raise DataError(
                    f"{longest} tokens long, more than {self.max_len}; raise --max-len (over HTTP seq_len), or choose "
                    "--too-long drop, truncate or split"
                )
            cut = tuple(EncodedSample(d.token_ids[: self.max_len], d.mask[: self.max_len]) for d in sample)
            if self.too_long == "truncate" and (not is_learned or all(document.mask.any() for document in cut)):
                self.notes.tell(f"longer than {self.max_len} tokens, cut there")
                yield cut
            else:
                self.notes.tell(f"longer than {self.max_len} tokens, left out")

    def _parts(self, sample: ChatSample) -> Iterator[ChatSample]:
        """As many questions with their answers as fit, again and again, each time after the system prompt."""
        head, rounds = _rounds(sample)
        part: list[ChatSample] = []
        for each in rounds:
            longer = _joined(head, [*part, each])
            if part and any(len(document.token_ids) > self.max_len for document in self.encoder.documents(longer)):
                yield _joined(head, part)
                part = []
            part.append(each)
        if part:
            yield _joined(head, part)


def _rounds(sample: ChatSample) -> tuple[ChatSample, list[ChatSample]]:
    """What stands before the first question, and each question with all that follows it up to the next."""
    starts = [
        place
        for place, message in enumerate(sample.messages)
        if message.role == "user" and (place == 0 or sample.messages[place - 1].role != "user")
    ]
    bounds = [0, *starts, len(sample.messages)]
    flags = iter(sample.is_learned)
    parts = []
    for start, end in pairwise(bounds):
        messages = sample.messages[start:end]
        is_learned = tuple(next(flags) for message in messages if message.role == "assistant")
        parts.append(ChatSample(messages, sample.tools, is_learned))
    return parts[0], [part for part in parts[1:] if any(part.is_learned)]


def _joined(head: ChatSample, parts: Sequence[ChatSample]) -> ChatSample:
    return ChatSample(
        tuple(message for part in (head, *parts) for message in part.messages),
        head.tools,
        tuple(flag for part in (head, *parts) for flag in part.is_learned),
    )
