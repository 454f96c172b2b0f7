"""From a recipe and a folder of raw files to finished sets of shards.

Workers prepare batches of records; this process takes the results in order, drops duplicates and writes shards, so
that the outcome does not depend on the number of workers. Whenever a shard is full, and after each source, the state
goes to disk; a build that was stopped goes on from there and writes the same bytes as one that was not.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tramontane import durable
from tramontane.data.decontaminate import read_evaluation_ngrams
from tramontane.data.dedupe import DuplicateIndex, FingerprintLog
from tramontane.data.ordered_map import ordered_map, worker_pool
from tramontane.data.prepare import Dropped, Kept, PrepareJob, prepare
from tramontane.data.recipe import DataRecipe, SourceRecipe
from tramontane.data.record import Record
from tramontane.data.render import TEXT_RENDERERS
from tramontane.data.render_chat import CHAT_RENDERERS
from tramontane.data.report import SourceReport, write_report
from tramontane.data.shards import (
    Manifest,
    PhaseInfo,
    ShardInfo,
    ShardWriter,
    SourceInfo,
    folder_sha256,
    write_manifest,
)
from tramontane.data.sources import read_records
from tramontane.errors import DataError
from tramontane.tokenizer import load_tokenizer

SPLITS = ("train", "valid")
_BATCH_CHARS = 1_000_000
_BATCH_GROUPS = 256
Progress = Callable[[str, int], None]
"""`(source, tokens kept so far)`, called after each batch."""


@dataclass(frozen=True, slots=True)
class BuildPlaces:
    """Where a build reads and writes."""

    data: Path  # unpacked archives
    recipe: Path  # the recipe file
    tokenizer: Path  # folder of a tokenizer
    out: Path  # one folder per set is made here


@dataclass(slots=True)
class _State:
    """What a resumed build needs; everything else is in the files it names."""

    fingerprint: str
    reports: list[dict[str, Any]] = field(default_factory=list)  # of sources begun, the last possibly unfinished
    shards: list[dict[str, list[dict[str, Any]]]] = field(default_factory=list)  # per source: split -> shards
    num_batches: int = 0  # of the last source
    num_kept: int = 0
    log_bytes: int = 0
    valid_bytes: int = 0
    is_source_done: bool = True


def check_renderers(recipe: DataRecipe) -> None:
    """Raises DataError for a `render` that does not exist."""
    for name, each in recipe.set.items():
        known = TEXT_RENDERERS if each.kind == "text" else CHAT_RENDERERS
        for source in each.source:
            if source.render not in known:
                raise DataError(
                    f"set.{name}: source {source.name}: render={source.render!r} is unknown; "
                    f"use one of {', '.join(known)}"
                )


def build_set(
    recipe: DataRecipe,
    set_name: str,
    places: BuildPlaces,
    *,
    num_workers: int = 1,
    progress: Progress = lambda source, num_token_ids: None,
) -> list[SourceReport]:
    """Build one set into `places.out / set_name` (folders `train` and `valid`, report, held-out text) and return its
    account. A finished set of the same recipe is left as it is. Raises DataError."""
    check_renderers(recipe)
    return _SetBuilder(recipe, set_name, places, num_workers, progress).run()


class _SetBuilder:
    def __init__(
        self, recipe: DataRecipe, set_name: str, places: BuildPlaces, num_workers: int, progress: Progress
    ) -> None:
        self.recipe, self.set, self.set_name, self.places = recipe, recipe.set[set_name], set_name, places
        self.num_workers, self.progress = num_workers, progress
        self.done = places.out / set_name
        self.folder = places.out / f"{set_name}.partial"
        tokenizer = load_tokenizer(places.tokenizer)
        self.vocab_size = tokenizer.vocab_size
        self.pad_id = tokenizer.control_id("<pad>") if "<pad>" in tokenizer.control_names else tokenizer.eos_id
        self.tokenizer_sha256 = folder_sha256(places.tokenizer)
        self.dtype = np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")
        self.state = _State(self._fingerprint())
        self.index = DuplicateIndex()
        self.reports: list[SourceReport] = []

    def _fingerprint(self) -> str:
        described = repr((self.recipe.seed, self.recipe.persona, self.recipe.decontaminate, self.set))
        return hashlib.sha256((described + self.tokenizer_sha256).encode("utf-8")).hexdigest()

    def run(self) -> list[SourceReport]:
        if (self.done / "report.json").exists():
            document = json.loads((self.done / "report.json").read_text("utf-8"))
            if self._fingerprint() not in document["notes"][-1]:
                raise DataError(
                    f"{self.done}: was built from another recipe or tokenizer; remove it or choose another --out"
                )
            return [SourceReport.from_json(each) for each in document["sources"]]
        if self.done.exists() and (not self.done.is_dir() or any(self.done.iterdir())):
            raise DataError(f"{self.done}: is there and no finished set; remove it or choose another --out")
        valid_path = self.folder / "valid" / "texts.jsonl"
        with (
            self._open() as self.log,
            valid_path.open("ab") as self.valid_lines,
            worker_pool(self.num_workers) as self.pool,
        ):
            ngrams_path = self._write_ngrams()
            num_done = len(self.reports) - (not self.state.is_source_done)
            for place, source in enumerate(self.set.source[num_done:], num_done):
                job = PrepareJob(self.recipe, self.set_name, source.name, self.places.tokenizer, ngrams_path)
                self._build_source(place, source, job)
        self._finish()
        return self.reports

    def _open(self) -> FingerprintLog:
        """Start afresh or take up what a stopped build left."""
        path = self.folder / "state.json"
        log_path = self.folder / "fingerprints.log"
        if path.exists():
            saved = _State(**json.loads(path.read_text("utf-8")))
            if saved.fingerprint == self.state.fingerprint:
                self.state = saved
                self.reports = [SourceReport.from_json(each) for each in saved.reports]
                _cut_file(log_path, saved.log_bytes)
                _cut_file(self.folder / "valid" / "texts.jsonl", saved.valid_bytes)
                FingerprintLog.replay(log_path, self.index)
                return FingerprintLog(log_path)
        shutil.rmtree(self.folder, ignore_errors=True)
        for split in SPLITS:
            durable.make_folder(self.folder / split)
        return FingerprintLog(log_path)

    def _write_ngrams(self) -> Path | None:
        if not self.recipe.decontaminate.paths:
            return None
        path = self.folder / "ngrams.npy"
        if not path.exists():
            with durable.file(path) as part:
                read_evaluation_ngrams(self.recipe.decontaminate, self.places.data).save(part)
        return path

    def _build_source(self, place: int, source: SourceRecipe, job: PrepareJob) -> None:
        if place == len(self.reports):
            self.reports.append(SourceReport(source.name))
            self.state.shards.append({split: [] for split in SPLITS})
            self.state.num_batches = 0
            self.state.is_source_done = False
        report = self.reports[place]
        writers = {}
        for split in SPLITS:
            writers[split] = ShardWriter(
                self.folder / split, source.name, self.dtype, self.set.shard_len, has_mask=self.set.kind == "chat"
            )
            writers[split].shards = [ShardInfo(**each) for each in self.state.shards[place][split]]
        folder = self.places.recipe.parent if source.beside_recipe else self.places.data
        batches = _batches(grouped(source, folder))
        remaining = itertools.islice(batches, self.state.num_batches, None)
        sizes: list[int] = []  # records in the batches that are under way

        def counted() -> Iterator[list[list[Record]]]:
            for batch in remaining:
                sizes.append(sum(map(len, batch)))
                yield batch

        for outcomes in ordered_map(partial(prepare, job), counted(), self.pool, self.num_workers):
            report.num_records += sizes.pop(0)
            for outcome in outcomes:
                self._take(outcome, report, writers)
            self.state.num_batches += 1
            self.progress(source.name, report.train.num_token_ids)
            if writers["train"].is_full:
                self._save(place, writers)
        self.state.is_source_done = True
        self._save(place, writers)

    def _take(self, outcome: Kept | Dropped, report: SourceReport, writers: dict[str, ShardWriter]) -> None:
        if isinstance(outcome, Dropped):
            report.drop(outcome.reason, outcome.origin, outcome.num_text_bytes, outcome.example)
            return
        if (repeated := self.index.add(outcome.fingerprint, self.state.num_kept)) is not None:
            kind, earlier = repeated
            example = f"repeats kept document {earlier} of this set: {outcome.example}"
            report.drop(f"{kind} duplicate", outcome.origin, outcome.num_text_bytes, example)
            return
        self.log.append(self.state.num_kept, outcome.fingerprint)
        self.state.num_kept += 1
        if outcome.valid_line is not None:
            self.valid_lines.write(outcome.valid_line.encode("utf-8") + b"\n")
        report.note(outcome.notes)
        writer = writers["valid" if outcome.is_valid else "train"]
        split = report.valid if outcome.is_valid else report.train
        for number, encoded in enumerate(outcome.encoded):
            writer.add(encoded.token_ids, encoded.mask)
            split.count(encoded.token_ids, encoded.mask, 0 if number else outcome.num_text_bytes)
        report.show(outcome.origin, outcome.example)

    def _save(self, place: int, writers: dict[str, ShardWriter]) -> None:
        for split, writer in writers.items():
            writer.close_shard()
            self.state.shards[place][split] = [asdict(shard) for shard in writer.shards]
        self.valid_lines.flush()
        durable.sync(self.folder / "valid" / "texts.jsonl")
        self.state.log_bytes, self.state.valid_bytes = self.log.flush(), self.valid_lines.tell()
        self.state.reports = [report.to_json() for report in self.reports]
        durable.write(self.folder / "state.json", json.dumps(asdict(self.state)))

    def _finish(self) -> None:
        if not any(report.train.num_documents + report.valid.num_documents for report in self.reports):
            self._refuse_empty()
        for split in SPLITS:
            write_manifest(self.folder / split, self._manifest(split))
        notes = [
            f"tokenizer: {self.vocab_size:,} tokens, sha256 {self.tokenizer_sha256}",
            f"documents are at most {self.set.max_document_len:,} tokens long",
            f"recipe fingerprint {self.state.fingerprint}",
        ]
        for name in ("ngrams.npy", "fingerprints.log", "state.json"):
            (self.folder / name).unlink(missing_ok=True)
        write_report(self.folder, f"{self.recipe.name}: {self.set_name}", self.reports, notes)
        durable.publish(self.folder, self.done)

    def _refuse_empty(self) -> None:
        """Raises DataError saying why nothing was kept; nothing is left behind."""
        shutil.rmtree(self.folder, ignore_errors=True)
        reasons: dict[str, int] = {}
        for report in self.reports:
            for reason, tally in report.dropped.items():
                reasons[reason] = reasons.get(reason, 0) + tally.num_documents
        most = sorted(reasons.items(), key=lambda item: -item[1])[:3]
        told = "; ".join(f"{reason} ({count})" for reason, count in most) or "the sources hold no records"
        raise DataError(f"set.{self.set_name}: no document was kept: {told}")

    def _manifest(self, split: str) -> Manifest:
        sources = []
        for source, report, shards in zip(self.set.source, self.reports, self.state.shards, strict=True):
            tally = report.train if split == "train" else report.valid
            if tally.num_documents:
                sources.append(
                    SourceInfo(
                        name=source.name,
                        shards=tuple(ShardInfo(**each) for each in shards[split]),
                        num_documents=tally.num_documents,
                        num_token_ids=tally.num_token_ids,
                        num_learned=tally.num_learned,
                        num_text_bytes=tally.num_text_bytes,
                        epochs=source.epochs if split == "train" else 1.0,
                        provenance=source.provenance,
                        licence=source.licence,
                    )
                )
        empty = {source.name for source in self.set.source} - {source.name for source in sources}
        phases = [
            PhaseInfo(name=phase.name, epochs={name: each for name, each in phase.epochs.items() if name not in empty})
            for phase in self.set.phase
            if split == "train"
        ]
        return Manifest(
            name=f"{self.recipe.name}/{self.set_name}/{split}",
            kind=self.set.kind,
            vocab_size=self.vocab_size,
            pad_id=self.pad_id,
            max_document_len=self.set.max_document_len,
            tokenizer_sha256=self.tokenizer_sha256,
            sources=tuple(sources),
            phases=tuple(phases),
        )


def _batches(groups: Iterator[list[Record]]) -> Iterator[list[list[Record]]]:
    """Groups of records that are rendered together, in batches of about a megabyte."""
    batch: list[list[Record]] = []
    num_chars = 0
    for group in groups:
        batch.append(group)
        num_chars += sum(_num_chars(record) for record in group)
        if num_chars >= _BATCH_CHARS or len(batch) >= _BATCH_GROUPS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def grouped(source: SourceRecipe, folder: Path) -> Iterator[list[Record]]:
    """The records of a source, one by one or in groups as its `group_by` and `gather` say."""
    records = read_records(source, folder)
    key = source.group_by
    if key is None:
        for record in records:
            yield [record]
    elif source.gather:
        groups: dict[str, list[Record]] = {}
        for record in records:
            groups.setdefault(str(record.fields.get(key)), []).append(record)
        yield from groups.values()
    else:
        for _, group in itertools.groupby(records, lambda each: (each.origin.path, each.fields.get(key))):
            yield list(group)


def _num_chars(record: Record) -> int:
    return sum(len(value) if isinstance(value, str) else 500 for value in record.fields.values())


def _cut_file(path: Path, size_bytes: int) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(size_bytes)
