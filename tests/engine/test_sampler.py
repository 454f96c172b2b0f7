"""What happens to scores before the draw, seen from outside: through an engine, against definitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from tests.engine.answers import TOLERANCE, VOCAB_SIZE, Answer, model, raw_logprobs, run
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams

PROMPT = [5, 17, 17, 80, 3, 5, 99, 41]
Adjust = Callable[[list[float], Sequence[int]], list[float]]


def answer(params: SamplingParams, *, eos: tuple[int, ...] = (), prompt: Sequence[int] = PROMPT) -> Answer:
    engine = Engine(model(), EngineConfig(eos_token_ids=eos, max_sequences=4))
    request_id = engine.add(prompt, params)
    return run(engine).of(request_id)


def greedy_by_definition(adjust: Adjust, num_tokens: int) -> list[int]:
    """The likeliest token after `adjust(logits, generated)`, again and again, by whole forward passes."""
    generated: list[int] = []
    for _ in range(num_tokens):
        logits = raw_logprobs(model(), [*PROMPT, *generated])[-1].tolist()
        adjusted = adjust(logits, generated)
        generated.append(max(range(VOCAB_SIZE), key=lambda token_id: (adjusted[token_id], -token_id)))
    return generated


def raw(logits: list[float], generated: Sequence[int]) -> list[float]:
    return logits


def test_greedy_takes_the_likeliest() -> None:
    assert answer(SamplingParams(max_tokens=8)).token_ids == greedy_by_definition(raw, 8)


@pytest.mark.parametrize(("presence", "frequency"), [(1.5, 0.0), (0.0, 1.2), (-1.0, 0.6), (0.8, -0.7)])
def test_presence_and_frequency_count_generated_tokens_only(presence: float, frequency: float) -> None:
    def adjust(logits: list[float], generated: Sequence[int]) -> list[float]:
        counts = Counter(generated)
        return [x - presence * (counts[i] > 0) - frequency * counts[i] for i, x in enumerate(logits)]

    params = SamplingParams(max_tokens=15, presence_penalty=presence, frequency_penalty=frequency)
    assert answer(params).token_ids == greedy_by_definition(adjust, 15)
    assert greedy_by_definition(adjust, 15) != greedy_by_definition(raw, 15)


@pytest.mark.parametrize("penalty", [1.4, 0.7])
def test_repetition_penalty_covers_prompt_and_answer(penalty: float) -> None:
    generated: list[int] = []
    with torch.no_grad():
        for _ in range(12):  # on raw scores this time: their sign matters
            engine = Engine(model(), EngineConfig(max_sequences=1))
            logits = engine.logits([*PROMPT, *generated])[-1].tolist()
            for token_id in {*PROMPT, *generated}:
                value = logits[token_id]
                logits[token_id] = value / penalty if value > 0 else value * penalty
            generated.append(max(range(VOCAB_SIZE), key=lambda token_id: logits[token_id]))
    assert answer(SamplingParams(max_tokens=12, repetition_penalty=penalty)).token_ids == generated
    assert generated != greedy_by_definition(raw, 12)


def test_many_distinct_tokens_are_counted() -> None:
    """More than the 64 that the counters first have room for."""
    prompt = [*range(90), *range(90)]
    result = answer(SamplingParams(max_tokens=11, repetition_penalty=100.0, logit_bias={}), prompt=prompt)
    assert len({*result.token_ids} - {*range(90)}) > 5


def test_logit_bias_and_min_tokens() -> None:
    wanted = SamplingParams(max_tokens=6, logit_bias={42: 100.0})
    assert answer(wanted).token_ids == [42] * 6
    banned = SamplingParams(max_tokens=6, logit_bias={greedy_by_definition(raw, 1)[0]: -100.0})
    assert answer(banned).token_ids[0] != greedy_by_definition(raw, 1)[0]
    stop = SamplingParams(max_tokens=9, min_tokens=4, logit_bias={42: 100.0, 7: 50.0}, stop_token_ids=(42,))
    assert answer(stop).token_ids == [7, 7, 7, 7, 42]
    assert answer(stop).finish_reason == "stop"


def test_end_of_sequence_and_ignore_eos() -> None:
    params = SamplingParams(max_tokens=5, logit_bias={42: 100.0})
    assert (answer(params, eos=(42,)).token_ids, answer(params, eos=(42,)).finish_reason) == ([42], "stop")
    ignoring = SamplingParams(max_tokens=5, logit_bias={42: 100.0}, ignore_eos=True)
    assert (answer(ignoring, eos=(42,)).token_ids, answer(ignoring, eos=(42,)).finish_reason) == ([42] * 5, "length")
    # stop_token_ids are the request's own wish and hold even then
    own = SamplingParams(max_tokens=5, logit_bias={42: 100.0}, ignore_eos=True, stop_token_ids=(42,))
    assert answer(own, eos=(42,)).token_ids == [42]


def test_logprobs_are_of_the_raw_distribution() -> None:
    params = SamplingParams(
        max_tokens=6, temperature=2.0, seed=1, top_k=3, logprobs=4, logit_bias={9: 5.0}, presence_penalty=1.0
    )
    result = answer(params)
    expected_TV = raw_logprobs(model(), [*PROMPT, *result.token_ids])
    assert len(result.logprobs) == 6
    for position, entry in enumerate(result.logprobs, start=len(PROMPT) - 1):
        assert entry.token_id == result.token_ids[position - len(PROMPT) + 1]
        assert abs(entry.logprob - float(expected_TV[position, entry.token_id])) <= TOLERANCE
        assert [i for i, _ in entry.top] == expected_TV[position].topk(4).indices.tolist()
        assert [x for _, x in entry.top] == sorted((x for _, x in entry.top), reverse=True)
    assert all(entry.top == () for entry in answer(SamplingParams(max_tokens=3, logprobs=0)).logprobs)
    assert len(answer(SamplingParams(max_tokens=1, logprobs=1000)).logprobs[0].top) == VOCAB_SIZE
    assert math.fsum(math.exp(x) for _, x in answer(SamplingParams(max_tokens=1, logprobs=1000)).logprobs[0].top) == (
        pytest.approx(1, abs=1e-9)
    )


def test_prompt_logprobs() -> None:
    result = answer(SamplingParams(max_tokens=2, prompt_logprobs=2))
    expected_TV = raw_logprobs(model(), PROMPT)
    assert result.prompt_logprobs is not None
    first, *rest = result.prompt_logprobs
    assert first is None
    assert [entry.token_id for entry in rest if entry] == PROMPT[1:]
    for position, entry in enumerate(rest):
        assert entry is not None
        assert abs(entry.logprob - float(expected_TV[position, PROMPT[position + 1]])) <= TOLERANCE
        assert [i for i, _ in entry.top] == expected_TV[position].topk(2).indices.tolist()


class Alternate:
    """Allows only even tokens at even places and odd ones at odd places; counts its own calls."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, generated: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        assert len(generated) == self.num_calls, "a state shared with another answer"
        self.num_calls += 1
        logits_V[(len(generated) + 1) % 2 :: 2] = float("-inf")
        return logits_V

    def clone(self) -> Alternate:
        return Alternate()


