"""What the sliding window of Mistral 7B buys (arXiv:2310.06825, section 2): cache memory, flat streams, long prefill.

Memory is measured on models of Mistral 7B's cache shape but narrow width (the cache's size depends on kv heads, head
dim and layers, not on width), so that 100k tokens pass quickly. Prefill time is measured on one layer of the full
width, and on its attention alone: the same heads in a model of little else. On a CPU both hold packed bfloat16 weights.

    python -m benchmarks.sliding_window
"""

from __future__ import annotations

import dataclasses
import time

import torch

from benchmarks._results import record, rss_bytes, spread
from tramontane.config import ModelConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.model.init import initialise
from tramontane.model.packed import pack
from tramontane.model.transformer import Transformer
from tramontane.ops.cpu import CpuOps

W = 4096
REPEATS = {"attention of one layer": 3, "one layer": 1}

NARROW = ModelConfig(
    family="mistral",
    dim=64,
    n_layers=4,
    n_heads=4,
    n_kv_heads=4,
    head_dim=16,
    hidden_dim=128,
    vocab_size=512,
    norm_eps=1e-5,
    rope_theta=10000.0,
    max_seq_len=131072,
    sliding_windows=(W,) * 4,
)
ATTENTION = dataclasses.replace(NARROW, n_layers=1, n_heads=32, n_kv_heads=8, head_dim=128, sliding_windows=(W,))
LAYER = dataclasses.replace(ATTENTION, dim=4096, hidden_dim=14336)


def build(config: ModelConfig) -> Transformer:
    model = Transformer(config, CpuOps())
    initialise(model, seed=0)
    pack(model, "bf16")
    return model


def without_window(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, sliding_windows=(None,) * config.n_layers)


def token_ids(num_tokens: int) -> list[int]:
    return torch.randint(0, NARROW.vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(0)).tolist()


def engine_for(config: ModelConfig, max_tokens: int) -> Engine:
    return Engine(
        build(config), EngineConfig(num_pages=(max_tokens // 16 + 8,), prefix_cache=False, max_batch_tokens=1024)
    )


def held_bytes(engine: Engine) -> int:
    return sum(group.num_held * group.page_bytes for group in engine.stats().groups)


def cache_at(config: ModelConfig, num_tokens: int) -> int:
    """KV memory held by one sequence once `num_tokens` are computed and it decodes."""
    engine = engine_for(config, num_tokens + 16)
    engine.add(token_ids(num_tokens), SamplingParams(max_tokens=8, ignore_eos=True))
    while engine.stats().num_generated_tokens < 2:
        engine.step()
    return held_bytes(engine)


def stream(num_prompt: int, num_generated: int) -> tuple[list[int], list[int]]:
    """KV and resident memory along a stream of prompt and generated tokens."""
    engine = engine_for(NARROW, W + 2048)
    engine.add(token_ids(num_prompt), SamplingParams(max_tokens=num_generated, ignore_eos=True))
    held, resident = [], []
    while engine.has_work:
        engine.step()
        stats = engine.stats()
        if stats.num_computed_tokens > 2 * W and stats.num_steps % 64 == 0 and stats.num_running:
            held.append(held_bytes(engine))
            resident.append(rss_bytes())
    return held, resident


def prefill_seconds(config: ModelConfig, num_tokens: int) -> float:
    engine = engine_for(config, num_tokens + 16)
    engine.add(token_ids(num_tokens), SamplingParams(max_tokens=1))
    started = time.perf_counter()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def main() -> None:
    windowed, full = cache_at(NARROW, 32768), cache_at(without_window(NARROW), 32768)
    rows = [{"what": "KV memory at 32k tokens, full / windowed", "ratio": full / windowed}]
    held, resident = stream(90_000, 10_000)
    rows.append({"what": "KV memory along a 100k-token stream, max / min", "ratio": max(held) / min(held)})
    rows.append({"what": "resident memory along it, max / min", "ratio": max(resident) / min(resident)})
    for what, config in (("attention of one layer", ATTENTION), ("one layer", LAYER)):
        ratios = []
        for _ in range(REPEATS[what]):
            full_s = prefill_seconds(without_window(config), 16384)
            ratios.append(full_s / prefill_seconds(config, 16384))
        rows.append({"what": f"16k prefill, {what} of Mistral 7B, full / windowed time", "ratio": spread(ratios)})
    record("sliding_window", rows)


if __name__ == "__main__":
    main()
