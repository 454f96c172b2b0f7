"""AsyncLLM: a model answering many clients at once, from asyncio; leaving an iterator cancels its request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tramontane.engine.async_engine import AsyncEngine, Health
from tramontane.engine.logprobs import LastHidden, MeanHidden
from tramontane.engine.request import Meter, Output, TokenLogprobs, Usage
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import ContextLengthError
from tramontane.hub import resolve_model
from tramontane.llm.completion import Completion, Delta
from tramontane.llm.generation import Generation
from tramontane.llm.open_model import open_model
from tramontane.llm.prompt import Message, Prompt, chat_prompt, fim_prompt, read_prompt, text_prompt
from tramontane.loading import Progress
from tramontane.model.adapter import Adapter
from tramontane.tasks import gathered

EMBED_TOGETHER = 64  # texts of one `embed` in the queue at once
LONG_TEXT_CHARS = 20_000  # a prompt that takes longer to encode than other tasks should wait: some 5 ms

Result = TypeVar("Result")
ENCODERS = ThreadPoolExecutor(2, thread_name_prefix="tramontane-encoding")
"""Apart from the event loop's own threads: this may take seconds, and must not keep short work waiting."""


@dataclass(slots=True)
class _Metered:
    """A Meter that remembers a request's usage and tells another."""

    meter: Meter | None
    usage: Usage = field(default_factory=Usage)

    def begin(self, usage: Usage) -> None:
        self.usage = usage
        if self.meter is not None:
            self.meter.begin(usage)

    def charge(self, num_tokens: int) -> None:
        if self.meter is not None:
            self.meter.charge(num_tokens)


