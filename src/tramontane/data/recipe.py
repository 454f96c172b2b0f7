"""The data recipe: which files become which training sets, as frozen dataclasses read from TOML.

One recipe names the evaluation files to keep out, the tokenizer to train and any number of sets; a set is a list of
sources that are rendered alike (`text` for pretraining, `chat` for conversations).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tramontane.data.strict_toml import read_toml
from tramontane.errors import DataError

Quality = Literal["none", "prose", "web"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanRecipe:
    """How text is cleaned (see `clean`). `language` is a two-letter code to keep, or None for all."""

    straight_quotes: bool = False
    fold_space: bool = False  # for prose; in code, indentation and empty lines mean something
    language: str | None = None
    mask_personal_data: bool = False
    drop_lines: tuple[str, ...] = ()  # regular expressions, case-insensitive; a line that matches is removed


@dataclass(frozen=True, slots=True, kw_only=True)
class DedupeRecipe:
    """Exact duplicates are dropped always; near ones by MinHash: `num_bands * rows_per_band` hashes of word
    `shingle_len`-grams. Two texts of Jaccard similarity s collide with probability 1 - (1 - s^rows)^bands:
    14 bands of 8 find 92 % at s = 0.8 and 5 % at s = 0.5 (the setting of FineWeb, arXiv:2406.17557)."""

    near: bool = True
    num_bands: int = 14
    rows_per_band: int = 8
    shingle_len: int = 5

    def __post_init__(self) -> None:
        if min(self.num_bands, self.rows_per_band, self.shingle_len) < 1:
            raise DataError("num_bands, rows_per_band and shingle_len must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecontaminateRecipe:
    """Evaluation files whose word `ngram_len`-grams must not occur in training text. N-grams found in more than
    `max_items` evaluation items are wording of the task, not of an item, and are ignored (as in arXiv:2005.14165). An
    item is a record; of a plain text a document that ends at <|endoftext|>, or else a paragraph."""

    paths: tuple[str, ...] = ()
    ngram_len: int = 13
    max_items: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRecipe:
    """One named group of files.

    `paths` are globs under the data folder (with `beside_recipe`, under the folder of the recipe) or in data sets of
    the Hugging Face hub (`hf://datasets/OWNER/NAME/GLOB`). `render` names a
    function of `render` or `render_chat`; `options` are given to it. `split_on` cuts text files into documents.
    `group_by` hands consecutive records with equal field over together; with `gather`, all of the source, which is
    then held in memory. `epochs` is how often a run sees the source when no phase says otherwise. `provenance` and
    `licence` go into the report and model cards."""

    name: str
    paths: tuple[str, ...]
    beside_recipe: bool = False
    render: str = "text"
    options: Mapping[str, str] = field(default_factory=dict)
    split_on: str | None = None
    group_by: str | None = None
    gather: bool = False
    epochs: float = 1.0
    quality: Quality = "none"
    near_dedupe: bool = True
    decontaminate: bool = True
    valid_fraction: float | None = None  # None: that of the set
    tokenizer_share: float = 1.0  # part of its text that the tokenizer is trained on
    provenance: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        if not self.name or not all(char.isalnum() or char in "-_" for char in self.name):
            raise DataError(f"name={self.name!r} must be letters, digits, '-' and '_'")
        if not self.paths:
            raise DataError(f"source {self.name}: paths is empty")
        if not (math.isfinite(self.epochs) and self.epochs >= 0):
            raise DataError(f"source {self.name}: epochs={self.epochs} must not be negative")
        for value, key in ((self.valid_fraction, "valid_fraction"), (self.tokenizer_share, "tokenizer_share")):
            if value is not None and not 0 <= value <= 1:
                raise DataError(f"source {self.name}: {key}={value} must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRecipe:
    """A stretch of training: how often each source is seen in it. Sources not named rest."""

    name: str
    epochs: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRecipe:
    """One training set. `max_document_len` (tokens) bounds a document: longer text is cut at paragraphs, longer
    conversations are dropped. `fim_rate` of the text documents are turned around for fill-in-the-middle."""

    kind: Literal["text", "chat"]
    source: tuple[SourceRecipe, ...]
    phase: tuple[PhaseRecipe, ...] = ()
    max_document_len: int = 2048
    valid_fraction: float = 0.005
    fim_rate: float = 0.0
    shard_len: int = 8_000_000  # tokens in one shard file
    clean: CleanRecipe = CleanRecipe()
    dedupe: DedupeRecipe = DedupeRecipe()

    def __post_init__(self) -> None:
        names = [source.name for source in self.source]
        if not names or len(set(names)) != len(names):
            raise DataError("a set needs sources, each with its own name")
        if self.max_document_len < 16 or self.shard_len < self.max_document_len:
            raise DataError("max_document_len must be at least 16 and shard_len at least max_document_len")
        if not 0 <= self.fim_rate <= 1 or (self.fim_rate and self.kind == "chat"):
            raise DataError(f"fim_rate={self.fim_rate} must lie between 0 and 1, and be 0 in a chat set")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerRecipe:
    """`sample_bytes` bounds the text the tokenizer is trained on."""

    vocab_size: int = 8192
    version: Literal["v7", "v11", "v13"] = "v7"
    sample_bytes: int = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecipe:
    """Everything `data build` does. `persona` fills the placeholders of the identity conversations."""

    name: str
    set: Mapping[str, SetRecipe]
    seed: int = 0
    persona: Mapping[str, str] = field(default_factory=dict)
    tokenizer: TokenizerRecipe = TokenizerRecipe()
    decontaminate: DecontaminateRecipe = DecontaminateRecipe()

    def __post_init__(self) -> None:
        if not self.set:
            raise DataError("a recipe needs at least one [set.NAME]")
        known = {source.name for each in self.set.values() for source in each.source}
        for name, each in self.set.items():
            for phase in each.phase:
                if unknown := set(phase.epochs) - known:
                    raise DataError(f"set.{name}: phase {phase.name!r} names unknown sources {sorted(unknown)}")


def read_data_recipe(path: Path) -> DataRecipe:
    """Raises DataError naming file, key and remedy."""
    return read_toml(path, DataRecipe)
