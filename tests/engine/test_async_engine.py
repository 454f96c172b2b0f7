from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager

import pytest

from tests.engine.answers import Answer, Answers, model, run
from tramontane.engine.async_engine import AsyncEngine, EngineStoppedError
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.logprobs import MeanHidden
from tramontane.engine.request import Output, SequenceId
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import CapacityError, RequestError

PROMPT = [7, 8, 9, 10, 11, 12, 13]
WINDOWS = (None, 9, 3)


def new_engine(**sizes: int) -> Engine:
    return Engine(model(WINDOWS), EngineConfig(**({"page_size": 4, "max_sequences": 4} | sizes)))  # type: ignore[arg-type]


def slow_engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Seconds pass before a long answer ends, so that what happens in its middle does so on a busy machine too."""
    engine = new_engine()
    step = engine.step

    def wait_and_step() -> list[Output]:
        time.sleep(0.02)
        return step()

    monkeypatch.setattr(engine, "step", wait_and_step)
    return engine


@contextmanager
def serving(engine: Engine) -> Iterator[AsyncEngine]:
    server = AsyncEngine(engine)
    try:
        yield server
    finally:
        server.shutdown()


async def read(server: AsyncEngine, prompt: list[int], params: SamplingParams) -> list[Answer]:
    answers = Answers()
    async for output in server.generate(prompt, params):
        answers.read([output])
    return [answers.of_sequence[key] for key in sorted(answers.of_sequence)]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.002)


def expected(prompt: list[int], params: SamplingParams) -> list[list[int]]:
    engine = new_engine()
    engine.add(prompt, params)
    answers = run(engine)
    return [answers.of(0, index).token_ids for index in range(params.n)]


def test_many_clients_get_what_each_would_get_alone() -> None:
    kinds = [
        SamplingParams(max_tokens=5),
        SamplingParams(max_tokens=7, n=3, temperature=1.0, seed=3),
        SamplingParams(max_tokens=3, temperature=0.5, seed=4),
    ]

    async def clients(server: AsyncEngine) -> list[list[Answer]]:
        return await asyncio.gather(*(read(server, [*PROMPT, i], kinds[i % 3]) for i in range(30)))

    with serving(new_engine()) as server:
        answers = asyncio.run(clients(server))
    for i, group in enumerate(answers):
        assert [answer.token_ids for answer in group] == expected([*PROMPT, i], kinds[i % 3])


def test_refusals_reach_the_client_and_the_engine_goes_on() -> None:
    async def client(server: AsyncEngine) -> None:
        with pytest.raises(RequestError, match="empty"):
            await read(server, [], SamplingParams())
        with pytest.raises(RequestError, match="no token id"):
            await server.collect([-1], MeanHidden(48))
        [answer] = await read(server, PROMPT, SamplingParams(max_tokens=5))
        assert answer.token_ids == expected(PROMPT, SamplingParams(max_tokens=5))[0]
        await until(lambda: has_no_stream(server))

    with serving(new_engine()) as server:
        asyncio.run(client(server))


def test_a_full_queue_reaches_the_client() -> None:
    async def clients(server: AsyncEngine) -> list[list[Answer] | BaseException]:
        params = SamplingParams(max_tokens=30)
        return await asyncio.gather(*(read(server, PROMPT, params) for _ in range(8)), return_exceptions=True)

    with serving(new_engine(max_sequences=1, max_waiting=1)) as server:
        results = asyncio.run(clients(server))
    refused = [result for result in results if isinstance(result, CapacityError)]
    served = [result for result in results if isinstance(result, list)]
    assert refused
    assert served
    assert len(refused) + len(served) == 8


async def has_no_stream(server: AsyncEngine) -> bool:
    """What a stream leaves is cleared on the engine's thread, maybe after its last answer has been read."""
    return not server._streams


async def is_idle(server: AsyncEngine) -> bool:
    stats = await server.inspect(Engine.stats)
    return not stats.num_running and not stats.num_waiting


@pytest.mark.parametrize("when", ["at once", "queued", "streaming", "closed", "left"])
def test_whoever_leaves_frees_the_pages(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(server: AsyncEngine) -> None:
        params = SamplingParams(max_tokens=400)
        if when == "queued":
            others = [asyncio.create_task(read(server, PROMPT, params)) for _ in range(4)]
            await until(lambda: running(server, 4))
        if when == "left":
            async for _ in server.generate(PROMPT, params):
                break
            await until(lambda: is_idle(server))
            return
        if when == "closed":
            async with aclosing(server.generate(PROMPT, params)) as stream:
                await anext(stream)
            await until(lambda: is_idle(server))
            return
        task = asyncio.create_task(read(server, PROMPT, params))
        if when == "streaming":
            await until(lambda: running(server, 1))
        elif when == "queued":
            await asyncio.sleep(0.01)
        else:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if when == "queued":
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        await until(lambda: is_idle(server))

    engine = slow_engine(monkeypatch)
    with serving(engine) as server:
        asyncio.run(client(server))
        assert not server._streams
    engine.check_integrity()
    assert all(group.num_held == 0 for group in engine.stats().groups)


async def running(server: AsyncEngine, count: int) -> bool:
    return (await server.inspect(Engine.stats)).num_running == count


def test_cancelling_some_leaves_the_answers_of_the_others() -> None:
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=6)

    async def clients(server: AsyncEngine) -> list[object]:
        tasks = [asyncio.create_task(read(server, [*PROMPT, i], params)) for i in range(16)]
        for i in range(0, 16, 2):
            await asyncio.sleep(0.003)
            tasks[i].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    with serving(new_engine(num_pages=(30, 30, 30))) as server:  # type: ignore[arg-type]
        results = asyncio.run(clients(server))
    for i in range(1, 16, 2):
        result = results[i]
        assert isinstance(result, list)
        assert result[0].token_ids == expected([*PROMPT, i], params)[0]


