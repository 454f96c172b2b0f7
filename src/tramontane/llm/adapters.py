"""AdapterStore: the adapters of one model by name, read from their folders when they are needed."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from pathlib import Path

from tramontane.errors import CapacityError, CheckpointError, ConfigError, RequestError
from tramontane.loading.adapter_files import open_adapter
from tramontane.loading.tokenizer import require_same_tokenizer
from tramontane.model.adapter import Adapter
from tramontane.model.transformer import Transformer
from tramontane.tokenizer import Tokenizer

DEFAULT_BYTES = 2**30


@dataclass(slots=True)
class _Entry:
    folder: Path
    digest: str
    num_bytes: int
    alive: weakref.ref[Adapter]  # what requests still use stays found, in memory's bounds or not
    held: Adapter | None


class AdapterStore:
    """Of the adapters that nobody uses, at most `max_bytes` stay in memory; the one used longest ago goes first and
    comes back from its folder. For use from any thread."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, max_bytes: int = DEFAULT_BYTES) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_bytes = max_bytes
        self.default: str | None = None  # the one that the engine computes with where a request names none
        self._entries: dict[str, _Entry] = {}  # the one used longest ago first
        self._lock = threading.Lock()

    def load(self, folder: Path, name: str | None = None) -> str:
        """Know the adapter in `folder` as `name`, by default the folder's own, and return the name.

        Raises ConfigError or CheckpointError for an adapter that does not fit the model or a name that is taken by
        another, TokenizerError for one that was trained with another tokenizer, CapacityError for one beyond
        `max_bytes`.
        """
        folder = folder.resolve()
        name = name or folder.name
        adapter = open_adapter(folder, self.model)
        require_same_tokenizer(self.tokenizer, folder)
        if adapter.num_bytes > self.max_bytes:
            raise CapacityError(
                f"{folder} takes {adapter.num_bytes:,} bytes, but adapters may take {self.max_bytes:,} in all"
            )
        with self._lock:
            known = self._entries.get(name)
            if known is not None and known.digest != adapter.digest:
                raise ConfigError(f"an adapter named {name!r} is loaded already; unload it or give another name")
            self._hold(name, _Entry(folder, adapter.digest, adapter.num_bytes, weakref.ref(adapter), adapter))
        return name

    def unload(self, name: str) -> None:
        """Forget an adapter; requests that use it go on. Raises RequestError if there is none of that name, or the
        model was opened as it."""
        with self._lock:
            if name == self.default:
                raise RequestError(f"{name!r} is what this model was opened as; to be without it, open its base")
            if self._entries.pop(name, None) is None:
                raise self._unknown(name)

    def get(self, name: str) -> Adapter:
        """Raises RequestError if there is none of that name, CheckpointError if its files are not what they were."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                raise self._unknown(name)
            adapter = entry.held or entry.alive()
            if adapter is None:
                adapter = open_adapter(entry.folder, self.model)
                if adapter.digest != entry.digest:
                    raise CheckpointError(f"{entry.folder} has changed since it was loaded; load it under a new name")
            self._hold(name, _Entry(entry.folder, entry.digest, entry.num_bytes, weakref.ref(adapter), adapter))
            return adapter

    def folder(self, name: str) -> Path:
        """Where an adapter was read from. Raises RequestError if there is none of that name."""
        with self._lock:
            if name not in self._entries:
                raise self._unknown(name)
            return self._entries[name].folder

    @property
    def names(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._entries)

    @property
    def num_bytes(self) -> int:
        """Memory of the adapters held."""
        with self._lock:
            return self._held_bytes()

    def _hold(self, name: str, entry: _Entry) -> None:
        self._entries.pop(name, None)
        self._entries[name] = entry
        for other in self._entries.values():
            if self._held_bytes() <= self.max_bytes:
                break
            other.held = None

    def _held_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self._entries.values() if entry.held is not None)

    def _unknown(self, name: str) -> RequestError:
        known = f"; loaded are {', '.join(sorted(self._entries))}" if self._entries else "; none is loaded"
        return RequestError(f"there is no adapter named {name!r}{known}")