class Stream:
    """Answers to one prompt as they come: iterate over its Deltas, once. Leaving `async with` early, or `aclose`,
    cancels the request and frees its pages within a step."""

    def __init__(
        self, engine: AsyncEngine, generation: Generation, outputs: AsyncGenerator[Output], metered: _Metered
    ) -> None:
        self._engine = engine
        self._metered = metered
        self._generation = generation
        self._outputs = outputs

    async def __aiter__(self) -> AsyncGenerator[Delta]:
        generation = self._generation
        async for output in self._outputs:
            if generation.take(output):
                self._engine.finish(output.sequence_id)
            self._metered.usage.num_unwanted_tokens = generation.num_unwanted_tokens
            while generation.deltas:
                yield generation.deltas.popleft()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._outputs.aclose()

    @property
    def prompt_token_ids(self) -> Sequence[int]:
        return self._generation.prompt.token_ids

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that were not computed again; known from the first Delta on."""
        return self._generation.num_cached_tokens

    @property
    def prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...] | None:
        """One per prompt token, None for the first; there from the first Delta on, where asked for."""
        return self._generation.prompt_logprobs

    def completion(self) -> Completion:
        """All that was answered. Raises ValueError before the end."""
        return self._generation.completion()


class AsyncLLM:
    """The methods of LLM as coroutines. Requests of all tasks are computed together; their results do not depend on
    each other. Every method raises EngineStoppedError once the engine has failed or was shut down.

    `priority`: lower is served first. `owner`: between owners, service is shared out evenly. `salt`: cached prompts are
    shared only between requests of equal salt.
    `adapter`: the name `load_adapter` gave. `meter` is told what each request takes, however it ends.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        base: str | None = None,
        weight_format: str = "auto",
        dtype: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        max_seq_len: int | None = None,
        kv_cache_gib: float | None = None,
        kv_dtype: str = "auto",
        draft_model: str | None = None,
        max_sequences: int | None = None,
        max_waiting: int | None = None,
        max_waiting_per_owner: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """As LLM; `max_sequences` are computed together, `max_waiting` requests may queue, `max_waiting_per_owner` of
        one owner (None: no more than are left for others). The engine's thread runs until `shutdown`."""
        opened = open_model(
            model,
            base=base,
            weight_format=weight_format,
            dtype=dtype,
            device=device,
            threads=threads,
            max_seq_len=max_seq_len,
            kv_cache_gib=kv_cache_gib,
            kv_dtype=kv_dtype,
            draft_model=draft_model,
            max_sequences=max_sequences,
            max_waiting=max_waiting,
            max_waiting_per_owner=max_waiting_per_owner,
            progress=progress,
        )
        self.checkpoint = opened.checkpoint
        self.default_sampling = SamplingParams(**opened.checkpoint.sampling)  # where a call gives none
        self.tokenizer = opened.tokenizer
        self.max_seq_len = opened.engine.max_seq_len
        self.reach = min(self.max_seq_len, opened.checkpoint.config.reach or self.max_seq_len)  # as LLM.reach
        self.device = opened.engine.model.device
        self.engine = AsyncEngine(opened.engine)
        self.adapters = opened.adapters

    @property
    def default_adapter(self) -> str | None:
        """The adapter whose folder this was opened as: what answers where a call names none. None: the bare model."""
        return self.adapters.default

    async def load_adapter(self, path: Path | str, name: str | None = None) -> str:
        """Load a LoRA adapter (PEFT's or mistral-finetune's folder), while requests go on, and return the name that
        calls give it by (`adapter=`): `name`, by default the folder's.

        Raises ConfigError or CheckpointError for an adapter that does not fit this model.
        """
        return await asyncio.to_thread(lambda: self.adapters.load(resolve_model(str(path)), name))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; requests that use it go on. Raises RequestError if there is none of that name."""
        self.adapters.unload(name)

    async def generate(
        self,
        prompt: str | Sequence[int],
        sampling: SamplingParams | None = None,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> Completion:
        """Continue a text or token ids."""
        return await self._complete(
            text_prompt(self.tokenizer, prompt), sampling, priority, owner, salt, adapter, meter
        )

    async def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> Completion:
        """Answer a conversation."""
        return await self._complete(
            chat_prompt(self.tokenizer, messages, tools), sampling, priority, owner, salt, adapter, meter
        )

    async def fill_in_middle(
        self,
        prompt: str,
        suffix: str | None,
        sampling: SamplingParams | None = None,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> Completion:
        """The text between `prompt` and `suffix`."""
        return await self._complete(
            fim_prompt(self.tokenizer, prompt, suffix), sampling, priority, owner, salt, adapter, meter
        )

    async def stream(
        self,
        prompt: str | Sequence[int] | Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> AsyncGenerator[Delta]:
        """Answers as they come: to a conversation where `prompt` is a list of messages, else continuing the prompt."""
        stream = await self.start(
            await self.read_prompt(prompt, tools=tools),
            sampling or self.default_sampling,
            priority=priority,
            owner=owner,
            salt=salt,
            adapter=adapter,
            meter=meter,
        )
        async with stream, contextlib.aclosing(aiter(stream)) as deltas:
            async for delta in deltas:
                yield delta

    async def start(
        self,
        prompt: Prompt,
        sampling: SamplingParams,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> Stream:
        """Queue a prompt: RequestError and CapacityError are raised here, before anything is computed. The stream
        must be read to the end or closed."""
        carried = await self._adapter(adapter)
        metered = _Metered(meter)
        outputs = await self.engine.start(
            prompt.token_ids, sampling, priority=priority, owner=owner, salt=salt, adapter=carried, meter=metered
        )
        return Stream(self.engine, Generation(prompt, sampling), outputs, metered)

    @property
    def max_text_bytes(self) -> int:
        """A text of more bytes does not fit into the context, whatever it says."""
        return self.max_seq_len * self.tokenizer.max_token_bytes

    async def read_prompt(
        self, prompt: str | Sequence[int] | Sequence[Message], *, tools: Sequence[Message] | None = None
    ) -> Prompt:
        """The prompt as token ids; a long one is encoded on another thread, so that other tasks go on.

        Raises TokenizerError for a conversation this model's format cannot express, and ContextLengthError, before
        anything is encoded, for a prompt that cannot fit.
        """
        self._require_room(prompt)
        if _num_chars(prompt) + _num_chars(tools or ()) <= LONG_TEXT_CHARS:
            return read_prompt(self.tokenizer, prompt, tools)
        return await _encoded(lambda: read_prompt(self.tokenizer, prompt, tools))

    async def read_prompts(self, prompts: Sequence[str | Sequence[int] | Sequence[Message]]) -> list[Prompt]:
        """As `read_prompt`, of each, the short ones together on one other thread where together they are long."""
        for prompt in prompts:
            self._require_room(prompt)
        if sum(map(_num_chars, prompts)) <= LONG_TEXT_CHARS:
            return [read_prompt(self.tokenizer, prompt, None) for prompt in prompts]
        return await _encoded(lambda: [read_prompt(self.tokenizer, prompt, None) for prompt in prompts])

    async def read_gap(self, prompt: str, suffix: str) -> Prompt:
        """As `read_prompt`, of the texts on both sides of a gap to fill."""
        self._require_room([{"content": prompt}, {"content": suffix}])
        if len(prompt) + len(suffix) <= LONG_TEXT_CHARS:
            return fim_prompt(self.tokenizer, prompt, suffix)
        return await _encoded(lambda: fim_prompt(self.tokenizer, prompt, suffix))

    async def read_prediction(self, text: str) -> list[int]:
        """Token ids of what an answer may say, as far as the context could hold it."""
        text = text[: self.max_text_bytes]
        if len(text) <= LONG_TEXT_CHARS:
            return self.tokenizer.encode(text)
        return await _encoded(lambda: self.tokenizer.encode(text))

    def _require_room(self, prompt: str | Sequence[int] | Sequence[Message]) -> None:
        """Raises ContextLengthError for a prompt that cannot fit, by its length alone."""
        if isinstance(prompt, str):
            num_bytes = _num_bytes(prompt)
        elif prompt and isinstance(prompt[0], int):
            num_bytes = len(prompt) * self.tokenizer.max_token_bytes
        else:
            num_bytes = sum(_num_bytes(text) for message in prompt for text in _texts(message))
        if num_bytes > self.max_text_bytes:
            least = -(-num_bytes // self.tokenizer.max_token_bytes)
            raise ContextLengthError(
                f"This model's maximum context length is {self.max_seq_len} tokens, but the prompt has at least "
                f"{least}; shorten it"
            )

    async def embed(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> Tensor:
        """Mean of each text's final hidden states, scaled to length 1: (N, dim) float32. A text may be token ids."""
        batch = [prompt.token_ids for prompt in await self.read_prompts(texts)]
        return await self.embed_token_ids(
            batch, priority=priority, owner=owner, salt=salt, adapter=adapter, meter=meter
        )

    async def embed_token_ids(
        self,
        batch: Sequence[Sequence[int]],
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> Tensor:
        """As `embed`, of encoded texts."""
        carried = await self._adapter(adapter)
        collectors = [MeanHidden(self.checkpoint.config.dim) for _ in batch]
        for first in range(0, len(batch), EMBED_TOGETHER):
            some = slice(first, first + EMBED_TOGETHER)
            await gathered(
                self.engine.collect(*pair, priority=priority, owner=owner, salt=salt, adapter=carried, meter=meter)
                for pair in zip(batch[some], collectors[some], strict=True)
            )
        return F.normalize(torch.stack([collector.mean for collector in collectors]), dim=-1)

    async def last_hidden(
        self,
        token_ids: Sequence[int],
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: str | None = None,
        meter: Meter | None = None,
    ) -> Tensor:
        """Final hidden state of an encoded text's last token, (dim,) float32: what a classifier's head reads."""
        collector = LastHidden()
        carried = await self._adapter(adapter)
        await self.engine.collect(
            token_ids, collector, priority=priority, owner=owner, salt=salt, adapter=carried, meter=meter
        )
        return collector.last

    async def score(self, token_ids: Sequence[int], *, adapter: str | None = None) -> list[float | None]:
        """Log-probability of each token given those before it; None for the first."""
        completion = await self.generate(token_ids, SamplingParams(max_tokens=0, prompt_logprobs=0), adapter=adapter)
        return [None if entry is None else entry.logprob for entry in completion.prompt_logprobs or ()]

    def health(self) -> Health:
        """Whether the engine is alive and moving."""
        return self.engine.health()

    def shutdown(self) -> None:
        """End the engine; requests still running end with EngineStoppedError."""
        self.engine.shutdown()

    async def _adapter(self, name: str | None) -> Adapter | None:
        """On another thread, since it may have to be read."""
        return None if name is None else await asyncio.to_thread(self.adapters.get, name)

    async def _complete(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None,
        priority: int,
        owner: str,
        salt: str | None,
        adapter: str | None,
        meter: Meter | None,
    ) -> Completion:
        params = sampling or self.default_sampling
        async with await self.start(
            prompt, params, priority=priority, owner=owner, salt=salt, adapter=adapter, meter=meter
        ) as stream:
            async for _ in stream:
                pass
            return stream.completion()


def _texts(message: object) -> Iterator[str]:
    """Of a message: those that every chat format writes down, so that they count whatever the format is."""
    content = message.get("content") if isinstance(message, Mapping) else None
    for chunk in [content] if isinstance(content, str) else content or ():
        text = chunk.get("text") if isinstance(chunk, Mapping) else chunk
        if isinstance(text, str):
            yield text


def _num_bytes(text: str) -> int:
    """At least; white space around a text is what some chat formats leave out."""
    return len(text.strip()) if text.isascii() else len(text.strip().encode(errors="replace"))


async def _encoded(work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(ENCODERS, work)


def _num_chars(prompt: object) -> int:
    """Characters of all texts in a prompt, roughly."""
    if isinstance(prompt, str):
        return len(prompt)
    if isinstance(prompt, Mapping):
        return sum(map(_num_chars, prompt.values()))
    if not isinstance(prompt, Sequence) or (prompt and isinstance(prompt[0], int)):
        return 0
    return sum(map(_num_chars, prompt))
