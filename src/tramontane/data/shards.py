"""Token shards on disk: memory-mapped, written once, readable with numpy alone.

A set is a folder with `manifest.json` and, per shard, little-endian arrays without headers:
    NAME-00000.tokens   uint16 or uint32 token ids of all documents, end to end
    NAME-00000.offsets  uint32, where each document starts, and one more: where the last one ends
    NAME-00000.mask     one bit per token (bit 0 of a byte first), 1 = learn to predict it; absent where all are learned
and, of a source whose documents are not all seen equally often:
    NAME.repeats        pairs of uint32: so many documents, the next in order, are seen so often, one after the other
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tramontane import durable
from tramontane.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST = "manifest.json"
FORMAT = "tramontane-shards"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardInfo:
    """One shard: file stem and what is in it. `sha256` is that of its files, tokens, offsets and mask in turn."""

    stem: str
    num_documents: int
    num_token_ids: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """One source of a set. `num_text_bytes` is the UTF-8 length of the text behind the tokens (bits per byte);
    `epochs` is how often a run sees it unless phases say otherwise; `num_repeats` counts the pairs of its repeats."""

    name: str
    shards: tuple[ShardInfo, ...]
    num_documents: int
    num_token_ids: int
    num_learned: int
    num_text_bytes: int
    epochs: float = 1.0
    provenance: str = ""
    licence: str = ""
    num_repeats: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseInfo:
    """A stretch of training: epochs of each source in it; sources not named rest."""

    name: str
    epochs: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a set of shards holds and which tokenizer wrote it."""

    name: str
    kind: Literal["text", "chat", "preference", "classifier"]
    vocab_size: int
    pad_id: int
    max_document_len: int
    tokenizer_sha256: str
    sources: tuple[SourceInfo, ...]
    phases: tuple[PhaseInfo, ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """The manifest comes last: a folder without one is not a set."""
    document = {"format": FORMAT, "version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    durable.write(folder / MANIFEST, json.dumps(document, indent=1))


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError when the folder holds no set of shards of a known version."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text("utf-8"))
        if document.pop("format") != FORMAT or document.pop("version") != FORMAT_VERSION:
            raise DataError(f"{path}: not a set of shards of version {FORMAT_VERSION}; build it again")
        sources = tuple(
            SourceInfo(**{**source, "shards": tuple(ShardInfo(**shard) for shard in source["shards"])})
            for source in document.pop("sources")
        )
        phases = tuple(PhaseInfo(**phase) for phase in document.pop("phases"))
        return Manifest(**document, sources=sources, phases=phases)
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no {MANIFEST}; is it a finished set of shards?") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: damaged manifest ({error}); build the set again") from None


class ShardWriter:
    """Documents in, shard files out; a shard is closed when it holds `shard_len` tokens or on `close_shard`."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[Any], shard_len: int, *, has_mask: bool) -> None:
        self._folder, self._name, self._dtype, self._shard_len = folder, name, dtype, shard_len
        self._has_mask = has_mask
        self._token_ids: list[NDArray[Any]] = []
        self._masks: list[NDArray[np.bool_]] = []
        self.pending_len = 0
        self.shards: list[ShardInfo] = []

    @property
    def is_full(self) -> bool:
        return self.pending_len >= self._shard_len

    def add(self, token_ids: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> None:
        """One document, (n,) token ids with n > 0, and its mask (n,) where the set has masks."""
        self._token_ids.append(token_ids.astype(self._dtype))
        if self._has_mask:
            self._masks.append(np.ones(len(token_ids), np.bool_) if mask is None else mask)
        self.pending_len += len(token_ids)

    def close_shard(self) -> None:
        """Write what is pending, if anything, as the next shard."""
        if not self._token_ids:
            return
        stem = f"{self._name}-{len(self.shards):05d}"
        offsets = np.zeros(len(self._token_ids) + 1, "<u4")
        np.cumsum([len(token_ids) for token_ids in self._token_ids], out=offsets[1:])
        parts = {"tokens": np.concatenate(self._token_ids).tobytes(), "offsets": offsets.tobytes()}
        if self._has_mask:
            parts["mask"] = np.packbits(np.concatenate(self._masks), bitorder="little").tobytes()
        digest = hashlib.sha256()
        for suffix, data in parts.items():
            digest.update(data)
            durable.write(self._folder / f"{stem}.{suffix}", data)
        self.shards.append(
            ShardInfo(
                stem=stem,
                num_documents=len(self._token_ids),
                num_token_ids=self.pending_len,
                sha256=digest.hexdigest(),
            )
        )
        self._token_ids, self._masks, self.pending_len = [], [], 0


def write_repeats(folder: Path, name: str, repeats: Sequence[tuple[int, int]]) -> int:
    """How often an epoch sees the documents of a source, as (number of documents, times) in their order: each stretch
    is seen whole as often as it says before the next. Returns `num_repeats`: 0 where each document is seen once."""
    merged: list[tuple[int, int]] = []
    for num_documents, times in repeats:
        if merged and merged[-1][1] == times == 1:
            merged[-1] = (merged[-1][0] + num_documents, 1)
        elif num_documents:
            merged.append((num_documents, times))
    if all(times == 1 for _, times in merged):
        return 0
    durable.write(folder / f"{name}.repeats", np.array(merged, "<u4").tobytes())
    return len(merged)


class SourceShards:
    """The documents of one source, by number, read through memory maps."""

    def __init__(self, folder: Path, info: SourceInfo, dtype: np.dtype[Any]) -> None:
        self.info = info
        self._tokens: list[NDArray[Any]] = []
        self._offsets: list[NDArray[Any]] = []
        self._masks: list[NDArray[np.uint8] | None] = []
        for shard in info.shards:
            offsets = _mapped(folder / f"{shard.stem}.offsets", np.dtype("<u4"), shard.num_documents + 1)
            if offsets[-1] != shard.num_token_ids:
                raise DataError(f"{folder / shard.stem}.offsets: does not end at {shard.num_token_ids}; build again")
            self._offsets.append(offsets)
            self._tokens.append(_mapped(folder / f"{shard.stem}.tokens", dtype, shard.num_token_ids))
            mask = folder / f"{shard.stem}.mask"
            num_bytes = -(-shard.num_token_ids // 8)
            self._masks.append(_mapped(mask, np.dtype(np.uint8), num_bytes) if mask.exists() else None)
        self._first_document = np.cumsum([0, *(shard.num_documents for shard in info.shards)])
        self.repeats = np.array([[info.num_documents, 1]], np.int64)
        """(R, 2): number of documents, the next in order, and how often an epoch sees that stretch."""
        if info.num_repeats:
            pairs = _mapped(folder / f"{info.name}.repeats", np.dtype("<u4"), 2 * info.num_repeats)
            self.repeats = pairs.reshape(-1, 2).astype(np.int64)
            if self.repeats[:, 0].sum() != info.num_documents:
                raise DataError(f"{folder / info.name}.repeats: is not of {info.num_documents} documents; build again")

    def _locate(self, document: int) -> tuple[int, int, int]:
        """(shard, start, end) of a document."""
        shard = int(np.searchsorted(self._first_document, document, side="right")) - 1
        place = document - int(self._first_document[shard])
        return shard, int(self._offsets[shard][place]), int(self._offsets[shard][place + 1])

    def document_lens(self) -> NDArray[np.int64]:
        """(num_documents,) tokens of each."""
        return np.concatenate([np.zeros(0, np.int64), *(np.diff(each.astype(np.int64)) for each in self._offsets)])

    @property
    def epoch_len(self) -> int:
        """Token ids that an epoch sees."""
        num_documents, times = self.repeats[:, 0], self.repeats[:, 1]
        up_to = np.concatenate([[0], np.cumsum(self.document_lens())])
        ends = np.cumsum(num_documents)
        return int(((up_to[ends] - up_to[ends - num_documents]) * times).sum())

    def document_len(self, document: int) -> int:
        _, start, end = self._locate(document)
        return end - start

    def read(self, document: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Token ids (n,) and mask (n,) or None (learn all) of document 0..num_documents-1."""
        shard, start, end = self._locate(document)
        packed = self._masks[shard]
        mask = None
        if packed is not None:
            bits = np.unpackbits(packed[start // 8 : -(-end // 8)], bitorder="little")
            mask = bits[start % 8 : start % 8 + end - start].astype(np.bool_)
        return self._tokens[shard][start:end], mask


def _mapped(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    try:
        if path.stat().st_size != count * dtype.itemsize:
            raise DataError(f"{path}: {path.stat().st_size} bytes where {count * dtype.itemsize} belong; copy it again")
        return np.memmap(path, dtype, mode="r", shape=(count,))
    except FileNotFoundError:
        raise DataError(f"{path}: missing; copy it again or build the set again") from None


class ShardSet:
    """One or several sets of one tokenizer as a single pool of named sources."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises DataError for folders without a set, or sets that cannot be mixed."""
        self.manifests = [read_manifest(folder) for folder in folders]
        self.sources: dict[str, SourceShards] = {}
        first = self.manifests[0]
        for folder, manifest in zip(folders, self.manifests, strict=True):
            if (manifest.tokenizer_sha256, manifest.pad_id) != (first.tokenizer_sha256, first.pad_id):
                raise DataError(f"{folder}: was written by another tokenizer than {folders[0]}; build both with one")
            for info in manifest.sources:
                if info.name in self.sources:
                    raise DataError(f"{folder}: source {info.name!r} is in two of the sets; rename one")
                self.sources[info.name] = SourceShards(folder, info, manifest.dtype)
        self.vocab_size = first.vocab_size
        self.pad_id = first.pad_id
        self.max_document_len = max(manifest.max_document_len for manifest in self.manifests)

    @property
    def phases(self) -> tuple[PhaseInfo, ...]:
        """Phases of the recipe; without any, one that sees each source as often as its own `epochs` says."""
        phases = tuple(phase for manifest in self.manifests for phase in manifest.phases)
        return phases or (
            PhaseInfo(name="all", epochs={name: source.info.epochs for name, source in self.sources.items()}),
        )


def verify_shards(folder: Path) -> None:
    """Read every shard against its checksum. Raises DataError naming the damaged one."""
    for info in read_manifest(folder).sources:
        for shard in info.shards:
            digest = hashlib.sha256()
            for suffix in ("tokens", "offsets", "mask"):
                path = folder / f"{shard.stem}.{suffix}"
                if path.exists():
                    digest.update(path.read_bytes())
            if digest.hexdigest() != shard.sha256:
                raise DataError(f"{folder / shard.stem}: checksum differs; copy it again or build the set again")


def folder_sha256(folder: Path) -> str:
    """Checksum of the files in a folder (of a tokenizer), names included."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(path.name.encode("utf-8") + b"\0" + path.read_bytes())
    return digest.hexdigest()
