"""The draw against its definition written out token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tramontane.engine.draw import draw, logsumexp, top_ids, uniform
from tramontane.engine.sampling import SamplingParams


def by_definition(logits: list[float], params: SamplingParams, number: float) -> int:
    kept = list(range(len(logits)))
    if params.temperature == 0:
        return max(kept, key=lambda token_id: (logits[token_id], -token_id))
    highest = max(logits)
    likeliest_first = sorted(kept, key=lambda token_id: (-logits[token_id], token_id))
    weight = [math.exp((value - highest) / params.temperature) for value in logits]
    if params.top_k is not None:
        likeliest_first = likeliest_first[: params.top_k]
    if params.top_p < 1:
        total = math.fsum(weight[token_id] for token_id in likeliest_first)
        count, mass = 0, 0.0
        while mass < params.top_p * total and count < len(likeliest_first):
            mass += weight[likeliest_first[count]]
            count += 1
        likeliest_first = likeliest_first[:count]
    kept = sorted(token_id for token_id in likeliest_first if weight[token_id] >= params.min_p)
    total = math.fsum(weight[token_id] for token_id in kept)
    mass = 0.0
    for token_id in kept:
        mass += weight[token_id]
        if mass > number * total:
            return token_id
    return max(token_id for token_id in kept if weight[token_id] > 0)


# quarters make ties common and every sum exact enough for the two orders of adding up to agree
scores = st.lists(st.integers(-40, 40).map(lambda quarter: quarter / 4), min_size=1, max_size=60)


@settings(max_examples=600, derandomize=True, deadline=None)
@given(
    logits=scores,
    temperature=st.sampled_from([0.0, 1e-300, 0.3, 1.0, 2.5]),
    top_k=st.none() | st.integers(1, 70),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    number=st.sampled_from([0.0, 0.123, 0.5, 0.77, 0.999, 1 - 2**-53]),
)
def test_draw_equals_its_definition(
    logits: list[float], temperature: float, top_k: int | None, top_p: float, min_p: float, number: float
) -> None:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert draw(np.array(logits, np.float32), params, number) == by_definition(logits, params, number)


def test_frequencies_follow_the_distribution() -> None:
    logits = np.array([0.0, 1.0, 2.0, -np.inf, 0.5], np.float32)
    params = SamplingParams(temperature=0.7)
    drawn = [draw(logits, params, uniform(3, 0, position)) for position in range(20_000)]
    weights = np.exp(logits.astype(np.float64) / 0.7)
    frequencies = np.bincount(drawn, minlength=5) / len(drawn)
    assert frequencies[3] == 0
    assert np.abs(frequencies - weights / weights.sum()).max() < 0.012  # 3.5 standard deviations


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = np.full(50, -np.inf, np.float32)
    logits[[7, 30]] = [1.0, 0.5]
    for params in (SamplingParams(temperature=1), SamplingParams(temperature=1, top_k=10, top_p=0.99)):
        drawn = {draw(logits, params, number) for number in np.linspace(0, 1 - 2**-53, 101)}
        assert drawn == {7, 30}


@pytest.mark.parametrize("top_p", [5e-324, 1e-320, 1e-300, 1e-16])
def test_a_top_p_next_to_nothing_leaves_the_likeliest(top_p: float) -> None:
    params = SamplingParams(temperature=1, top_p=top_p)
    for logits in (np.arange(50, dtype=np.float32), np.full(49, 0.1, np.float32), np.zeros(3, np.float32)):
        assert draw(logits, params, 0.7) == int(logits.argmax())


def test_uniform_numbers_depend_on_all_three_and_fill_the_interval() -> None:
    numbers = [uniform(seed, index, position) for seed in range(20) for index in range(20) for position in range(20)]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 1 for number in numbers)
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 43.8  # chi squared, 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.04
    assert uniform(2**63 - 1, 1023, 10**6) == uniform(2**63 - 1, 1023, 10**6)


def test_uniform_is_splitmix64() -> None:
    """The first output of splitmix64 seeded with 0 is 0xE220A8397B1DCDAF; ours chains three such rounds."""
    first = 0xE220A8397B1DCDAF

    def mix(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        return state ^ state >> 31

    assert mix(0) == first
    assert uniform(0, 0, 0) == (mix(mix(first)) >> 11) / 2**53


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_top_ids_prefers_lower_ids_in_a_tie(k: int) -> None:
    logits = [1.0, 3.0, 1.0, 3.0, 2.0, 1.0, 3.0]
    expected = sorted(sorted(range(7), key=lambda token_id: (-logits[token_id], token_id))[:k])
    assert top_ids(np.array(logits, np.float32), k).tolist() == expected


def test_logsumexp_is_stable() -> None:
    assert logsumexp(np.array([1000.0, 1000.0], np.float32)) == pytest.approx(1000 + math.log(2), abs=1e-12)
    assert logsumexp(np.array([-1e30, 0.0, -np.inf], np.float32)) == 0
