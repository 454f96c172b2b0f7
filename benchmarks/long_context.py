"""Decoding behind a long context, without a window: one token after 16,384 cached ones against one after 100.

Two layers of Mistral 7B's shape, for each weight format and each type of keys and values. The cache is filled with
random values instead of being computed: what a step costs does not depend on them. The output matrix is left out; it is
2 % of the whole model. All cases take turns in every repetition.

    python -m benchmarks.long_context
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from benchmarks._engine import read_bandwidth
from benchmarks._results import record, spread
from benchmarks.sliding_window import LAYER
from tramontane.engine.batch import PagedAttention
from tramontane.engine.kv_cache import KvCache, token_bytes
from tramontane.model.forward_input import ForwardInput
from tramontane.model.init import initialise
from tramontane.model.packed import pack
from tramontane.model.transformer import Transformer
from tramontane.ops.cpu import CpuOps
from tramontane.ops.packed_weight import WeightFormat
from tramontane.ops.page_types import PAGE_TYPES, to_page_type
from tramontane.ops.paged import PagedBatch, PagedStep

N_LAYERS = 2
SHORT, LONG = 100, 16384
PAGE_SIZE = 16
NUM_PAGES = LONG // PAGE_SIZE + 1
CONFIG = replace(LAYER, n_layers=N_LAYERS, sliding_windows=(None,) * N_LAYERS)
WEIGHT_FORMATS: tuple[WeightFormat, ...] = ("q4_0", "q8_0")
KV_DTYPES = ("float16", "bfloat16", "q8_0")
STEPS = 4
REPEATS = 7


def build(weight_format: WeightFormat) -> Transformer:
    model = Transformer(CONFIG, CpuOps())
    initialise(model, seed=0)
    model.requires_grad_(False)
    pack(model, weight_format)
    assert model.decoder is not None
    return model


def filled_cache(kv_dtype: str) -> KvCache:
    dtype = PAGE_TYPES[kv_dtype]
    cache = KvCache(CONFIG, (NUM_PAGES,), PAGE_SIZE, dtype, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for pages in (*cache.k_pages, *cache.v_pages):
        values = torch.randn(NUM_PAGES, PAGE_SIZE, CONFIG.n_kv_heads, CONFIG.head_dim, generator=generator)
        pages.copy_(to_page_type(values, dtype))
    return cache


def step_after(model: Transformer, cache: KvCache, num_cached: int) -> Callable[[], object]:
    """One decoding step at position `num_cached`, ready to be called again and again."""
    position = torch.tensor([num_cached])
    int32 = torch.int32
    batch = PagedBatch(
        PAGE_SIZE,
        torch.tensor([0, 1], dtype=int32),
        position.to(int32),
        torch.arange(NUM_PAGES, dtype=int32)[None],
        torch.zeros(1, dtype=int32),
    )
    paged = PagedStep(
        cache.k_pages, cache.v_pages, cache.group_of_layer, cache.windows, [position], [batch], num_cached + 1
    )
    attention = PagedAttention(model.ops, cache, [position], [batch])
    forward_input = ForwardInput(torch.tensor([1]), position, attention, None, paged)
    return lambda: model(forward_input)


def seconds_of(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    return (time.perf_counter() - started) / STEPS


def main() -> None:
    models = {weight_format: build(weight_format) for weight_format in WEIGHT_FORMATS}
    caches = {kv_dtype: filled_cache(kv_dtype) for kv_dtype in KV_DTYPES}
    steps = {
        (weight_format, kv_dtype, num_cached): step_after(model, cache, num_cached)
        for weight_format, model in models.items()
        for kv_dtype, cache in caches.items()
        for num_cached in (SHORT, LONG)
    }
    seconds: dict[tuple[str, str, int], list[float]] = {case: [] for case in steps}
    for step in steps.values():
        step()
    for _ in range(REPEATS):
        for case, step in steps.items():
            seconds[case].append(seconds_of(step))
    bandwidth = read_bandwidth(torch.ones(2**27))
    rows = []
    for weight_format, model in models.items():
        for kv_dtype in KV_DTYPES:
            short, long = (seconds[weight_format, kv_dtype, num_cached] for num_cached in (SHORT, LONG))
            kv_bytes = LONG * N_LAYERS * token_bytes(CONFIG, PAGE_TYPES[kv_dtype])
            rows.append(
                {
                    "what": f"decode after {LONG} / after {SHORT} tokens, {weight_format} weights, {kv_dtype} keys",
                    "ratio": spread([b / a for a, b in zip(short, long, strict=True)]),
                    "ms_per_layer": spread([1000 * each / N_LAYERS for each in long]),
                    "read_gb_per_s": (model.weights_bytes + kv_bytes) / spread(long)["p50"] / 1e9,
                    "machine_gb_per_s": bandwidth / 1e9,
                }
            )
    record("long_context", rows)


if __name__ == "__main__":
    main()