def test_logits_processors_run_first_and_are_cloned_for_each_answer() -> None:
    processor = Alternate()
    params = SamplingParams(max_tokens=6, n=3, temperature=1.0, seed=2, logits_processors=(processor,))
    engine = Engine(model(), EngineConfig(max_sequences=4))
    request_id = engine.add(PROMPT, params)
    answers = run(engine)
    for index in range(3):
        assert [token_id % 2 for token_id in answers.of(request_id, index).token_ids] == [0, 1, 0, 1, 0, 1]
    assert processor.num_calls == 0


def _fail(generated: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
    if len(generated) == 2:
        raise KeyError("grammar")
    return logits_V


def _forbid_all(generated: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
    return torch.full_like(logits_V, float("-inf"))


def _make_nan(generated: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
    return logits_V * float("nan")


def _reshape(generated: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
    return logits_V[None]


def _lose_precision(generated: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
    return logits_V.to(torch.float64)


@pytest.mark.parametrize(
    ("processor", "num_tokens", "message"),
    [
        (_fail, 2, "logits processor failed: KeyError: 'grammar'"),
        (_forbid_all, 0, "leave no token"),
        (_make_nan, 0, "leave no token"),
        (_reshape, 0, "ValueError: returned torch.float32"),
        (_lose_precision, 0, "ValueError: returned torch.float64"),
    ],
)
def test_a_failing_processor_ends_its_own_answer_only(
    processor: Callable[[Sequence[int], torch.Tensor], torch.Tensor], num_tokens: int, message: str
) -> None:
    engine = Engine(model(), EngineConfig(max_sequences=4))
    bad = engine.add(PROMPT, SamplingParams(max_tokens=6, logits_processors=(processor,)))
    good = engine.add(PROMPT, SamplingParams(max_tokens=6))
    answers = run(engine)
    assert answers.of(bad).finish_reason == "error"
    assert message in (answers.of(bad).error or "")
    assert len(answers.of(bad).token_ids) == num_tokens
    assert answers.of(good).token_ids == greedy_by_definition(raw, 6)
    assert answers.of(good).error is None


def test_scores_that_are_not_finite_end_the_answer_with_an_error() -> None:
    engine = Engine(model(), EngineConfig(max_sequences=4))
    logits = engine.model.logits
    for broken in (float("nan"), float("inf")):
        request_id = engine.add(PROMPT, SamplingParams(max_tokens=6))
        engine.sampler.model = _Broken(logits, broken)  # type: ignore[assignment]
        assert run(engine).of(request_id).finish_reason == "error"


class _Broken:
    def __init__(self, logits: Callable[[torch.Tensor], torch.Tensor], value: float) -> None:
        self._logits, self._value = logits, value

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = self._logits(hidden)
        scores[:, 3] = self._value
        return scores


def test_scores_in_blocks_equal_scores_at_once() -> None:
    """A bound of two rows of scores: same answers, same prompt logprobs, and no larger block is ever made."""
    engine = Engine(model(), EngineConfig(max_sequences=8, max_logits_bytes=2 * 4 * VOCAB_SIZE))
    assert engine.max_logits_rows == 2
    params = SamplingParams(max_tokens=5, prompt_logprobs=0)
    ids = [engine.add([*PROMPT, token_id], params) for token_id in range(5)]
    answers = run(engine)
    for token_id, request_id in enumerate(ids):
        expected = answer(params, prompt=[*PROMPT, token_id])
        assert answers.of(request_id).token_ids == expected.token_ids
        for a, b in zip(answers.of(request_id).prompt_logprobs or (), expected.prompt_logprobs or (), strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or abs(a.logprob - b.logprob) <= TOLERANCE
