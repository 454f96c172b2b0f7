"""The scheduler in a world drawn from a seed: any sizes, pools, windows, drafts and prefixes, requests of several
owners that come, are left and are ended at any moment, steps that fail. Every page is right at every step, and every
request ends."""

from __future__ import annotations

import random

from tests.engine.simulation import VOCAB_SIZE, Simulation, pages_to_fit
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.shares import TokenCost

MAX_TOTAL_TOKENS = 40
WINDOWS: tuple[tuple[int | None, ...], ...] = (
    (None,), (1,), (2,), (5,), (8,), (64,), (None, 4), (None, 9, 3), (7, 2),
)  # fmt: skip


def run(seed: int) -> None:
    """Raises AssertionError for a promise that was broken."""
    rng = random.Random(seed)
    simulation = world(rng)
    prefixes = [[rng.randrange(VOCAB_SIZE) for _ in range(30)] for _ in range(3)]
    for _ in range(rng.randint(1, 60)):
        event = rng.random()
        if event < 0.3 or not simulation.scheduler.has_work:
            add_request(simulation, rng, prefixes)
        elif event < 0.36:
            simulation.scheduler.end(rng.choice(simulation.requests), "abort")
        elif event < 0.4:
            request = rng.choice(simulation.requests)
            if request.is_forked:
                simulation.scheduler.finish(rng.choice(request.sequences), "abort")
        else:
            simulation.step(cancel=event < 0.43)
    num_tokens = sum(request.max_total_tokens * request.params.n for request in simulation.requests)
    simulation.run(max_steps=100 + 20 * num_tokens)


def world(rng: random.Random) -> Simulation:
    windows = rng.choice(WINDOWS)
    page_size = rng.randint(1, 9)
    max_sequences = rng.randint(1, 8)
    config = EngineConfig(
        page_size=page_size,
        max_sequences=max_sequences,
        max_batch_tokens=max_sequences + rng.randint(0, 40),
        max_waiting=1000,
        prefix_cache=rng.random() < 0.75,
        aging_steps=rng.randint(1, 20),
        max_shared_cost=rng.randint(1, 40),
    )
    # from a pool that one request fills to one where all fit
    room = rng.choice((1.0, 1.0, 1.1, 1.5, 3.0, 10.0))
    least = pages_to_fit(MAX_TOTAL_TOKENS, page_size, windows)
    guesses_right = rng.choice((None, 0.0, 0.5, 0.9, 1.0))
    token_cost = TokenCost(rng.choice((1.0, 10.0, 1e9)), rng.choice((None, 3)))
    return Simulation(config, windows, tuple(int(pages * room) for pages in least), guesses_right, token_cost)


def add_request(simulation: Simulation, rng: random.Random, prefixes: list[list[int]]) -> None:
    prompt = list(rng.choice(prefixes))[: rng.randint(0, 30)]
    prompt += [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 30))]
    prompt = prompt[: MAX_TOTAL_TOKENS - 1]
    simulation.add(
        prompt,
        rng.randint(0, MAX_TOTAL_TOKENS - len(prompt)),
        n=rng.choice((1, 1, 1, 2, 3, 12)),
        priority=rng.randint(-2, 2),
        owner=rng.choice(("", "alice", "bob", "carol")),
        salt=rng.choice((None, None, "other")),
    )
