from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.engine.answers import TOLERANCE, VOCAB_SIZE, Answers, model, raw_logprobs, run
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.logprobs import MeanHidden, PromptLogprobs
from tramontane.engine.request import SequenceId
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import CapacityError, ConfigError, RequestError
from tramontane.model.packed_attention import packed_input

WINDOWS = (None, 9, 3)
PROMPT = [7, 8, 9, 10, 11, 12, 13]


def engine(**sizes: object) -> Engine:
    return Engine(model(WINDOWS), EngineConfig(**({"page_size": 4, "max_sequences": 4} | sizes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], SamplingParams(), "the prompt is empty"),
        ([1, VOCAB_SIZE], SamplingParams(), f"prompt holds {VOCAB_SIZE}, .*0 to {VOCAB_SIZE - 1}"),
        ([-1], SamplingParams(), "prompt holds -1"),
        ([2**63], SamplingParams(), "no token id"),
        ([1.5], SamplingParams(), "prompt holds 1.5"),
        (["a"], SamplingParams(), "prompt holds 'a'"),
        ([1], SamplingParams(stop_token_ids=(500,)), "stop_token_ids holds 500"),
        ([1], SamplingParams(logit_bias={500: 1.0}), "logit_bias holds 500"),
        (
            [1] * 512,
            SamplingParams(),
            "length is 512 tokens, but the prompt has 512, which leaves no room for an answer; shorten it$",
        ),
        (
            [1] * 513,
            SamplingParams(max_tokens=0),
            "^This model's maximum .* 512 tokens, but the prompt has 513; shorten it$",
        ),
        ([1] * 513, SamplingParams(max_tokens=5), "the prompt has 513, which leaves no room"),
        (
            [1] * 500,
            SamplingParams(max_tokens=13),
            "the prompt has 500 and max_tokens asks for 13 more; .* lower max_tokens",
        ),
        ([1], SamplingParams(max_tokens=2**63 - 1), "max_tokens asks for 9223372036854775807 more"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(prompt: list[int], params: SamplingParams, message: str) -> None:
    busy = engine()
    running = busy.add(PROMPT, SamplingParams(max_tokens=5))
    with pytest.raises(RequestError, match=message):
        busy.add(prompt, params)
    assert run(busy).of(running).finish_reason == "length"


def test_what_the_cache_can_never_hold_is_refused_by_name() -> None:
    small = engine(num_pages=(10, 10, 10))
    assert small.max_seq_len == 40
    with pytest.raises(RequestError, match=r"length is 40 tokens \(all that the KV cache holds: kv_cache_gib\), but"):
        small.add([1] * 30, SamplingParams(max_tokens=11))
    request_id = small.add([1] * 30, SamplingParams())
    answer = run(small).of(request_id)
    assert (len(answer.token_ids), answer.finish_reason) == (10, "length")


def test_a_full_queue_is_refused_for_now() -> None:
    small = engine(max_waiting=2)
    for _ in range(2):
        small.add(PROMPT, SamplingParams(max_tokens=1))
    with pytest.raises(CapacityError, match="max_waiting=2"):
        small.add(PROMPT, SamplingParams(max_tokens=1))
    small.step()
    small.add(PROMPT, SamplingParams(max_tokens=1))
    run(small)


def test_a_default_length_holds_where_none_is_given_and_never_refuses() -> None:
    advised: dict[str, Any] = {"default_max_tokens": 7, "ignore_eos": True}
    for num_prompt_tokens, params, num_answered in (
        (10, SamplingParams(**advised), 7),
        (508, SamplingParams(**advised), 4),  # the context ends before it
        (10, SamplingParams(**advised, max_tokens=9), 9),
        (10, SamplingParams(**advised, min_tokens=8), 8),
    ):
        alone = engine()
        answer = alone.add([1] * num_prompt_tokens, params)
        found = run(alone).of(answer)
        assert (len(found.token_ids), found.finish_reason) == (num_answered, "length")
    with pytest.raises(RequestError, match="default_max_tokens=0 must be at least 1"):
        SamplingParams(default_max_tokens=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"page_size": 0}, "page_size=0"),
        ({"max_seq_len": 0}, "max_seq_len=0"),
        ({"max_batch_tokens": 3}, "max_batch_tokens=3 must be at least max_sequences=4"),
        ({"num_pages": (0, 1, 1)}, "num_pages"),
        ({"num_pages": (4,)}, "one number for each window group"),
        ({"num_pages": (4, 4, 4), "kv_cache_bytes": 100}, "give one of them"),
        ({"eos_token_ids": (VOCAB_SIZE,)}, "eos_token_ids"),
    ],
)
def test_sizes_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine(**changes)


