"""Files of training samples as a small set of shards, for fine-tuning on one's own data.

Every row counts: nothing is cleaned away or taken for a duplicate, and nothing is written until the files are sound.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tramontane import durable
from tramontane.data.chat_tokens import SampleEncoder
from tramontane.data.report import SplitTally
from tramontane.data.sample_files import (
    LineProblem,
    Parse,
    SampleFile,
    UnsoundFileError,
    check_file,
    read_samples,
    sample_files,
)
from tramontane.data.sample_lines import EncodedLine, TooLong, line_parser
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.sample_shapes import SampleKind
from tramontane.data.shards import Manifest, ShardWriter, SourceInfo, folder_sha256, write_manifest, write_repeats
from tramontane.errors import DataError
from tramontane.tokenizer import Tokenizer, load_tokenizer

SOURCES: Mapping[SampleKind, tuple[str, ...]] = {
    "chat": ("samples",),
    "preference": ("chosen", "rejected"),
    "classifier": ("samples",),
}
"""Sources of a set by kind. Document n of `chosen` and of `rejected` are a pair."""
LABELS = "labels.json"
SKIPPED = "skipped.json"
NOTES = "notes.json"
_SHARD_LEN = 8_000_000


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A part of the samples to measure with: `share` (0 to 1) of the different ones, drawn by `seed` and their content,
    written to `folder`. What is held out is not trained on, however often it stands in the files."""

    folder: Path
    share: float
    seed: int = 0


def write_sample_shards(
    files: Path | Sequence[str | Path],
    kind: SampleKind,
    tokenizer_folder: Path,
    out: Path,
    *,
    max_len: int,
    max_invalid_share: float = 0.0,
    too_long: TooLong = "error",
    held_out: HeldOut | None = None,
    repeats: Sequence[tuple[int, int]] = (),
) -> Manifest:
    """The samples of `files` (as `sample_files` reads them) as a set in `out`, in the order of the files; each is
    written once, however often an epoch sees it. `repeats` says that by lines, as (number of lines, the next in order,
    and how often that stretch is seen), of one file that has no weight: a mixture as copies in it would give it.

    Classifier sets hold no loss masks but `labels.json`: the labels of each target in order of appearance, and for
    each document the places of those that hold. Raises UnsoundFileError with the first problems when more than
    `max_invalid_share` of a file's lines (0 to 1) are invalid; fewer are skipped, and told by `read_skipped`. What was
    read otherwise than it stands is told by `read_notes`.
    """
    if repeats and (not isinstance(files, Path) or any(num_lines < 0 or times < 0 for num_lines, times in repeats)):
        raise DataError("repeats are pairs of numbers of the lines of one file, and how often they are seen")
    if kind != "chat" and too_long == "split":
        raise DataError("--too-long split is for conversations and texts; use drop or truncate here")
    names = [files] if isinstance(files, Path) else files
    samples = _Samples([file for each in names for file in sample_files(each)], kind, load_tokenizer(tokenizer_folder))
    limit = _Limit(max_len, too_long)
    samples.check(limit, max_invalid_share)
    drawn = set() if held_out is None else samples.drawn(held_out)
    with ExitStack() as stack:
        train = samples.writer(stack, out)
        measured = None if held_out is None else samples.writer(stack, held_out.folder)
        for seen in samples.lines(limit, 0 if held_out is None else held_out.seed, repeats):
            if measured is None or seen.digest not in drawn:
                train.add(seen)
            elif seen.digest not in measured.digests:
                measured.digests.add(seen.digest)
                measured.add(replace(seen, times=1))
        if train.is_empty:
            raise DataError(f"{samples.name}: no sample is left to train on; raise its weight")
        if measured is not None:
            measured.finish(folder_sha256(tokenizer_folder), samples.name)
        samples.tell(train.folder)
        return train.finish(folder_sha256(tokenizer_folder), samples.name)


def read_skipped(folder: Path) -> list[LineProblem]:
    """The lines that are no sample and were left out of the set in `folder`: the first of them."""
    path = folder / SKIPPED
    return [LineProblem(**row) for row in json.loads(path.read_text("utf-8"))] if path.exists() else []


def read_notes(folder: Path) -> list[str]:
    """What there is to say about how the samples of the set in `folder` were read, one line for each thing."""
    path = folder / NOTES
    return list(json.loads(path.read_text("utf-8"))) if path.exists() else []


