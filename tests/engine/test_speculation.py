"""What is guessed, how much, and that guessing changes nothing but speed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.engine.answers import Answer, run
from tests.engine.trials import FreeRows, native_model
from tests.model.tiny import tiny_config, tiny_model
from tramontane.engine.draft_model import DraftModel
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.engine.speculation import OWN_TEXT, Acceptance, StepCosts
from tramontane.engine.token_index import MAX_MATCH, TokenIndex
from tramontane.errors import ConfigError, RequestError
from tramontane.model.lora import attach_lora

MODEL = native_model("Q8_0", (None, 9))
PROMPT = [random.Random(0).randrange(101) for _ in range(30)]


def test_the_longest_match_is_found_and_the_latest_of_equals() -> None:
    index = TokenIndex()
    assert index.find([1, 2]) == (0, 0)
    index.extend([7, 1, 2, 3, 9, 1, 2, 4])
    index.extend([8, 1, 2])
    assert index.find([5, 1, 2]) == (7, 2)
    assert index.find([7, 1, 2]) == (3, 3)
    assert index.find([9, 1, 2]) == (7, 3)
    assert index.find([2]) == (0, 0)
    assert index.find([2, 1]) == (0, 0)
    assert index.find(index.token_ids) == (7, 2)  # not itself
    assert index.read(7, 3) == [4, 8, 1]


def test_a_text_that_repeats_is_continued_past_its_end() -> None:
    index = TokenIndex()
    index.extend([4, 5, 6] * 10)
    place, match_len = index.find(index.token_ids)
    assert match_len == MAX_MATCH
    assert index.read(place, 8) == ([4, 5, 6] * 3)[:8]


def test_random_texts_are_searched_as_by_hand() -> None:
    rng = random.Random(1)
    for _ in range(300):
        text = [rng.randrange(3) for _ in range(rng.randint(0, 40))]
        index = TokenIndex()
        while len(index.token_ids) < len(text):
            index.extend(text[len(index.token_ids) :][: rng.randint(1, 5)])
        place, match_len = index.find(text)
        if place == 0:
            assert all(text[i : i + 2] != text[-2:] for i in range(len(text) - 2))
        else:
            assert text[place - match_len : place] == text[-match_len:]
            assert match_len == MAX_MATCH or place == match_len or text[place - match_len - 1] != text[-match_len - 1]


def test_what_a_row_costs_is_learnt_and_forgotten() -> None:
    costs = StepCosts()
    assert costs.per_row(1) == StepCosts.PRIOR
    rng = random.Random(2)
    for _ in range(300):
        rows = rng.randint(1, 17)
        costs.observe(rows, 0.01 * (1 + 0.5 * (rows - 1)))
    assert costs.per_row(1) == pytest.approx(0.5, rel=0.1)
    assert costs.per_row(17) == pytest.approx(0.5 / 9, rel=0.1)
    for _ in range(300):
        rows = rng.randint(1, 17)
        costs.observe(rows, 0.01 * (1 + 0.01 * (rows - 1)))
    assert costs.per_row(1) < 0.03


def test_guessing_stops_where_it_does_not_pay_and_is_tried_again() -> None:
    acceptance = Acceptance(OWN_TEXT)
    assert acceptance.best_len(16, 16, cost=0.02) == 16
    assert acceptance.best_len(16, 16, cost=3.0) == 0
    assert acceptance.best_len(4, 16, cost=0.1) > 0
    for _ in range(20):
        acceptance.count(4, 3, 0)
    assert acceptance.best_len(4, 16, cost=0.1) == 0
    num_skips = 0
    while not acceptance.best_len(4, 16, cost=0.1):
        acceptance.skip(4)
        num_skips += 1
    assert 50 < num_skips < 500


def answer(params: SamplingParams, prompt: list[int] = PROMPT, **changes: int) -> tuple[Answer, Engine]:
    engine = Engine(MODEL, EngineConfig(**changes))  # type: ignore[arg-type]
    if engine.lookup is not None:
        engine.lookup.costs = FreeRows()
    request_id = engine.add(prompt, params)
    return run(engine).of(request_id), engine


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_right_prediction_saves_most_steps_and_changes_nothing(temperature: float) -> None:
    params = SamplingParams(max_tokens=60, temperature=temperature, seed=1, logprobs=1)
    plain, slow = answer(params, max_draft_tokens=0)
    predicted, fast = answer(replace(params, prediction=tuple(plain.token_ids)))
    assert predicted == plain
    assert slow.stats().num_steps == 60
    assert fast.stats().num_steps <= 8
    half = [token if n % 10 else 0 for n, token in enumerate(plain.token_ids)]
    mended, engine = answer(replace(params, prediction=tuple(half)))
    assert mended == plain
    assert engine.stats().num_steps < 40


def test_a_prompt_that_repeats_is_copied_from() -> None:
    params = SamplingParams(max_tokens=60)
    plain, _ = answer(params, max_draft_tokens=0)
    again = [*PROMPT, *plain.token_ids, *PROMPT]
    expected, slow = answer(params, prompt=again, max_draft_tokens=0)
    copied, fast = answer(params, prompt=again)
    assert copied == expected
    assert fast.stats().num_accepted_tokens > 0
    assert fast.stats().num_steps < slow.stats().num_steps


def test_a_stop_token_among_the_guesses_ends_the_answer() -> None:
    sampled = SamplingParams(max_tokens=40, temperature=1.0, seed=2)
    plain, _ = answer(sampled, max_draft_tokens=0)
    stop = next(token for n, token in enumerate(plain.token_ids) if n > 10 and token not in plain.token_ids[:n])
    params = replace(sampled, stop_token_ids=(stop,))
    expected, _ = answer(params, max_draft_tokens=0)
    found, engine = answer(replace(params, prediction=tuple(plain.token_ids)))
    assert found == expected
    assert found.finish_reason == "stop"
    assert engine.stats().num_accepted_tokens > 0


def test_no_more_rows_of_scores_than_allowed() -> None:
    plain, _ = answer(SamplingParams(max_tokens=20), max_draft_tokens=0)
    params = SamplingParams(max_tokens=20, prediction=tuple(plain.token_ids))
    for max_rows in (1, 2, 3):
        found, engine = answer(params, max_logits_bytes=4 * 101 * max_rows)
        assert found == plain
        assert (engine.stats().num_drafted_tokens > 0) == (max_rows > 1)


class Form:
    """Leaves every third token open, the others not."""

    def __init__(self, told: object) -> None:
        self.told = told

    def __call__(self, generated_token_ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        num_generated = len(generated_token_ids)
        if num_generated % 3:
            logits_V[[n for n in range(101) if n != num_generated]] = float("-inf")
        return logits_V

    def forced_token_ids(self, generated_token_ids: Sequence[int]) -> Sequence[int]:
        if isinstance(self.told, Exception):
            raise self.told
        if self.told == "truth":
            num_generated = len(generated_token_ids)
            return [n for n in range(num_generated, num_generated + 2) if n % 3][: 3 - num_generated % 3]
        return self.told  # type: ignore[return-value]


@pytest.mark.parametrize("told", ["truth", [1, 2, 3], [101], [-1], ["x"], None, RuntimeError("no")], ids=repr)
def test_what_a_processor_forces_is_computed_together_and_never_believed(told: object) -> None:
    params = SamplingParams(max_tokens=30, temperature=1.0, seed=1, logits_processors=(Form(told),))
    plain, slow = answer(params, max_draft_tokens=0)
    found, fast = answer(params)
    assert found == plain
    if told == "truth":
        assert fast.stats().num_steps <= 12
        assert slow.stats().num_steps == 30


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("windows", [(None, 9), (5, 5)])
def test_a_draft_model_saves_steps_and_changes_nothing(temperature: float, windows: tuple[int | None, ...]) -> None:
    """The model itself is always right; narrower windows make another one."""
    params = SamplingParams(max_tokens=50, temperature=temperature, seed=1, n=2)
    draft_model = native_model("Q8_0", windows)
    for page_size, max_batch_tokens in ((16, 1024), (3, 8)):
        config = EngineConfig(page_size=page_size, max_batch_tokens=max_batch_tokens, max_sequences=2)
        plain = Engine(MODEL, replace(config, max_draft_tokens=0))
        guessing = Engine(MODEL, config, draft_model=draft_model)
        assert guessing.lookup is not None
        guessing.lookup.costs = FreeRows()
        for engine in (plain, guessing):
            for prompt in (PROMPT, PROMPT[:7]):
                engine.add(prompt, params)
        assert run(guessing).of_sequence == run(plain).of_sequence
        if windows == (None, 9) and max_batch_tokens > 8:
            assert guessing.stats().num_steps < plain.stats().num_steps / 2
        drafter = guessing.scheduler.drafter
        assert isinstance(drafter, DraftModel)
        drafter.draft([], [])
        assert drafter.allocator.available() == tuple(pool.num_pages for pool in drafter.allocator.pools)


def test_a_draft_model_that_does_not_suit_is_refused() -> None:
    with pytest.raises(ConfigError, match="the draft model has a vocabulary of 64 tokens, the model one of 101"):
        Engine(MODEL, draft_model=tiny_model(tiny_config(vocab_size=64)))
    with pytest.raises(ConfigError, match=r"a draft model needs .* native CPU kernels"):
        Engine(tiny_model(), draft_model=MODEL)


def test_nothing_is_guessed_where_scores_depend_on_company() -> None:
    model = native_model("Q8_0", (None, 9))
    attach_lora(model, rank=2, alpha=4.0, targets=["wq"])
    assert Engine(model).lookup is None
    assert Engine(MODEL, EngineConfig(max_draft_tokens=0)).lookup is None


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_draft_tokens=-1 must be at least 0"):
        EngineConfig(max_draft_tokens=-1)
    with pytest.raises(RequestError, match=r"prediction=.* must be token ids"):
        SamplingParams(prediction=(-1,))
    with pytest.raises(RequestError, match="prediction holds 101, which is no token id"):
        Engine(MODEL).add(PROMPT, SamplingParams(prediction=(101,)))
