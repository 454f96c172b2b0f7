"""Where a checkpoint is written: what stands there already is replaced only if asked, and by something whole."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tramontane import durable
from tramontane.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# what a folder must consist of before it may be replaced as a checkpoint
_CHECKPOINT_SUFFIXES = {".safetensors", ".json", ".model", ".txt", ".md", ".jinja", ".pth", ".pt", ".v3", ".gguf"}

_OVERWRITE = "--overwrite (overwrite=True in Python)"


@contextmanager
def new_file(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """As `durable.file`. Raises CheckpointError if `target` exists (unless `overwrite`) or cannot be written."""
    if target.is_dir():
        raise CheckpointError(f"{target} is a folder; name a file in it")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists already; choose another name, or replace it: {_OVERWRITE}")
    with _reported(target), durable.file(target) as part:
        yield part


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """As `durable.folder`. Raises CheckpointError if `target` exists and is not empty, unless `overwrite` and it holds
    nothing but the files of a checkpoint; or if it cannot be written."""
    _require_replaceable(target, overwrite)
    with _reported(target), durable.folder(target) as part:
        yield part


def _require_replaceable(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} exists already and is not a folder; choose another name")
    entries = list(target.iterdir())
    if entries and not overwrite:
        raise CheckpointError(
            f"{target} exists already and is not empty; choose another name, or replace it: {_OVERWRITE}"
        )
    foreign = sorted(entry.name for entry in entries if entry.is_dir() or entry.suffix not in _CHECKPOINT_SUFFIXES)
    if foreign:
        raise CheckpointError(f"{target} holds {foreign[0]!r}, which is no part of a checkpoint; it is not overwritten")


@contextmanager
def _reported(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from None
