"""Results do not depend on company: alone, in any batch, in any chunks, cold or cached, preempted or not."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.answers import TOLERANCE, VOCAB_SIZE, Answer, Answers, model, raw_logprobs, run
from tests.engine.simulation import pages_to_fit
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import CapacityError

Windows = tuple[int | None, ...]
MAX_TOTAL_TOKENS = 60
WINDOWS: list[Windows] = [(None, None, None), (7, 7, 7), (None, 9, 3)]

GREEDY = SamplingParams(max_tokens=12, logprobs=2)
SAMPLED = SamplingParams(max_tokens=12, logprobs=2, temperature=1.5, top_k=60, top_p=0.95, min_p=0.001, seed=11)
PENALISED = SamplingParams(
    max_tokens=12, temperature=0.8, seed=5, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2
)
SCORED = SamplingParams(max_tokens=4, prompt_logprobs=1, logprobs=0)
KINDS = [GREEDY, SAMPLED, PENALISED, SCORED]


@cache
def alone(windows: Windows, prompt: tuple[int, ...], kind: int, index: int = 0) -> Answer:
    """The answer of an engine that computes nothing else, in one piece, with room to spare and an empty cache."""
    config = EngineConfig(page_size=16, max_batch_tokens=512, max_sequences=1, prefix_cache=False)
    engine = Engine(model(windows), config)
    request_id = engine.add(prompt, KINDS[kind], first_index=index)
    return run(engine).of(request_id, index)


def random_prompts(rng: random.Random, count: int) -> list[tuple[int, ...]]:
    """Prompts that share beginnings, some of them wholly."""
    stems = [[rng.randrange(VOCAB_SIZE) for _ in range(40)] for _ in range(3)]
    prompts = []
    for _ in range(count):
        stem = rng.choice(stems)[: rng.randint(0, 40)]
        prompts.append(tuple(stem + [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 1, 3, 8]))]))
    return prompts


def assert_same(answer: Answer, expected: Answer) -> None:
    """Bit for bit, log-probabilities included."""
    assert answer == replace(expected, num_cached_tokens=answer.num_cached_tokens)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("kind", [0, 1])
def test_decoding_equals_one_pass_over_the_whole_text(windows: Windows, kind: int) -> None:
    for prompt in random_prompts(random.Random(kind), 6):
        answer = alone(windows, prompt, kind)
        text = [*prompt, *answer.token_ids]
        expected_TV = raw_logprobs(model(windows), text)
        for position, entry in enumerate(answer.logprobs, start=len(prompt) - 1):
            assert abs(entry.logprob - float(expected_TV[position, entry.token_id])) <= TOLERANCE
            values, ids = expected_TV[position].topk(2)
            assert [token_id for token_id, _ in entry.top] == ids.tolist()
            assert max(abs(a - b) for (_, a), b in zip(entry.top, values.tolist(), strict=True)) <= TOLERANCE
            if kind == 0:
                assert entry.token_id == int(expected_TV[position].argmax())


@st.composite
def crowded_engines(draw: st.DrawFn) -> tuple[Windows, EngineConfig]:
    """Engines that must chunk, share and preempt: from a pool that one request fills to ample room."""
    windows = draw(st.sampled_from(WINDOWS))
    page_size = draw(st.integers(1, 20))
    max_sequences = draw(st.integers(1, 12))
    room = draw(st.sampled_from([1.0, 1.2, 2.0, 5.0]))
    groups = model(windows).config.windows
    config = EngineConfig(
        page_size=page_size,
        max_sequences=max_sequences,
        max_batch_tokens=max_sequences + draw(st.sampled_from([0, 1, 5, 20, 200])),
        max_waiting=100,
        num_pages=tuple(int(n * room) for n in pages_to_fit(MAX_TOTAL_TOKENS, page_size, groups)),
        prefix_cache=draw(st.sampled_from([True, True, True, False])),
    )
    return windows, config


@settings(max_examples=15, derandomize=True, deadline=None)
@given(crowd=crowded_engines(), seed=st.integers(0, 2**32))
def test_any_company_leaves_every_answer_as_it_is_alone(crowd: tuple[Windows, EngineConfig], seed: int) -> None:
    windows, config = crowd
    rng = random.Random(seed)
    engine = Engine(model(windows), config)
    answers = Answers()
    wanted: dict[int, tuple[tuple[int, ...], int]] = {}
    doomed: list[int] = []
    arrivals = [(prompt, rng.randrange(len(KINDS))) for prompt in random_prompts(random.Random(seed % 7), 14)]

    def disturb() -> None:
        while arrivals and rng.random() < 0.4:
            prompt, kind = arrivals.pop()
            wanted[engine.add(prompt, KINDS[kind], priority=rng.randint(-1, 1))] = (prompt, kind)
        if rng.random() < 0.15:
            prompt = random_prompts(rng, 1)[0]
            doomed.append(engine.add(prompt, rng.choice(KINDS), priority=rng.randint(-2, 2)))
        if doomed and rng.random() < 0.3:
            engine.abort(doomed.pop(rng.randrange(len(doomed))))

    while arrivals:
        disturb()
        answers.read(engine.step())
        engine.check_integrity()
    run(engine, answers=answers)
    for request_id, (prompt, kind) in wanted.items():
        assert_same(answers.of(request_id), alone(windows, prompt, kind))


def test_one_among_thirty_two_others() -> None:
    windows = WINDOWS[2]
    prompts = random_prompts(random.Random(3), 33)
    engine = Engine(model(windows), EngineConfig(page_size=8, max_sequences=33, max_batch_tokens=64))
    ids = [engine.add(prompt, KINDS[n % len(KINDS)]) for n, prompt in enumerate(prompts)]
    answers = run(engine)
    for n, (request_id, prompt) in enumerate(zip(ids, prompts, strict=True)):
        assert_same(answers.of(request_id), alone(windows, prompt, n % len(KINDS)))


@pytest.mark.parametrize("page_size", [1, 3, 16, 64, 512])
@pytest.mark.parametrize("max_batch_tokens", [1, 7, 512])
def test_pages_and_chunks_of_any_size(page_size: int, max_batch_tokens: int) -> None:
    windows = WINDOWS[2]
    config = EngineConfig(page_size=page_size, max_batch_tokens=max_batch_tokens, max_sequences=1)
    engine = Engine(model(windows), config)
    prompts = random_prompts(random.Random(4), 4)
    for kind in range(len(KINDS)):
        ids = [engine.add(prompt, KINDS[kind]) for prompt in prompts]
        answers = run(engine)
        for request_id, prompt in zip(ids, prompts, strict=True):
            assert_same(answers.of(request_id), alone(windows, prompt, kind))


@pytest.mark.parametrize("windows", WINDOWS)
def test_a_cached_prefix_changes_nothing(windows: Windows) -> None:
    engine = Engine(model(windows), EngineConfig(page_size=4, max_sequences=4))
    num_cached = 0
    for prompt in random_prompts(random.Random(6), 6) * 2:
        for kind in range(len(KINDS)):
            request_id = engine.add(prompt, KINDS[kind])
            answer = run(engine).of(request_id)
            assert_same(answer, alone(windows, prompt, kind))
            num_cached += answer.num_cached_tokens
    assert num_cached > 400


@pytest.mark.parametrize("room", [1.0, 1.5, 20.0])
def test_answers_of_one_request_equal_separate_runs(room: float) -> None:
    """n = 5 forks, with copies, preemptions and more answers than may run at once."""
    windows = WINDOWS[2]
    pages = pages_to_fit(40, 4, model(windows).config.windows)
    config = EngineConfig(
        page_size=4, max_sequences=3, max_batch_tokens=9, num_pages=tuple(int(n * room) for n in pages)
    )
    engine = Engine(model(windows), config)
    prompts = [prompt[:26] for prompt in random_prompts(random.Random(8), 3)]
    params = replace(SAMPLED, n=5)
    ids = [engine.add(prompt, params) for prompt in prompts]
    answers = run(engine)
    for request_id, prompt in zip(ids, prompts, strict=True):
        for index in range(5):
            assert_same(answers.of(request_id, index), alone(windows, prompt, 1, index))
    assert len({tuple(answers.of(ids[0], index).token_ids) for index in range(5)}) > 1
    assert (engine.stats().num_preemptions > 0) == (room < 20)


def test_nonces_never_cross_over() -> None:
    """SECURITY: requests that repeat their own nonce, with aborts and evictions all around; no foreign nonce ever."""
    windows = WINDOWS[1]
    config = EngineConfig(page_size=2, max_sequences=6, max_batch_tokens=24, max_waiting=8, num_pages=(30,))
    engine = Engine(model(windows), config)
    rng = random.Random(12)
    answers = Answers()
    nonce_of: dict[int, int] = {}
    alive: list[int] = []
    while len(nonce_of) < 300:
        nonce = rng.randrange(VOCAB_SIZE)
        # a huge bias makes the echo certain; what is at stake is whose scores, biases and tokens are put together
        params = SamplingParams(max_tokens=rng.randint(1, 6), logit_bias={nonce: 100})
        try:
            request_id = engine.add([5, 5, 5, nonce, *[7] * rng.randint(0, 9)], params)
        except CapacityError:
            answers.read(engine.step())
            continue
        nonce_of[request_id] = nonce
        alive.append(request_id)
        if rng.random() < 0.3:
            engine.abort(rng.choice(alive))
        if rng.random() < 0.3:
            answers.read(engine.step())
            engine.check_integrity()
    run(engine, answers=answers)
    for sequence_id, answer in answers.of_sequence.items():
        assert set(answer.token_ids) <= {nonce_of[sequence_id.request_id]}
    assert sum(answer.finish_reason == "length" for answer in answers.of_sequence.values()) > 100
