"""AsyncEngine: an Engine on a thread of its own, used from asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar, cast

from tramontane.engine.engine import Engine
from tramontane.engine.request import Collector, FinishReason, Meter, Output, SequenceId, Usage
from tramontane.engine.sampling import SamplingParams
from tramontane.model.adapter import Adapter
from tramontane.tasks import ended

Result = TypeVar("Result")


class EngineStoppedError(RuntimeError):
    """The engine's thread has ended, by `shutdown` or by a failure, which is then the cause."""


@dataclass(frozen=True, slots=True)
class Health:
    """An engine is stuck when `stalled_s` exceeds what its longest step may take."""

    is_alive: bool
    is_busy: bool
    num_turns: int  # grows with every step, and at least every IDLE_TURN_S without work
    stalled_s: float  # since the last turn


@dataclass(slots=True, eq=False)
class _Stream:
    """The way of one request's Outputs from the engine's thread to the task that waits for them, and what it takes."""

    loop: asyncio.AbstractEventLoop
    num_unsent_answers: int  # whose final Output has not been sent yet
    request_id: int | None = None
    usage: Usage = field(default_factory=Usage)
    queue: asyncio.Queue[Output | EngineStoppedError] = field(default_factory=asyncio.Queue)


class AsyncEngine:
    """Only the engine's thread touches the engine; everything else is handed to it between two steps."""

    IDLE_TURN_S = 1.0

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._wake = threading.Condition()  # guards the next three
        self._calls: deque[tuple[Callable[[], None], Future[object]]] = deque()
        self._is_stopping = False
        self._is_stopped = False
        self._failure: BaseException | None = None
        self._streams: dict[int, _Stream] = {}  # of the engine's thread, as is the engine
        self._num_turns = 0
        self._last_turn = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="tramontane-engine", daemon=True)
        self._thread.start()

    async def generate(
        self,
        token_ids: SequenceOf[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        first_index: int = 0,
        adapter: Adapter | None = None,
        meter: Meter | None = None,
    ) -> AsyncGenerator[Output, None]:
        """Outputs of all answers as they come. Leaving the iterator early, or cancelling, frees the pages within a
        step. Raises RequestError and CapacityError as Engine.add does, EngineStoppedError if the engine ends."""

        outputs = await self.start(
            token_ids,
            params,
            priority=priority,
            owner=owner,
            salt=salt,
            first_index=first_index,
            adapter=adapter,
            meter=meter,
        )
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                yield output

    async def start(
        self,
        token_ids: SequenceOf[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        first_index: int = 0,
        adapter: Adapter | None = None,
        meter: Meter | None = None,
    ) -> AsyncGenerator[Output, None]:
        """As `generate`, but returns as soon as the request is queued: what Engine.add refuses is raised here, before
        anything is computed. The outputs must be read to the end or closed."""

        def add() -> int:
            return self._engine.add(
                token_ids, params, priority=priority, owner=owner, salt=salt, first_index=first_index, adapter=adapter
            )

        outputs = self._follow(params.n, add, len(token_ids), meter)
        await anext(outputs)
        return cast("AsyncGenerator[Output, None]", outputs)

    async def collect(
        self,
        token_ids: SequenceOf[int],
        collector: Collector,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: Adapter | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Compute a prompt for `collector`, beside everything else; errors as in `generate`."""

        def add() -> int:
            return self._engine.add_prompt(
                token_ids, collector, priority=priority, owner=owner, salt=salt, adapter=adapter
            )

        async with contextlib.aclosing(self._follow(1, add, len(token_ids), meter)) as outputs:
            async for _ in outputs:
                pass

    def finish(self, sequence_id: SequenceId, reason: FinishReason = "stop") -> None:
        """End one answer; its stream then receives the final Output. Returns at once; callable from any thread.
        Raises EngineStoppedError."""
        self._submit(lambda: self._engine.finish(sequence_id, reason))

    def abort(self, request_id: int) -> None:
        """End a request; its stream then receives the final Outputs. Returns at once; callable from any thread.
        Raises EngineStoppedError."""
        self._submit(lambda: self._engine.abort(request_id))

    async def inspect(self, read: Callable[[Engine], Result]) -> Result:
        """`read(engine)` between two steps, for example `Engine.stats`. Raises EngineStoppedError."""
        return await asyncio.wrap_future(self._submit(lambda: read(self._engine)))

    def health(self) -> Health:
        return Health(
            is_alive=not self._is_stopped,
            is_busy=bool(self._streams or self._calls),
            num_turns=self._num_turns,
            stalled_s=time.monotonic() - self._last_turn,
        )

    def shutdown(self) -> None:
        """End the thread after the step it is in; streams still open raise EngineStoppedError."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        self._thread.join()

    async def _follow(
        self, num_answers: int, add: Callable[[], int], num_prompt_tokens: int, meter: Meter | None
    ) -> AsyncGenerator[Output | None, None]:
        """None once the request is queued, then its Outputs."""
        stream = _Stream(asyncio.get_running_loop(), num_answers)
        num_charged = 0

        def add_stream() -> None:
            stream.request_id = add()
            stream.usage.request = self._engine.request(stream.request_id)
            self._streams[stream.request_id] = stream

        try:
            await asyncio.wrap_future(self._submit(add_stream))
            if meter is not None:
                meter.begin(stream.usage)
                meter.charge(num_prompt_tokens)
                num_charged = num_prompt_tokens
            yield None
            while num_answers:
                item = await stream.queue.get()
                if isinstance(item, EngineStoppedError):
                    raise item
                num_answers -= item.finish_reason is not None
                if meter is not None and item.token_ids:
                    meter.charge(len(item.token_ids))
                    num_charged += len(item.token_ids)
                yield item
        finally:
            try:
                if num_answers:
                    with contextlib.suppress(EngineStoppedError):
                        dropping = self._submit(lambda: self._drop(stream))
                        if meter is not None:  # a step may be under way, and what it makes counts
                            dropped = asyncio.wrap_future(dropping)
                            await ended(dropped)
                            dropped.result()
            finally:
                if meter is not None:
                    usage = stream.usage
                    if usage.request is not None and not num_charged:  # it was left while it was being queued
                        meter.begin(usage)
                    meter.charge(usage.num_prompt_tokens + usage.num_generated_tokens - num_charged)

    def _submit(self, call: Callable[[], Result]) -> Future[Result]:
        """Have the engine's thread call it between two steps."""
        future: Future[Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except Exception as error:
                    future.set_exception(error)

        with self._wake:
            if self._is_stopped:
                raise self._stopped_error()
            self._calls.append((run, cast("Future[object]", future)))
            self._wake.notify()
        return future

    def _stopped_error(self) -> EngineStoppedError:
        if self._failure is None:
            return EngineStoppedError("the engine was shut down")
        error = EngineStoppedError(f"the engine failed: {type(self._failure).__name__}: {self._failure}")
        error.__cause__ = self._failure
        return error

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                with self._wake:
                    if not (self._calls or self._engine.has_work or self._is_stopping):
                        self._wake.wait(self.IDLE_TURN_S)
                for _ in range(len(self._calls)):
                    run, _future = self._calls.popleft()
                    run()
                if self._engine.has_work:
                    self._deliver(self._engine.step())
                self._num_turns += 1
                self._last_turn = time.monotonic()
        except BaseException as failure:
            self._failure = failure
        with self._wake:
            self._is_stopped = True
        for _, future in self._calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(self._stopped_error())
        self._send((stream, self._stopped_error()) for stream in self._streams.values())
        self._streams.clear()

    def _deliver(self, outputs: Iterable[Output]) -> None:
        items = [(stream, output) for output in outputs if (stream := self._streams.get(output.request_id))]
        for stream in self._send(items):
            self._drop(stream)
        for stream, output in items:
            stream.num_unsent_answers -= output.finish_reason is not None
            if not stream.num_unsent_answers:
                self._streams.pop(output.request_id, None)

    def _send(self, items: Iterable[tuple[_Stream, Output | EngineStoppedError]]) -> list[_Stream]:
        """Wake each event loop once; returns the streams whose loop is closed."""
        of_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Stream, Output | EngineStoppedError]]] = {}
        for stream, item in items:
            of_loop.setdefault(stream.loop, []).append((stream, item))
        unreachable = []
        for loop, batch in of_loop.items():
            try:
                loop.call_soon_threadsafe(_put, batch)
            except RuntimeError:
                unreachable += [stream for stream, _ in batch]
        return unreachable

    def _drop(self, stream: _Stream) -> None:
        """Nobody reads this stream any more."""
        if stream.request_id is not None and self._streams.pop(stream.request_id, None) is not None:
            self._engine.abort(stream.request_id)


def _put(batch: Iterable[tuple[_Stream, Output | EngineStoppedError]]) -> None:
    for stream, item in batch:
        stream.queue.put_nowait(item)
