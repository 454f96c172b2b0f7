from __future__ import annotations

import pytest
import torch

from tests.engine.answers import run
from tests.engine.trials import native_model
from tests.model.tiny import tiny_config, tiny_model
from tramontane.config import ModelConfig
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.kv_cache import KvCache, page_bytes, resolve_num_pages
from tramontane.engine.page_allocator import PageCopy
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import CapacityError, ConfigError

CPU = torch.device("cpu")


def mistral_7b(window: int | None) -> ModelConfig:
    return tiny_config(
        dim=4096,
        n_layers=32,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        hidden_dim=14336,
        vocab_size=32000,
        max_seq_len=32768,
        sliding_windows=window,
    )


def num_pages(config: ModelConfig, **sizes: int) -> tuple[int, ...]:
    engine_config = EngineConfig(**sizes)  # type: ignore[arg-type]
    return resolve_num_pages(config, engine_config, torch.bfloat16, CPU)


def test_page_bytes_of_mistral_7b() -> None:
    """128 KiB for each token in bf16: 2 (K and V) * 32 layers * 8 heads * 128 * 2 bytes."""
    assert page_bytes(mistral_7b(None), 16, torch.bfloat16) == (16 * 128 * 1024,)


@pytest.mark.parametrize(
    ("stored", "kv_dtype", "expected", "row_bytes"),
    [
        ("F32", "auto", torch.float32, 16 * 4),
        ("BF16", "auto", torch.float16, 16 * 2),
        ("Q8_0", "auto", torch.float16, 16 * 2),
        ("Q8_0", "float32", torch.float32, 16 * 4),
        ("F32", "bfloat16", torch.bfloat16, 16 * 2),
        ("Q4_K", "q8_0", torch.uint8, 2 * 34),  # of heads of 64
    ],
)
def test_keys_and_values_are_held_as_asked(stored: str, kv_dtype: str, expected: torch.dtype, row_bytes: int) -> None:
    """And the answer follows from what is held: the same as by the operations one by one."""
    model = native_model(stored, (None, 9))
    answers = []
    for decoder in (model.decoder, None):
        model.decoder = decoder
        engine = Engine(model, EngineConfig(kv_dtype=kv_dtype))
        assert {pages.dtype for pages in engine.runner.cache.k_pages} == {expected}
        size = sum(group.page_bytes for group in engine.stats().groups)
        assert size == 2 * 2 * 16 * 2 * row_bytes  # K and V, 2 layers, 16 tokens, 2 heads
        request_id = engine.add(range(30), SamplingParams(max_tokens=8, logprobs=1))
        answers.append(run(engine).of(request_id))
    assert answers[0] == answers[1]


def test_an_unknown_type_of_keys_and_values_is_named() -> None:
    with pytest.raises(ConfigError, match="dtype 'int2' is unknown"):
        Engine(native_model("F32", (None,)), EngineConfig(kv_dtype="int2"))
    with pytest.raises(
        ConfigError, match="needs heads of a multiple of 32 values, and this model's have 16; use float16"
    ):
        Engine(native_model("F32", (None,)), EngineConfig(kv_dtype="q8_0"))


def test_an_engine_on_torch_holds_blocks_too() -> None:
    """The memory is little more than a quarter of float32's, and the answer near: half a step of 1/127 of a block's
    largest value is some four times bfloat16's rounding, which moves these log-probabilities by 0.01."""
    model = tiny_model(tiny_config(head_dim=32))
    logprobs, sizes = [], []
    for kv_dtype in ("float32", "q8_0"):
        engine = Engine(model, EngineConfig(kv_dtype=kv_dtype))
        sizes.append(sum(group.page_bytes for group in engine.stats().groups))
        request_id = engine.add(range(40), SamplingParams(max_tokens=1, logprobs=5))
        logprobs.append(run(engine).of(request_id).logprobs)
    assert sizes[1] * 128 == sizes[0] * 34
    assert 0 < abs(logprobs[0][0].top[0][1] - logprobs[1][0].top[0][1]) < 0.1


def test_the_budget_is_kept_and_used() -> None:
    for budget in (2**28, 2**30, 5 * 2**30):
        [pages] = num_pages(mistral_7b(None), kv_cache_bytes=budget)
        assert budget - 16 * 2**17 < pages * 16 * 2**17 <= budget


def test_no_more_than_all_sequences_together_can_use() -> None:
    [pages] = num_pages(mistral_7b(None), kv_cache_bytes=2**50, max_sequences=3)
    assert pages == 3 * 32768 // 16


def test_a_window_needs_its_window_and_one_chunk() -> None:
    [pages] = num_pages(mistral_7b(4096), kv_cache_bytes=2**50, max_sequences=1, max_batch_tokens=512)
    assert 16 * pages >= 4096 + 511
    assert 16 * pages <= 4096 + 511 + 2 * 16


def test_groups_share_the_budget_by_what_the_longest_sequence_needs() -> None:
    config = tiny_config(n_layers=4, sliding_windows=(None, 100, 100, 100), max_seq_len=10_000)
    full_bytes, window_bytes = page_bytes(config, 16, torch.bfloat16)
    assert window_bytes == 3 * full_bytes
    budget = 625 * full_bytes + 20 * window_bytes
    full, window = num_pages(config, kv_cache_bytes=budget, max_batch_tokens=64)
    assert (full * 16 >= 10_000, window * 16 >= 100 + 63) == (True, True)
    assert full * full_bytes + window * window_bytes <= budget
    # too little for the longest: the windowed group keeps its window, the rest goes to full attention
    full, window = num_pages(config, kv_cache_bytes=budget // 2, max_batch_tokens=64)
    assert 200 < full < 625
    assert window * 16 >= 100 + 63


def test_too_small_a_budget_is_refused_with_numbers() -> None:
    with pytest.raises(
        CapacityError,
        match=r"1,000 bytes is too small .* \(2,097,152 bytes\); make kv_cache_gib \(--kv-cache-gib\) larger",
    ):
        num_pages(mistral_7b(None), kv_cache_bytes=1000)


def test_what_the_machine_cannot_reserve_is_refused() -> None:
    with pytest.raises(CapacityError, match="GiB cannot be reserved on cpu"):
        KvCache(tiny_config(), (2**40,), 16, torch.float32, CPU)


def test_copies_read_before_they_write() -> None:
    cache = KvCache(tiny_config(sliding_windows=(None, 5, None)), (4, 3), 2, torch.float32, CPU)
    for pages in (*cache.k_pages, *cache.v_pages):
        pages.copy_(torch.arange(len(pages))[:, None, None, None].expand_as(pages))
    cache.copy_pages([PageCopy(0, 0, 1), PageCopy(0, 1, 2), PageCopy(1, 2, 0)])
    for layer, expected in enumerate(([0, 0, 1, 3], [2, 1, 2], [0, 0, 1, 3])):
        for pages in (cache.k_pages[layer], cache.v_pages[layer]):
            assert pages[:, 0, 0, 0].tolist() == expected
            assert pages.flatten(1).std(1).max() == 0
