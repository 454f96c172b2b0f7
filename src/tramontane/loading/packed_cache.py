"""Packed weights kept on disk, so that the next start maps them instead of packing again.

An entry is two files: `<key>.safetensors` with every tensor as bytes, and `<key>.json` with its SHA-256 and the stamp
under which that was proved. The key is a digest of what determines the content: configuration, formats, the layout
the kernels want, and the content of the checkpoint's files. An entry that is damaged, was replaced, or lies where
others can write is not used. The entries used longest ago go first where there is no room.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tramontane import durable
from tramontane.errors import CapacityError, CheckpointError
from tramontane.formats.safetensors_file import SafetensorsSource
from tramontane.formats.write import write_safetensors
from tramontane.loading.file_digest import file_digest, read_record, stamp_of, write_record

if TYPE_CHECKING:
    from torch import Tensor

    from tramontane.config import ModelConfig
    from tramontane.formats.tensor_source import TensorSource
    from tramontane.ops.packed_weight import WeightFormat

_ALIGNMENT = 64  # every tensor begins on a cache line
_ABANDONED_S = 24 * 3600.0  # a file half-written so long ago is of a process that died
_SPARE_BYTES = 2**30  # of the disk, left free


class PackedCache:
    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def key(self, source: TensorSource, config: ModelConfig, formats: Mapping[str, WeightFormat]) -> str:
        """What names the packed form of these weights; reads all files the first time it is asked."""
        from tramontane.ops.packed_weight import layout_digest

        with suppress(OSError):  # `store` will say so
            self._create()
        contents = [file_digest(path, self.folder / "files") for path in source.files()]
        layouts = {name: layout_digest(name) for name in sorted(set(formats.values()))}
        return hashlib.sha256(repr((config, sorted(formats.items()), layouts, contents)).encode()).hexdigest()

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Nobody else looks at this entry or writes it inside the block; who comes second finds it made."""
        from filelock import FileLock

        lock = FileLock(self.folder / f"{key}.lock")
        with ExitStack() as held:
            with suppress(OSError):  # where nothing can be written nobody writes
                held.enter_context(lock)
            yield

    def find(self, key: str, sizes: Mapping[str, int]) -> dict[str, Tensor] | None:
        """The entry's tensors by name, uint8 views of the mapped file of at least `sizes` bytes; None if there is no
        such entry or it cannot be trusted, in which case it is removed."""
        path, record = self._files(key)
        if not path.exists() or not self._is_private(path):
            return None
        try:
            self._verify(path, record)
            source = SafetensorsSource(path)
            if {name: _padded(size) for name, size in sizes.items()} != {
                name: source.info(name).shape[0] for name in source.names()
            }:
                raise CheckpointError(f"{path} does not hold the tensors of this model")
        except (CheckpointError, OSError):
            self._remove(key)
            return None
        with suppress(OSError):
            os.utime(record)  # used now
        return {name: source.read(name)[:size] for name, size in sizes.items()}

    def store(self, key: str, sizes: Mapping[str, int], tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Write an entry of uint8 tensors of `sizes` bytes.

        Raises CapacityError if there is no room or it may take none, CheckpointError if it cannot be written.
        """
        path, record = self._files(key)
        try:
            self._create()
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be written: {error.strerror}") from None
        self._make_room(sum(map(_padded, sizes.values())))
        specs = {name: (torch.uint8, (_padded(size),)) for name, size in sizes.items()}
        write_safetensors(path, specs, ((name, _pad(tensor)) for name, tensor in tensors), metadata={}, overwrite=True)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            write_record(record, stamp_of(path), digest.hexdigest())
        except OSError as error:
            raise CheckpointError(f"{path} cannot be kept: {error.strerror}") from None

    def _create(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def _files(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}.safetensors", self.folder / f"{key}.json"

    def _is_private(self, path: Path) -> bool:
        """Whether nobody else can have put it there."""
        file, folder = os.lstat(path), os.stat(self.folder)
        if os.name != "posix":
            return stat.S_ISREG(file.st_mode)
        is_ours = file.st_uid == folder.st_uid == os.geteuid()
        return is_ours and stat.S_ISREG(file.st_mode) and not folder.st_mode & 0o022

    def _verify(self, path: Path, record: Path) -> None:
        """Raises CheckpointError unless the file is the one that was written. Its content is only read again where
        the stamp has changed, as when the folder was copied."""
        known = read_record(record)
        if known is None:
            raise CheckpointError(f"{record} is missing or damaged")
        found = stamp_of(path)
        if known[0] == found:
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != known[1]:
            raise CheckpointError(f"{path} is damaged")
        write_record(record, found, digest)

    def _make_room(self, size_bytes: int) -> None:
        if size_bytes > self.limit_bytes:
            raise CapacityError(f"{size_bytes} bytes are more than the packed cache may take")
        for part in durable.leftovers(self.folder, older_than_s=_ABANDONED_S):
            with suppress(OSError):
                part.unlink()
        entries = sorted(self.folder.glob("*.safetensors"), key=self._last_used)
        taken_bytes = sum(entry.stat().st_size for entry in entries)
        for entry in entries:
            has_room = shutil.disk_usage(self.folder).free >= size_bytes + _SPARE_BYTES
            if has_room and taken_bytes + size_bytes <= self.limit_bytes:
                break
            taken_bytes -= entry.stat().st_size
            self._remove(entry.stem)
        if shutil.disk_usage(self.folder).free < size_bytes + _SPARE_BYTES:
            raise CapacityError(f"{self.folder} has no room for {size_bytes} bytes")

    def _last_used(self, path: Path) -> float:
        record = path.with_suffix(".json")
        return record.stat().st_mtime if record.exists() else 0.0

    def _remove(self, key: str) -> None:
        for path in self._files(key):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _pad(tensor: Tensor) -> Tensor:
    missing = _padded(tensor.numel()) - tensor.numel()
    return torch.nn.functional.pad(tensor, (0, missing)) if missing else tensor
