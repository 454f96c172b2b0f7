"""Nothing half-written is ever left in place of a good file: write beside the target, then rename."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tramontane.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# what a folder must consist of before it may be replaced as a checkpoint
_CHECKPOINT_SUFFIXES = {".safetensors", ".json", ".model", ".txt", ".md", ".jinja", ".pth", ".pt", ".v3", ".gguf"}


@contextmanager
def file_beside(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A path to write to; it becomes `target` if the block ends well, and vanishes otherwise.

    Raises CheckpointError if `target` exists (unless `overwrite`) or cannot be written.
    """
    if target.is_dir() or (target.exists() and not overwrite):
        raise CheckpointError(f"{target} exists already; choose another name, or overwrite it explicitly")
    with _reported(target):
        beside = _name_beside(target)
        try:
            yield beside
            os.replace(beside, target)
            _sync_folder(target.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def folder_beside(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target` if the block ends well, and vanishes otherwise.

    Raises CheckpointError if `target` exists and is not empty, unless `overwrite` and it holds nothing but the files
    of a checkpoint; or if it cannot be written.
    """
    _require_replaceable(target, overwrite)
    with _reported(target):
        beside = _name_beside(target)
        beside.mkdir()
        try:
            yield beside
            _sync_folder(beside)
            if target.exists():
                old = beside.with_suffix(".old")
                os.replace(target, old)
                os.replace(beside, target)
                shutil.rmtree(old)
            else:
                os.replace(beside, target)
            _sync_folder(target.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _require_replaceable(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} exists already and is not a folder; choose another name")
    entries = list(target.iterdir())
    if entries and not overwrite:
        raise CheckpointError(
            f"{target} exists already and is not empty; choose another name, or overwrite it explicitly"
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


def _name_beside(target: Path) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(8)}.part"


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