def read_labels(folder: Path) -> dict[str, Any]:
    """`labels.json` of a classifier set: `targets`, the labels by target, and `documents`, for each document the places
    of its labels by target. Raises DataError for another set."""
    try:
        labels: dict[str, Any] = json.loads((folder / LABELS).read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no {LABELS}; build it as a classifier set") from None
    return labels


@dataclass(frozen=True, slots=True)
class _Limit:
    max_len: int
    too_long: TooLong


@dataclass(frozen=True, slots=True)
class _Seen:
    """A line, and how often its stretch, of which an epoch sees every line before it sees one again, is seen."""

    line: EncodedLine
    digest: int
    stretch: tuple[int, int]
    times: int


class _Samples:
    """The samples of some files, read twice: to check them, and to write them."""

    def __init__(self, files: Sequence[SampleFile], kind: SampleKind, tokenizer: Tokenizer) -> None:
        self.files, self.kind, self.tokenizer = files, kind, tokenizer
        self.name = ", ".join(file.path.name for file in files)
        self._encoder = SampleEncoder(tokenizer)
        self._digests: set[int] = set()
        self._labels: dict[int, Mapping[str, tuple[str, ...]]] = {}  # of a classifier's samples
        self._problems: list[LineProblem] = []
        self._notes: list[str] = []

    def check(self, limit: _Limit, max_invalid_share: float) -> None:
        """Raises UnsoundFileError for the first file that is not sound, DataError where no sample is left."""
        for file in self.files:
            notes = SampleNotes()
            parse = self._parser(limit, notes)

            def checked(row: Mapping[str, Any], parse: Parse[EncodedLine] = parse) -> None:
                line = parse(row)
                if line.samples:
                    self._digests.add(digest := _digest(line))
                    if line.labels:
                        self._labels[digest] = line.labels

            check = check_file(file.path, checked)
            if check.is_unsound(max_invalid_share):
                raise UnsoundFileError(file.path, check)
            prefix = f"{file.path.name}: " if len(self.files) > 1 else ""
            self._problems += [replace(each, message=prefix + each.message) for each in check.problems]
            self._notes += [f"{file.path.name}: {line}" for line in notes.lines()]
        if not self._digests:
            raise DataError(f"{self.name}: no sample is left; {'; '.join(self._notes)}")

    def drawn(self, held_out: HeldOut) -> set[int]:
        """Digests of the samples that are held out; a label's last sample is not. Raises DataError where none would be
        left to train on."""
        if not 0 < held_out.share < 1:
            raise DataError(f"a share of {held_out.share:g} cannot be held out; it must lie between 0 and 1")
        wanted = min(max(1, round(held_out.share * len(self._digests))), len(self._digests) - 1)
        left = Counter(label for labels in self._labels.values() for label in _labels_of(labels))
        drawn: set[int] = set()
        for digest in sorted(self._digests, key=lambda digest: _drawn_number(held_out.seed, digest)):
            labels = _labels_of(self._labels.get(digest, {}))
            if len(drawn) < wanted and all(left[label] > 1 for label in labels):
                drawn.add(digest)
                left.subtract(labels)
        if not drawn:
            raise DataError(f"{self.name}: too few samples to hold some out; add more, or name a file to measure with")
        return drawn

    def lines(self, limit: _Limit, seed: int, repeats: Sequence[tuple[int, int]]) -> Iterator[_Seen]:
        """All files' that an epoch sees. Of a weight's fraction, as many samples are seen once more."""
        ends = list(accumulate(num_lines for num_lines, _ in repeats))
        for place, file in enumerate(self.files):
            whole = int(file.weight)
            for number, line in read_samples(file.path, self._parser(limit, SampleNotes()), skip_invalid=True):
                if not line.samples:
                    continue
                digest = _digest(line)
                once_more = _drawn_number(seed + 1, digest) < (file.weight - whole) * 2**64
                stretch, times = (place, number), whole + once_more
                if repeats:
                    part = bisect_left(ends, number)
                    stretch, times = (place, part), repeats[part][1] if part < len(ends) else 1
                if times:
                    yield _Seen(line, digest, stretch, times)

    def writer(self, stack: ExitStack, out: Path) -> _SetWriter:
        durable.make_folder(out.parent)
        return _SetWriter(stack.enter_context(durable.folder(out)), self.kind, self.tokenizer)

    def tell(self, folder: Path) -> None:
        """Write what was skipped and what was read otherwise than it stands into the folder of a set."""
        if self._problems:
            durable.write(folder / SKIPPED, json.dumps([asdict(problem) for problem in self._problems]))
        if self._notes:
            durable.write(folder / NOTES, json.dumps(self._notes))

    def _parser(self, limit: _Limit, notes: SampleNotes) -> Parse[EncodedLine]:
        return line_parser(self.kind, self._encoder, notes, max_len=limit.max_len, too_long=limit.too_long)


class _SetWriter:
    """One set of shards, sample after sample."""

    def __init__(self, folder: Path, kind: SampleKind, tokenizer: Tokenizer) -> None:
        self.folder, self.kind, self.tokenizer = folder, kind, tokenizer
        self.digests: set[int] = set()
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        names = SOURCES[kind]
        self._writers = {name: ShardWriter(folder, name, dtype, _SHARD_LEN, has_mask=True) for name in names}
        self._tallies = {name: SplitTally() for name in names}
        self._targets: dict[str, dict[str, int]] = {}
        self._rows: list[dict[str, list[int]]] = []
        self._stretch: tuple[int, int] | None = None  # the one that is being written
        self._repeats: list[tuple[int, int]] = []  # of all stretches
        self._longest = 1

    @property
    def is_empty(self) -> bool:
        return not any(tally.num_documents for tally in self._tallies.values())

    def add(self, seen: _Seen) -> None:
        """Written once, however often it is to be seen."""
        line = seen.line
        if seen.stretch == self._stretch:
            self._repeats[-1] = (self._repeats[-1][0] + len(line.samples), seen.times)
        else:
            self._stretch = seen.stretch
            self._repeats.append((len(line.samples), seen.times))
        for sample in line.samples:
            for (name, writer), document in zip(self._writers.items(), sample, strict=True):
                writer.add(document.token_ids, document.mask)
                text = self.tokenizer.decode(document.token_ids[document.mask].tolist())
                self._tallies[name].count(document.token_ids, document.mask, len(text.encode("utf-8")))
                self._longest = max(self._longest, len(document.token_ids))
                if writer.is_full:
                    writer.close_shard()
            if self.kind == "classifier":
                self._rows.append(_label_places(line.labels, self._targets))

    def finish(self, tokenizer_sha256: str, name: str) -> Manifest:
        for writer in self._writers.values():
            writer.close_shard()
        if self.kind == "classifier":
            labels = {
                "targets": {name: list(places) for name, places in self._targets.items()},
                "documents": self._rows,
            }
            durable.write(self.folder / LABELS, json.dumps(labels))
        sources = [
            SourceInfo(
                name=name,
                shards=tuple(writer.shards),
                num_repeats=write_repeats(self.folder, name, self._repeats),
                **asdict(self._tallies[name]),
            )
            for name, writer in self._writers.items()
        ]
        has_padding = "<pad>" in self.tokenizer.control_names
        manifest = Manifest(
            name=name,
            kind=self.kind,
            vocab_size=self.tokenizer.vocab_size,
            pad_id=self.tokenizer.control_id("<pad>") if has_padding else self.tokenizer.eos_id,
            max_document_len=self._longest,
            tokenizer_sha256=tokenizer_sha256,
            sources=tuple(sources),
        )
        write_manifest(self.folder, manifest)
        return manifest


def _label_places(labels: Mapping[str, tuple[str, ...]], targets: dict[str, dict[str, int]]) -> dict[str, list[int]]:
    """The places of `labels` in `targets`, which takes new ones in."""
    places: dict[str, list[int]] = {}
    for target, values in labels.items():
        known = targets.setdefault(target, {})
        places[target] = [known.setdefault(value, len(known)) for value in values]
    return places


def _labels_of(labels: Mapping[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(target, label) for target, several in labels.items() for label in several]


def _digest(line: EncodedLine) -> int:
    """64 bits that tell what a row's samples say, whatever else stands in it."""
    digest = hashlib.blake2b(digest_size=8)
    for sample in line.samples:
        for document in sample:
            digest.update(len(document.token_ids).to_bytes(8, "little") + document.token_ids.tobytes())
    return int.from_bytes(digest.digest(), "little")


def _drawn_number(seed: int, digest: int) -> int:
    """0 to 2^64 - 1, by seed and content alone."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{digest}".encode(), digest_size=8).digest(), "little")
