"""Logits processors that work on threads of their own: a late one holds up its own answer alone, and changes none."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import pytest
import torch

from tests.engine.answers import model, run
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.request import Output
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import RequestError

PROMPT = [5, 17, 17, 80, 3, 5, 99, 41]


class Late:
    """Forbids the likeliest token at each place, and is ready when told to be."""

    def __init__(self, futures: list[Future[None]]) -> None:
        self.futures = futures
        self.ready_for: list[int] | None = None

    def clone(self) -> Late:
        return type(self)(self.futures)

    def prepare(self, generated_token_ids: Sequence[int], draft: Sequence[int]) -> Future[None] | None:
        if self.ready_for == list(generated_token_ids):
            return None
        self.ready_for = list(generated_token_ids)
        self.futures.append(Future())
        return self.futures[-1]

    def __call__(self, generated_token_ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        logits_V[int(logits_V.argmax())] = -torch.inf
        return logits_V


class Plain(Late):
    def prepare(self, generated_token_ids: Sequence[int], draft: Sequence[int]) -> None:
        return None


def params(processor: Late, n: int = 1) -> SamplingParams:
    return SamplingParams(max_tokens=6, temperature=1.0, seed=1, n=n, logits_processors=(processor,))


def finish(futures: list[Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_a_late_processor_holds_up_its_own_answers_alone_and_changes_none(n: int, page_size: int) -> None:
    config = EngineConfig(page_size=page_size, max_sequences=8)
    plain = Engine(model(), config)
    plain_id = plain.add(PROMPT, params(Plain([]), n))
    said = run(plain)
    futures: list[Future[None]] = []
    engine = Engine(model(), config)
    late = engine.add(PROMPT, params(Late(futures), n))
    other = engine.add([1, 2, 3], SamplingParams(max_tokens=12))
    outputs: list[Output] = []
    while not any(output.request_id == other and output.finish_reason for output in outputs):
        outputs += engine.step()
        engine.check_integrity()
    assert not any(output.request_id == late for output in outputs)
    while engine.has_work:
        outputs += engine.step()
        engine.check_integrity()
        finish(futures)
    got = {i: [t for o in outputs if o.request_id == late and o.index == i for t in o.token_ids] for i in range(n)}
    assert got == {i: said.of(plain_id, i).token_ids for i in range(n)}


def test_a_request_that_turns_out_too_much_is_refused_alone() -> None:
    futures: list[Future[None]] = []
    engine = Engine(model(), EngineConfig(max_sequences=8))
    late = engine.add(PROMPT, params(Late(futures), 2))
    other = engine.add(PROMPT, SamplingParams(max_tokens=3))
    outputs = engine.step()
    for future in futures:
        future.set_exception(RequestError("too complex"))
    while engine.has_work:
        outputs += engine.step()
    ends = {(o.request_id, o.index): (o.finish_reason, o.error) for o in outputs if o.finish_reason}
    refused = ("refused", "too complex")
    assert ends == {(late, 0): refused, (late, 1): refused, (other, 0): ("length", None)}


def test_what_is_aborted_is_not_waited_for() -> None:
    futures: list[Future[None]] = []
    engine = Engine(model(), EngineConfig(max_sequences=8))
    late = engine.add(PROMPT, params(Late(futures)))
    engine.step()
    engine.abort(late)
    assert all(future.cancelled() for future in futures)
    engine.step()
    assert not engine.has_work
    engine.check_integrity()
