from __future__ import annotations

import random

import pytest

from tests.engine.simulation import Simulation
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.prefix_cache import PrefixKey


def simulation(
    windows: tuple[int | None, ...] = (None,), num_pages: tuple[int, ...] = (100,), *, page_size: int = 4
) -> Simulation:
    return Simulation(EngineConfig(page_size=page_size, max_batch_tokens=64, max_sequences=8), windows, num_pages)


def run(sim: Simulation, prompt: list[int], max_tokens: int = 0, salt: str | None = None) -> int:
    """Compute a prompt; the number of its tokens that came from the cache."""
    request = sim.add(prompt, max_tokens, salt=salt, can_stop=False)
    sim.run(1000)
    return request.sequences[0].num_cached_tokens or 0


def test_whole_pages_are_reused_and_the_last_token_is_always_computed() -> None:
    sim = simulation()
    prompt = list(range(1, 13))
    assert run(sim, prompt) == 0
    assert run(sim, prompt) == 8, "12 tokens are three full pages, but the last one's hidden state is needed"
    assert run(sim, [*prompt, 1]) == 12
    assert run(sim, [*prompt[:6], 99, 99, 99]) == 4
    assert run(sim, [99, *prompt]) == 0


def test_answers_are_reused_by_the_next_turn() -> None:
    sim = simulation()
    first = sim.add([1, 2, 3], 20, can_stop=False)
    sim.run(100)
    conversation = first.sequences[0].token_ids
    assert run(sim, [*conversation, 5, 5, 5]) == 20, "23 tokens; the last one drawn was never computed"


def test_windowed_groups_need_only_what_the_next_token_sees() -> None:
    sim = simulation((8,), page_size=4)
    first = sim.add([1, 2, 3], 61, can_stop=False)
    sim.run(100)
    assert run(sim, [*first.sequences[0].token_ids, 5]) == 60
    # the beginning of the answer has left the window, and with it the cache
    assert run(sim, [*first.sequences[0].token_ids[:32], 5]) == 0


def test_a_prompt_stays_cached_behind_the_window() -> None:
    sim = simulation((8,), page_size=4)
    prompt = [random.Random(position).randrange(5) for position in range(64)]
    run(sim, prompt)
    for length in (9, 30, 61):
        assert run(sim, [*prompt[:length], 9]) == length // 4 * 4


def test_a_hit_must_hold_in_every_group() -> None:
    sim = simulation((None, 8), (100, 100), page_size=4)
    prompt = list(range(1, 41))
    run(sim, prompt)
    pool = sim.allocator.pools[1]
    page = sorted(pool.cached)[8]  # positions 32 … 35 of the windowed group
    pool.drop(page)
    assert run(sim, [*prompt, 1]) == 32, "one page fewer in one group: 33 … 40 see it, 32 does not"


def test_salts_keep_tenants_apart() -> None:
    sim = simulation()
    prompt = list(range(1, 30))
    run(sim, prompt, salt="a")
    assert run(sim, prompt, salt="b") == 0
    assert run(sim, prompt) == 0
    assert run(sim, prompt, salt="a") == 28


def test_the_least_recently_used_prefix_goes_first_and_from_its_end() -> None:
    sim = simulation(num_pages=(10,))
    old, new = [1] * 17, [2] * 17
    run(sim, old)
    run(sim, new)  # 2 * 4 full pages cached, 2 free
    run(sim, [3] * 16)
    assert run(sim, new) == 16
    assert run(sim, old) == 4, "three of its pages went to the two requests before"


def test_equal_hashes_never_mix_prompts_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY row 40: with a hash of 8 bits, 10,000 prompts; every key a token sees is its own prompt's."""
    monkeypatch.setattr(PrefixKey, "__hash__", lambda self: hash((self.parent, self.token_ids, self.salt)) & 0xFF)
    sim = simulation(num_pages=(300,), page_size=2)
    rng = random.Random(0)
    scheduler = sim.scheduler
    for _ in range(10_000):
        sim.requests.clear()
        sim.fingerprints.clear()
        request = sim.add([rng.randrange(4) for _ in range(rng.randint(1, 12))], 0, salt=rng.choice([None, "a"]))
        while not request.is_finished:
            plan = scheduler.plan()
            sim.compute(plan)
            scheduler.commit(plan, [])
    assert scheduler.num_cached_tokens > 10_000
    assert len({hash(key) for key in sim.allocator.cache.nodes}) < len(sim.allocator.cache.nodes)


def test_nodes_are_dropped_with_their_pages() -> None:
    sim = simulation((8,), (12,), page_size=4)
    for seed in range(100):
        sim.requests.clear()
        run(sim, [random.Random(seed).randrange(100) for _ in range(60)], 20)
    assert len(sim.allocator.cache.nodes) <= 12 * 20


def test_pages_behind_the_window_of_one_answer_may_be_another_prompts() -> None:
    sim = simulation((8,), page_size=4)
    writer = sim.add([1, 2, 3], 60, can_stop=False).sequences[0]
    while writer.num_generated_tokens < 20:
        sim.step()
    reader = sim.add([*writer.token_ids[:17], 9], 20, can_stop=False).sequences[0]
    sim.step()
    assert reader.num_cached_tokens == 16
    sim.run(100)
