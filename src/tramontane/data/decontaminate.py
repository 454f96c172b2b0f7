"""Keeping evaluation text out of training text, by shared word n-grams."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tramontane.data.dedupe import words_of
from tramontane.data.recipe import DecontaminateRecipe, SourceRecipe
from tramontane.data.sources import expand, read_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

END_OF_TEXT = "<|endoftext|>"
"""What stands between the documents of a plain text, as in TinyStories."""
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplication modulo 2^64 loses nothing


class WordHasher:
    """Stable 64-bit hashes of words, remembered (a corpus has far fewer words than tokens)."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __call__(self, words: Sequence[str]) -> NDArray[np.uint64]:
        known = self._known
        if len(known) > 2_000_000:
            known.clear()
        return np.fromiter((known.get(word) or self._learn(word) for word in words), np.uint64, len(words))

    def _learn(self, word: str) -> int:
        from hashlib import blake2b

        value = int.from_bytes(blake2b(word.encode("utf-8"), digest_size=8).digest(), "little") | 1
        self._known[word] = value
        return value


def ngram_hashes(word_hashes: NDArray[np.uint64], ngram_len: int) -> NDArray[np.uint64]:
    """Hash of each window of `ngram_len` words: (n,) -> (n - ngram_len + 1,), a polynomial in the multiplier."""
    count = len(word_hashes) - ngram_len + 1
    if count < 1:
        return np.empty(0, np.uint64)
    total = np.zeros(count, np.uint64)
    for offset in range(ngram_len):
        total = (total * _MULTIPLIER) + word_hashes[offset : offset + count]
        total ^= total >> np.uint64(29)
    return total


class EvaluationNgrams:
    """The n-grams of evaluation items, as a sorted array that worker processes share through the page cache."""

    def __init__(self, hashes: NDArray[np.uint64], ngram_len: int) -> None:
        self._hashes = hashes
        self.ngram_len = ngram_len
        self._hasher = WordHasher()

    def __len__(self) -> int:
        return len(self._hashes)

    def first_match(self, words: Sequence[str]) -> str | None:
        """The first n-gram that `words` (of `words_of`) shares with an evaluation item, or None."""
        wanted = ngram_hashes(self._hasher(words), self.ngram_len)
        if not len(wanted) or not len(self._hashes):
            return None
        in_order = np.sort(wanted)  # the search then walks the shared array once instead of jumping about in it
        places = np.minimum(np.searchsorted(self._hashes, in_order), len(self._hashes) - 1)
        hits = in_order[self._hashes[places] == in_order]
        if not len(hits):
            return None
        start = int(np.flatnonzero(np.isin(wanted, hits))[0])
        return " ".join(words[start : start + self.ngram_len])

    def save(self, path: Path) -> None:
        with path.open("wb") as file:  # np.save would add a suffix to another name
            np.save(file, self._hashes)

    @classmethod
    def load(cls, path: Path, ngram_len: int) -> EvaluationNgrams:
        return cls(np.load(path, mmap_mode="r"), ngram_len)


def read_evaluation_ngrams(recipe: DecontaminateRecipe, folder: Path) -> EvaluationNgrams:
    """All n-grams of the evaluation files under `folder`, each string of each record on its own.

    An item is a record; of a plain text, a document that ends at END_OF_TEXT, or a paragraph where there are none.
    """
    hasher = WordHasher()
    items: list[NDArray[np.uint64]] = []
    if recipe.paths:
        source = SourceRecipe(name="evaluation", paths=recipe.paths, split_on=END_OF_TEXT)
        for file in expand(source, folder):
            records = read_file(file.path, file.shown, source.name, source.split_on)
            first = list(islice(records, 2))
            text = first[0].fields.get("text") if len(first) == 1 else None
            if isinstance(text, str) and len(first[0].fields) == 1:  # the whole file is one text
                items += _paragraph_ngrams(text, hasher, recipe.ngram_len)
                continue
            for record in chain(first, records):
                grams = [ngram_hashes(hasher(words_of(text)), recipe.ngram_len) for text in _strings(record.fields)]
                if grams:
                    items.append(np.unique(np.concatenate(grams)))
    if not items:
        return EvaluationNgrams(np.empty(0, np.uint64), recipe.ngram_len)
    hashes, counts = np.unique(np.concatenate(items), return_counts=True)
    return EvaluationNgrams(hashes[counts <= recipe.max_items], recipe.ngram_len)


def _paragraph_ngrams(text: str, hasher: WordHasher, ngram_len: int) -> list[NDArray[np.uint64]]:
    """The n-grams of a text by the paragraph they begin in, none lost that goes on into the next."""
    paragraphs = [hasher(words_of(paragraph)) for paragraph in _PARAGRAPH_END.split(text)]
    hashes = ngram_hashes(np.concatenate(paragraphs), ngram_len)
    ends = np.cumsum([len(paragraph) for paragraph in paragraphs])
    return [np.unique(part) for part in np.split(hashes, ends[:-1]) if len(part)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings_of(value.values())
    elif isinstance(value, list | tuple):
        yield from _strings_of(value)


def _strings_of(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield from _strings(value)
