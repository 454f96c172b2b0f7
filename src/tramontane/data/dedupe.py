"""Exact and near duplicates.

Signatures come from datasketch's MinHash; the index is our own: datasketch's keeps a Python set per bucket, some 20
times the memory of one dictionary entry per band, which is what 300,000 documents of 14 bands need to stay in 0.5 GB.
"""

from __future__ import annotations

import functools
import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from tramontane import durable
from tramontane.data.recipe import DedupeRecipe

if TYPE_CHECKING:
    from datasketch import MinHash
    from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`exact` hashes the words of a text in order (case, spacing and punctuation aside); `bands` (num_bands,) uint64
    hash groups of its MinHash, empty for texts too short to have a near duplicate."""

    exact: int
    bands: NDArray[np.uint64]


def words_of(text: str) -> list[str]:
    """Lower-case words: what duplicates and contamination are told by."""
    return _WORD.findall(text.lower())


def fingerprint(words: Sequence[str], recipe: DedupeRecipe, *, near: bool = True) -> Fingerprint:
    """The fingerprint of a text given as `words_of(text)`; without `near` (or where the recipe says so) for exact
    duplicates only."""
    digest = hashlib.blake2b(" ".join(words).encode("utf-8"), digest_size=8).digest()
    exact = int.from_bytes(digest, "little")
    num_shingles = len(words) - recipe.shingle_len + 1
    if not (near and recipe.near) or num_shingles < 2 * recipe.shingle_len:
        return Fingerprint(exact, np.empty(0, np.uint64))
    shingles = {" ".join(words[start : start + recipe.shingle_len]) for start in range(num_shingles)}
    minhash = _empty_minhash(recipe.num_bands * recipe.rows_per_band).copy()
    minhash.update_batch([shingle.encode("utf-8") for shingle in shingles])
    rows = np.asarray(minhash.hashvalues, dtype="<u8").reshape(recipe.num_bands, recipe.rows_per_band)
    bands = [
        int.from_bytes(
            hashlib.blake2b(row.tobytes(), digest_size=8, salt=band.to_bytes(2, "little")).digest(), "little"
        )
        for band, row in enumerate(rows)
    ]
    return Fingerprint(exact, np.array(bands, np.uint64))


@functools.lru_cache(maxsize=1)
def _empty_minhash(num_hashes: int) -> MinHash:
    from datasketch import MinHash

    return MinHash(num_perm=num_hashes, seed=1, hashfunc=_crc32)


def _crc32(data: bytes) -> int:
    return zlib.crc32(data)


@dataclass(slots=True)
class DuplicateIndex:
    """Everything kept so far, by fingerprint. `add` answers with the number of the document repeated, or takes the
    new one in; documents are numbered by the caller."""

    _exact: dict[int, int] = field(default_factory=dict)
    _bands: dict[int, int] = field(default_factory=dict)

    def add(self, new: Fingerprint, number: int) -> tuple[str, int] | None:
        """("exact" | "near", number of the earlier document), or None when nothing alike was there."""
        if (earlier := self._exact.get(new.exact)) is not None:
            return "exact", earlier
        bands = new.bands.tolist()
        for band in bands:
            if (earlier := self._bands.get(band)) is not None:
                return "near", earlier
        self._exact[new.exact] = number
        self._bands.update(dict.fromkeys(bands, number))
        return None


class FingerprintLog:
    """Fingerprints of kept documents on disk, so that a resumed build knows what it kept before it stopped.

    One line of uint64: number, exact, number of bands, bands.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab")

    def append(self, number: int, kept: Fingerprint) -> None:
        row = np.array([number, kept.exact, len(kept.bands)], "<u8")
        self._file.write(row.tobytes() + kept.bands.astype("<u8").tobytes())

    def flush(self) -> int:
        """Size in bytes of what is now safely in the file."""
        self._file.flush()
        durable.sync(self._path)
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @staticmethod
    def replay(path: Path, index: DuplicateIndex, size_bytes: int | None = None) -> None:
        """Take the first `size_bytes` (None: all) of a log into `index`."""
        data = np.fromfile(path, "<u8", count=-1 if size_bytes is None else size_bytes // 8)
        place = 0
        while place < len(data):
            number, exact, num_bands = (int(value) for value in data[place : place + 3])
            place += 3 + num_bands
            index.add(Fingerprint(exact, data[place - num_bands : place]), number)
