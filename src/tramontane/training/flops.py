"""The arithmetic of training, counted; and the machine's own rate, measured, to show the share that is reached."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from tramontane.config import ModelConfig
from tramontane.training.microbatch import visible_pairs


def forward_flops(config: ModelConfig, document_lens: Sequence[int]) -> float:
    """Floating-point operations of one forward pass over packed documents: 2 for each multiply-add of the matrix
    products and of attention's visible (query, key) pairs; everything else is left out."""
    num_tokens = sum(document_lens)
    attention = config.dim * config.head_dim * (2 * config.n_heads + 2 * config.n_kv_heads)
    active = 1 if config.moe is None else config.moe.num_experts_per_tok
    router = 0 if config.moe is None else config.dim * config.moe.num_experts
    weights = config.n_layers * (attention + 3 * config.dim * config.hidden_dim * active + router)
    weights += config.vocab_size * config.dim
    lens = tuple(document_lens)
    pairs = {window: visible_pairs(lens, window) for window in set(config.sliding_windows)}
    scores = sum(pairs[window] for window in config.sliding_windows)
    return 2.0 * weights * num_tokens + 4.0 * config.n_heads * config.head_dim * scores


def training_flops(config: ModelConfig, document_lens: Sequence[int], *, trains_weights: bool = True) -> float:
    """Forward and backward: three passes; two where the weights are frozen and only pass the gradient on."""
    return forward_flops(config, document_lens) * (3 if trains_weights else 2)


def measure_matmul_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.3) -> float:
    """Floating-point operations per second of square matrix products: the ceiling to compare with.

    The best repetition of any size, each with its part of `seconds`: other programs on the machine only ever slow it
    down, so that many short products find the moments in which nothing else runs.
    """
    on_gpu = device.type == "cuda"
    best = 0.0
    for size in (8192,) if on_gpu else (256, 512, 1024):
        generator = torch.Generator(device).manual_seed(0)
        left, right = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
        end = time.monotonic() + seconds / (1 if on_gpu else 3)
        while True:
            start = time.perf_counter()
            left @ right
            if on_gpu:
                torch.cuda.synchronize(device)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
            if time.monotonic() >= end:
                break
        if 2 * (2 * size) ** 3 / best > seconds:  # processors without this type's products take minutes for large ones
            break
    return best
