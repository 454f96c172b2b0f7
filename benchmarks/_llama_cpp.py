"""llama.cpp, as llama-cpp-python brings it, run token by token: the peer of the measurements."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp's messages, dropped."""


class LlamaCpp:
    """One model and one context; sequences are numbered from 0."""

    def __init__(self, path: Path, *, threads: int, max_tokens: int, max_sequences: int = 1) -> None:
        """`max_tokens`: of all sequences together. The file must be one that llama.cpp reads."""
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise ValueError(f"{path} cannot be loaded by llama.cpp")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max_tokens
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = max_sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise ValueError(f"{path}: llama.cpp made no context of {max_tokens} tokens")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def prefill(self, token_ids: Sequence[int], sequence: int = 0, start: int = 0) -> int:
        """Compute a prompt; the likeliest next token."""
        for first in range(0, len(token_ids), 512):
            part = token_ids[first : first + 512]
            last = first + len(part) == len(token_ids)
            rows = [
                (token_id, start + first + i, sequence, last and i == len(part) - 1) for i, token_id in enumerate(part)
            ]
            self._decode(rows)
        return self._likeliest(len(part) - 1)

    def step(self, token_ids: Sequence[int], position: int) -> list[int]:
        """One token of every sequence, all at one position; the likeliest next ones."""
        self._decode([(token_id, position, sequence, True) for sequence, token_id in enumerate(token_ids)])
        return [self._likeliest(row) for row in range(len(token_ids))]

    def _decode(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        batch: Any = self._batch
        batch.n_tokens = len(rows)
        for i, (token_id, position, sequence, wants_logits) in enumerate(rows):
            batch.token[i] = token_id
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wants_logits
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama.cpp could not compute a batch")

    def _likeliest(self, row: int) -> int:
        logits: Any = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._vocab_size,)).argmax())

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)
