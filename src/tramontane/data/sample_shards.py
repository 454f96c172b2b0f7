"""A file of training samples as a small set of shards, for fine-tuning on one's own data.

Every line counts: nothing is cleaned away or taken for a duplicate, and nothing is written until the file is sound.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tramontane import durable
from tramontane.data.chat_samples import parse_chat, parse_classifier, parse_preference
from tramontane.data.chat_tokens import EncodedSample, SampleEncoder
from tramontane.data.report import SplitTally
from tramontane.data.sample_files import FileCheck, LineProblem, Parse, UnsoundFileError, check_file, read_samples
from tramontane.data.sample_notes import SampleNotes
from tramontane.data.shards import Manifest, ShardWriter, SourceInfo, folder_sha256, write_manifest
from tramontane.errors import DataError
from tramontane.tokenizer import load_tokenizer

SampleKind = Literal["chat", "preference", "classifier"]
SOURCES: Mapping[SampleKind, tuple[str, ...]] = {
    "chat": ("samples",),
    "preference": ("chosen", "rejected"),
    "classifier": ("samples",),
}
"""Sources of a set by kind. Document n of `chosen` and of `rejected` are a pair."""
LABELS = "labels.json"
SKIPPED = "skipped.json"
_SHARD_LEN = 8_000_000


@dataclass(frozen=True, slots=True)
class EncodedLine:
    """What one line gives: samples, each a document for each source of the kind, and the labels of a classifier's."""

    samples: tuple[tuple[EncodedSample, ...], ...]
    labels: Mapping[str, tuple[str, ...]]


def line_parser(kind: SampleKind, encoder: SampleEncoder, notes: SampleNotes | None = None) -> Parse[EncodedLine]:
    """What turns a line's JSON object into tokens, or raises DataError; over-long samples included. What is read
    otherwise than it stands is counted in `notes`."""
    told = SampleNotes() if notes is None else notes

    def parse(value: Mapping[str, Any]) -> EncodedLine:
        if kind == "chat":
            documents = encoder.documents(parse_chat(value, told, thinks=encoder.thinks))
            if len(documents) > 1:
                told.tell("conversations with tools that are learned question by question")
            return EncodedLine(tuple((document,) for document in documents), {})
        if kind == "preference":
            return EncodedLine((encoder.preference(parse_preference(value, told, thinks=encoder.thinks)),), {})
        sample = parse_classifier(value, told)
        token_ids = encoder.classifier(sample)
        return EncodedLine(((EncodedSample(token_ids, np.zeros(len(token_ids), np.bool_)),),), sample.labels)

    return parse


def check_samples(path: Path, kind: SampleKind, tokenizer_folder: Path, max_len: int) -> FileCheck:
    """Check every line of a JSON Lines file as `write_sample_shards` would; never raises for what is in it."""
    return check_file(path, line_parser(kind, SampleEncoder(load_tokenizer(tokenizer_folder), max_len)))


def write_sample_shards(
    path: Path,
    kind: SampleKind,
    tokenizer_folder: Path,
    out: Path,
    *,
    max_len: int,
    max_invalid_share: float = 0.0,
) -> Manifest:
    """The samples of `path` as a set in `out`, in the order of the file.

    Classifier sets hold no loss masks but `labels.json`: the labels of each target in order of appearance, and for
    each document the places of those that hold. Raises UnsoundFileError with the first problems when more than
    `max_invalid_share` of the lines (0 to 1) are invalid; fewer are skipped, and told by `read_skipped`.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    parse = line_parser(kind, SampleEncoder(tokenizer, max_len))
    check = check_file(path, parse)
    if check.is_unsound(max_invalid_share):
        raise UnsoundFileError(path, check)
    durable.make_folder(out.parent)
    with durable.folder(out) as folder:
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        names = SOURCES[kind]
        writers = {name: ShardWriter(folder, name, dtype, _SHARD_LEN, has_mask=True) for name in names}
        tallies = {name: SplitTally() for name in names}
        targets: dict[str, dict[str, int]] = {}
        rows: list[dict[str, list[int]]] = []
        longest = 1
        for _, line in read_samples(path, parse, skip_invalid=True):
            for name, document in [pair for sample in line.samples for pair in zip(names, sample, strict=True)]:
                writers[name].add(document.token_ids, document.mask)
                text = tokenizer.decode(document.token_ids[document.mask].tolist())
                tallies[name].count(document.token_ids, document.mask, len(text.encode("utf-8")))
                longest = max(longest, len(document.token_ids))
                if writers[name].is_full:
                    writers[name].close_shard()
            if kind == "classifier":
                rows.append(_label_places(line.labels, targets))
        for writer in writers.values():
            writer.close_shard()
        if kind == "classifier":
            labels = {"targets": {name: list(places) for name, places in targets.items()}, "documents": rows}
            durable.write(folder / LABELS, json.dumps(labels))
        if check.problems:
            durable.write(folder / SKIPPED, json.dumps([asdict(problem) for problem in check.problems]))
        sources = [SourceInfo(name=name, shards=tuple(writers[name].shards), **asdict(tallies[name])) for name in names]
        manifest = Manifest(
            name=path.name,
            kind=kind,
            vocab_size=tokenizer.vocab_size,
            pad_id=tokenizer.control_id("<pad>") if "<pad>" in tokenizer.control_names else tokenizer.eos_id,
            max_document_len=longest,
            tokenizer_sha256=folder_sha256(tokenizer_folder),
            sources=tuple(sources),
        )
        write_manifest(folder, manifest)
    return manifest


def read_skipped(folder: Path) -> list[LineProblem]:
    """The lines that are no sample and were left out of the set in `folder`: the first of them."""
    path = folder / SKIPPED
    return [LineProblem(**row) for row in json.loads(path.read_text("utf-8"))] if path.exists() else []


def read_labels(folder: Path) -> dict[str, Any]:
    """`labels.json` of a classifier set: `targets`, the labels by target, and `documents`, for each document the places
    of its labels by target. Raises DataError for another set."""
    try:
        labels: dict[str, Any] = json.loads((folder / LABELS).read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no {LABELS}; build it as a classifier set") from None
    return labels


def _label_places(labels: Mapping[str, tuple[str, ...]], targets: dict[str, dict[str, int]]) -> dict[str, list[int]]:
    """The places of `labels` in `targets`, which takes new ones in."""
    places: dict[str, list[int]] = {}
    for target, values in labels.items():
        known = targets.setdefault(target, {})
        places[target] = [known.setdefault(value, len(known)) for value in values]
    return places
