"""AsyncLLM: a model answering many clients at once, from asyncio; leaving an iterator cancels its request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tramontane.engine.async_engine import AsyncEngine, Health
from tramontane.engine.logprobs import MeanHidden
from tramontane.engine.sampling import SamplingParams
from tramontane.llm.completion import Completion, Delta
from tramontane.llm.generation import Generation
from tramontane.llm.open_model import open_model
from tramontane.llm.prompt import Message, Prompt, chat_prompt, fim_prompt, read_prompt, text_prompt
from tramontane.loading import Progress

EMBED_TOGETHER = 64  # texts of one `embed` in the queue at once


class AsyncLLM:
    """The methods of LLM as coroutines. Requests of all tasks are computed together; their results do not depend on
    each other. Every method raises EngineStoppedError once the engine has failed or was shut down.

    `priority`: lower is served first. `salt`: cached prompts are shared only between requests of equal salt.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        weight_format: str = "auto",
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        max_seq_len: int | None = None,
        kv_cache_gib: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """As LLM. The engine's thread runs until `shutdown`."""
        opened = open_model(
            model,
            weight_format=weight_format,
            dtype=dtype,
            device=device,
            threads=threads,
            max_seq_len=max_seq_len,
            kv_cache_gib=kv_cache_gib,
            progress=progress,
        )
        self.checkpoint = opened.checkpoint
        self.tokenizer = opened.tokenizer
        self.max_seq_len = opened.engine.max_seq_len
        self.engine = AsyncEngine(opened.engine)

    async def generate(
        self,
        prompt: str | Sequence[int],
        sampling: SamplingParams | None = None,
        *,
        priority: int = 0,
        salt: str | None = None,
    ) -> Completion:
        """Continue a text or token ids."""
        return await self._complete(text_prompt(self.tokenizer, prompt), sampling, priority, salt)

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        priority: int = 0,
        salt: str | None = None,
    ) -> Completion:
        """Answer a conversation."""
        return await self._complete(chat_prompt(self.tokenizer, messages, tools), sampling, priority, salt)

    async def fill_in_middle(
        self,
        prompt: str,
        suffix: str | None,
        sampling: SamplingParams | None = None,
        *,
        priority: int = 0,
        salt: str | None = None,
    ) -> Completion:
        """The text between `prompt` and `suffix`."""
        return await self._complete(fim_prompt(self.tokenizer, prompt, suffix), sampling, priority, salt)

    async def stream(
        self,
        prompt: str | Sequence[int] | Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        priority: int = 0,
        salt: str | None = None,
    ) -> AsyncGenerator[Delta]:
        """Answers as they come: to a conversation where `prompt` is a list of messages, else continuing the prompt."""
        ready = read_prompt(self.tokenizer, prompt, tools)
        params = sampling or SamplingParams()
        async with contextlib.aclosing(self._follow(Generation(ready, params), params, priority, salt)) as deltas:
            async for delta in deltas:
                yield delta

    async def embed(self, texts: Sequence[str]) -> Tensor:
        """Mean of each text's final hidden states, scaled to length 1: (N, dim) float32."""
        batch = [self.tokenizer.encode(text, bos=True) for text in texts]
        collectors = [MeanHidden(self.checkpoint.config.dim) for _ in batch]
        for first in range(0, len(batch), EMBED_TOGETHER):
            some = slice(first, first + EMBED_TOGETHER)
            await asyncio.gather(*map(self.engine.collect, batch[some], collectors[some]))
        return F.normalize(torch.stack([collector.mean for collector in collectors]), dim=-1)

    async def score(self, token_ids: Sequence[int]) -> list[float | None]:
        """Log-probability of each token given those before it; None for the first."""
        completion = await self.generate(token_ids, SamplingParams(max_tokens=0, prompt_logprobs=0))
        return [None if entry is None else entry.logprob for entry in completion.prompt_logprobs or ()]

    def health(self) -> Health:
        """Whether the engine is alive and moving."""
        return self.engine.health()

    def shutdown(self) -> None:
        """End the engine; requests still running end with EngineStoppedError."""
        self.engine.shutdown()

    async def _complete(
        self, prompt: Prompt, sampling: SamplingParams | None, priority: int, salt: str | None
    ) -> Completion:
        params = sampling or SamplingParams()
        generation = Generation(prompt, params)
        async for _ in self._follow(generation, params, priority, salt):
            pass
        return generation.completion()

    async def _follow(
        self, generation: Generation, params: SamplingParams, priority: int, salt: str | None
    ) -> AsyncGenerator[Delta]:
        outputs = self.engine.generate(generation.prompt.token_ids, params, priority=priority, salt=salt)
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                if generation.take(output):
                    self.engine.finish(output.sequence_id)
                while generation.deltas:
                    yield generation.deltas.popleft()
