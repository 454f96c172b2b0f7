"""WaitingLLM: an AsyncLLM for code that waits for its answers in a thread of its own, such as `documents`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

from tramontane.engine.sampling import SamplingParams
from tramontane.llm import AsyncLLM, Completion
from tramontane.tokenizer import Tokenizer

Result = TypeVar("Result")

THREADS = ThreadPoolExecutor(4, thread_name_prefix="tramontane-documents")
"""Apart from the event loop's own threads: work here may last minutes, and must not keep short work waiting."""


class WaitingLLM:
    """`generate` blocks; `close`, from the event loop, ends it and every later one with CancelledError."""

    def __init__(
        self, llm: AsyncLLM, *, salt: str, on_completion: Callable[[Completion], None], adapter: str | None = None
    ) -> None:
        self.tokenizer: Tokenizer = llm.tokenizer
        self.reach = llm.reach
        self._llm = llm
        self._salt = salt
        self._adapter = adapter
        self._on_completion = on_completion
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()  # guards the next two
        self._is_closed = False
        self._pending: Future[list[Completion]] | None = None

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingParams) -> list[Completion]:
        """Raises what AsyncLLM.generate raises, for the first prompt that fails."""
        with self._lock:
            if self._is_closed:
                raise CancelledError
            self._pending = asyncio.run_coroutine_threadsafe(self._answer(prompts, sampling), self._loop)
        return self._pending.result()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._pending is not None:
                self._pending.cancel()

    async def _answer(self, prompts: Sequence[Sequence[int]], sampling: SamplingParams) -> list[Completion]:
        tasks = [
            asyncio.ensure_future(self._llm.generate(prompt, sampling, salt=self._salt, adapter=self._adapter))
            for prompt in prompts
        ]
        try:
            completions = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for completion in completions:
            self._on_completion(completion)
        return completions


async def in_thread(work: Callable[[], Result]) -> Result:
    """The result of `work`, computed in one of THREADS."""
    return await asyncio.get_running_loop().run_in_executor(THREADS, work)