def test_every_answer_ends_with_one_output_that_says_why() -> None:
    busy = engine(max_sequences=2)
    answers = Answers()
    decoding = busy.add(PROMPT, SamplingParams(max_tokens=50))
    answers.read(busy.step())
    queued = [busy.add(PROMPT, SamplingParams(max_tokens=5, n=2)) for _ in range(3)]
    busy.abort(queued[0])
    busy.abort(queued[0])
    busy.abort(12345)
    answers.read(busy.step())
    busy.finish(SequenceId(decoding, 0))
    busy.finish(SequenceId(decoding, 0))
    busy.finish(SequenceId(999, 0))
    assert busy.has_work
    answers.read(busy.step())
    busy.finish(SequenceId(queued[2], 0))  # before its answers were made: all of them end
    run(busy, answers=answers)
    assert answers.of(decoding).finish_reason == "stop"
    assert [answers.of(queued[0], index).finish_reason for index in range(2)] == ["abort"] * 2
    assert [answers.of(queued[1], index).finish_reason for index in range(2)] == ["length"] * 2
    assert [answers.of(queued[2], index).finish_reason for index in range(2)] == ["stop"] * 2
    assert not busy._requests


def test_finishing_one_answer_leaves_the_others() -> None:
    busy = engine()
    answers = Answers()
    request_id = busy.add(PROMPT, SamplingParams(max_tokens=8, n=3, temperature=1.0, seed=4))
    answers.read(busy.step())
    answers.read(busy.step())
    busy.finish(SequenceId(request_id, 1), "stop")
    run(busy, answers=answers)
    assert [len(answers.of(request_id, index).token_ids) for index in range(3)] == [8, 2, 8]
    undisturbed = engine()
    undisturbed.add(PROMPT, SamplingParams(max_tokens=8, n=3, temperature=1.0, seed=4))
    expected = run(undisturbed)
    for index in (0, 2):
        assert answers.of(request_id, index).token_ids == expected.of(0, index).token_ids


def test_zero_tokens_computes_the_prompt_alone() -> None:
    request = engine()
    request_id = request.add(PROMPT, SamplingParams(max_tokens=0, n=2, prompt_logprobs=0))
    answers = run(request)
    for index in range(2):
        assert (answers.of(request_id, index).token_ids, answers.of(request_id, index).finish_reason) == ([], "length")
    assert answers.of(request_id, 0).prompt_logprobs is not None
    assert answers.of(request_id, 1).prompt_logprobs is None


def test_cached_tokens_are_reported_and_salted() -> None:
    warm = engine()
    prompt = list(range(30))
    params = SamplingParams(max_tokens=2)
    ids = []
    for salt in ("a", "a", "b", None, None):
        ids.append(warm.add(prompt, params, salt=salt))
        run(warm)
    warm_again = [warm.add(prompt, params, salt=salt) for salt in ("a", "b", None)]
    answers = run(warm)
    assert [answers.of(request_id).num_cached_tokens for request_id in warm_again] == [28] * 3
    assert warm.stats().num_cached_tokens == 5 * 28
    assert warm.stats().num_generated_tokens == 8 * 2
    assert warm.stats().num_computed_tokens == 3 * 31 + 5 * 3


@pytest.mark.parametrize("max_batch_tokens", [4, 11, 512])
def test_logits_score_and_embed_equal_one_pass(max_batch_tokens: int) -> None:
    scorer = engine(max_batch_tokens=max_batch_tokens, max_logits_bytes=3 * 4 * VOCAB_SIZE)
    token_ids = [position * 37 % VOCAB_SIZE for position in range(50)]
    expected_TV = raw_logprobs(model(WINDOWS), token_ids)
    logits_TV = scorer.logits(token_ids)
    assert (logits_TV.shape, logits_TV.dtype) == ((50, VOCAB_SIZE), torch.float32)
    assert (logits_TV.double().log_softmax(-1) - expected_TV).abs().max() <= TOLERANCE
    score = scorer.score(token_ids)
    assert (score[0], len(score)) == (None, 50)
    for position, value in enumerate(score[1:]):
        assert value is not None
        assert abs(value - float(expected_TV[position, token_ids[position + 1]])) <= TOLERANCE
    with torch.no_grad():
        hidden_TD = model(WINDOWS)(packed_input(model(WINDOWS), torch.tensor(token_ids), [50]))
        first_D = model(WINDOWS)(packed_input(model(WINDOWS), torch.tensor([5]), [1]))[0]
    embedded = scorer.embed([token_ids, [5], token_ids])
    assert embedded.shape == (3, 48)
    assert (embedded[0] - hidden_TD.mean(0)).abs().max() <= TOLERANCE
    assert (embedded[1] - first_D).abs().max() <= TOLERANCE
    assert (embedded[0] - embedded[2]).abs().max() <= TOLERANCE
    assert not scorer.has_work


def test_scores_of_the_longest_prompt_and_of_a_single_token() -> None:
    scorer = engine()
    assert scorer.score([3]) == [None]
    assert len(scorer.score([1] * 512)) == 512
    with pytest.raises(RequestError, match="513"):
        scorer.score([1] * 513)
    with pytest.raises(RequestError, match="empty"):
        scorer.logits([])
    assert scorer.embed([]).shape == (0, 48)