def test_the_text_layer_ends_an_answer_and_anybody_may_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(server: AsyncEngine) -> None:
        outputs: list[Output] = []
        async for output in server.generate(PROMPT, SamplingParams(max_tokens=300, n=2)):
            outputs.append(output)
            if len(outputs) == 4:
                server.finish(SequenceId(output.request_id, 0))
            if output.finish_reason == "stop":
                server.abort(output.request_id)
        reasons = {output.index: output.finish_reason for output in outputs if output.finish_reason}
        assert reasons == {0: "stop", 1: "abort"}

    with serving(slow_engine(monkeypatch)) as server:
        asyncio.run(client(server))


def test_collecting_beside_generating() -> None:
    async def client(server: AsyncEngine) -> None:
        collector = MeanHidden(48)
        _, [answer] = await asyncio.gather(
            server.collect(PROMPT, collector), read(server, PROMPT, SamplingParams(max_tokens=5))
        )
        assert answer.token_ids == expected(PROMPT, SamplingParams(max_tokens=5))[0]
        assert collector.num_collected == len(PROMPT)

    with serving(new_engine()) as server:
        asyncio.run(client(server))


def test_a_failing_engine_ends_every_request_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    step, num_steps = engine.step, 0

    def fail_at_the_fifth() -> list[Output]:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 5:
            raise RuntimeError("out of memory")
        return step()

    monkeypatch.setattr(engine, "step", fail_at_the_fifth)

    async def clients(server: AsyncEngine) -> None:
        assert server.health().is_alive
        results = await asyncio.gather(
            *(read(server, PROMPT, SamplingParams(max_tokens=50)) for _ in range(6)), return_exceptions=True
        )
        for result in results:
            assert isinstance(result, EngineStoppedError)
            assert str(result) == "the engine failed: RuntimeError: out of memory"
            assert isinstance(result.__cause__, RuntimeError)
        with pytest.raises(EngineStoppedError, match="out of memory"):
            await read(server, PROMPT, SamplingParams())
        with pytest.raises(EngineStoppedError, match="out of memory"):
            server.abort(0)
        assert not server.health().is_alive

    with serving(engine) as server:
        asyncio.run(clients(server))


def test_shutdown_ends_open_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    async def client(server: AsyncEngine) -> None:
        task = asyncio.create_task(read(server, PROMPT, SamplingParams(max_tokens=500)))
        await until(lambda: running(server, 1))
        await asyncio.to_thread(server.shutdown)
        with pytest.raises(EngineStoppedError, match="was shut down"):
            await task

    server = AsyncEngine(slow_engine(monkeypatch))
    asyncio.run(client(server))
    server.shutdown()
    assert "tramontane-engine" not in [thread.name for thread in threading.enumerate()]


def test_health_measures_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncEngine, "IDLE_TURN_S", 0.01)
    engine = new_engine()
    frozen = threading.Event()
    step = engine.step

    def freeze() -> list[Output]:
        frozen.wait(20)
        return step()

    monkeypatch.setattr(engine, "step", freeze)

    async def client(server: AsyncEngine) -> None:
        first = server.health().num_turns
        await until(lambda: later_than(server, first + 3))  # idle, and seen to be alive
        task = asyncio.create_task(read(server, PROMPT, SamplingParams(max_tokens=3)))
        await until(lambda: busy(server))
        stuck = server.health()
        await asyncio.sleep(0.2)
        health = server.health()
        assert (health.num_turns, health.is_busy, health.is_alive) == (stuck.num_turns, True, True)
        assert health.stalled_s >= 0.2
        frozen.set()
        await task
        await until(lambda: later_than(server, health.num_turns))

    async def busy(server: AsyncEngine) -> bool:
        return server.health().is_busy

    async def later_than(server: AsyncEngine, turns: int) -> bool:
        return server.health().num_turns > turns

    with serving(engine) as server:
        asyncio.run(client(server))


def test_a_client_whose_event_loop_died_is_dropped() -> None:
    engine = new_engine()
    with serving(engine) as server:
        loop = asyncio.new_event_loop()
        stream = server.generate(PROMPT, SamplingParams(max_tokens=480))
        loop.run_until_complete(anext(stream))
        loop.close()
        assert asyncio.run(_idle_at_last(server))
        del stream


async def _idle_at_last(server: AsyncEngine) -> bool:
    await until(lambda: is_idle(server))
    return not server._streams
