"""llama.cpp as a judge: its logits of a GGUF file, and files written by its quantiser."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch


def llama_cpp_logits(path: Path, ids: list[int]) -> torch.Tensor:
    """float32 (T, V) after each token."""
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=512, n_batch=512, n_threads=1, logits_all=True, verbose=False)
    try:
        model.eval(ids)
        return torch.tensor(model.scores[: len(ids)].copy())
    finally:
        model.close()


def quantise_with_llama_cpp(source: Path, out: Path, kind: str, *, pure: bool = False) -> Path:
    """Have llama.cpp write `source` (float weights) again as `kind`, such as Q4_K_M; `pure`: every tensor as that."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    params.pure = pure
    params.nthread = 1
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if failed:
        raise RuntimeError(f"llama.cpp could not quantise {source} to {kind}")
    return out