def test_embedding_more_than_the_queue_holds() -> None:
    small = engine(max_waiting=3)
    batch = [[token_id, token_id + 1] for token_id in range(20)]
    together = small.embed(batch)
    for row, token_ids in zip(together, batch, strict=True):
        assert (row - engine().embed([token_ids])[0]).abs().max() <= TOLERANCE


def test_scoring_keeps_the_outputs_of_others() -> None:
    busy = engine()
    params = SamplingParams(max_tokens=6)
    request_id = busy.add(PROMPT, params)
    busy.score(list(range(60)))
    busy.embed([[1, 2, 3]])
    answer = run(busy).of(request_id)
    quiet = engine()
    quiet.add(PROMPT, params)
    assert answer.token_ids == run(quiet).of(0).token_ids


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_preempted_prompt_is_collected_once(prefix_cache: bool) -> None:
    scorer = engine(max_batch_tokens=6, prefix_cache=prefix_cache)
    token_ids = [position * 31 % VOCAB_SIZE for position in range(45)]
    mean = MeanHidden(48)
    logprobs = PromptLogprobs(model(WINDOWS), token_ids, 0, 100)
    for collector in (mean, logprobs):
        request_id = scorer.add_prompt(token_ids, collector)
        for num_steps in (2, 3, 1):
            for _ in range(num_steps):
                scorer.step()
            [sequence] = scorer._requests[request_id].sequences
            scorer.scheduler._preempt(sequence)
            scorer.check_integrity()
        run(scorer)
        assert collector.num_collected == 45
    with torch.no_grad():
        hidden_TD = model(WINDOWS)(packed_input(model(WINDOWS), torch.tensor(token_ids), [45]))
    assert (mean.mean - hidden_TD.mean(0)).abs().max() <= TOLERANCE
    expected_TV = raw_logprobs(model(WINDOWS), token_ids)
    assert len(logprobs.logprobs) == 45
    for position, entry in enumerate(logprobs.logprobs[1:]):
        assert entry is not None
        assert abs(entry.logprob - float(expected_TV[position, token_ids[position + 1]])) <= TOLERANCE


def test_a_failed_step_is_put_back_and_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    shaky = engine()
    params = SamplingParams(max_tokens=8, n=3, temperature=1.0, seed=9)
    request_id = shaky.add(PROMPT, params)
    forward = model(WINDOWS).forward
    num_calls = 0

    def fail_every_other_time(forward_input: object) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls % 2:
            raise KeyboardInterrupt
        return forward(forward_input)  # type: ignore[arg-type]

    answers = Answers()
    with monkeypatch.context() as patch:
        patch.setattr(model(WINDOWS), "forward", fail_every_other_time)
        while shaky.has_work:
            try:
                answers.read(shaky.step())
            except KeyboardInterrupt:
                shaky.check_integrity()
    assert num_calls > 10
    steady = engine()
    steady.add(PROMPT, params)
    expected = run(steady)
    for index in range(3):
        assert answers.of(request_id, index).token_ids == expected.of(0, index).token_ids


def test_a_disturbed_neighbour_changes_nothing() -> None:
    """SECURITY: cancelling queued and running requests at random leaves the others' answers alone."""
    params = SamplingParams(max_tokens=30, temperature=1.2, seed=21)
    quiet = engine()
    quiet.add(PROMPT, params)
    expected = run(quiet).of(0).token_ids
    busy = engine(num_pages=(24, 24, 24))
    answers = Answers()
    request_id = busy.add(PROMPT, params)
    for round_ in range(40):
        neighbour = busy.add([round_ + 1] * 25, SamplingParams(max_tokens=20))
        answers.read(busy.step())
        if round_ % 3:
            busy.abort(neighbour)
        if round_ % 5 == 0:
            busy.abort(neighbour - 2 if neighbour - 2 != request_id else neighbour)
        busy.check_integrity()
    run(busy, answers=answers)
    assert answers.of(request_id).token_ids == expected


def test_seeds_are_drawn_where_none_is_given() -> None:
    params = SamplingParams(max_tokens=12, temperature=2.0)
    free = engine()
    ids = [free.add(PROMPT, params) for _ in range(2)]
    answers = run(free)
    assert answers.of(ids[0]).token_ids != answers.of(ids[1]).token_ids


def test_memory_of_a_windowed_stream_is_flat() -> None:
    """A model whose layers all have a window: 450 tokens through the pages of one window."""
    stream = Engine(model((7, 7, 7)), EngineConfig(page_size=4, max_sequences=1, num_pages=(3,)))
    request_id = stream.add(PROMPT, SamplingParams(max_tokens=450))
    answer = run(stream).of(request_id)
    text = [*PROMPT, *answer.token_ids]
    assert raw_logprobs(model((7, 7, 7)), text)[len(PROMPT) - 1 : -1].argmax(-1).tolist() == answer.token_ids
