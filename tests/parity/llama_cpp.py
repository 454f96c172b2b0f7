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


def quantise_with_llama_cpp(source: Path, out: Path, kind: str) -> Path:
    """Have llama.cpp write `source` (float weights) again as `kind`, such as Q4_K_M."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    names = {"Q8_0": "MOSTLY_Q8_0", "Q4_0": "MOSTLY_Q4_0", "Q4_K_M": "MOSTLY_Q4_K_M", "Q6_K": "MOSTLY_Q6_K"}
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{names[kind]}")
    params.nthread = 1
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    if failed:
        raise RuntimeError(f"llama.cpp could not quantise {source} to {kind}")
    return out
