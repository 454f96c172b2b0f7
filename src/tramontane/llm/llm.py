"""LLM: a model answering in this process, one prompt or many at once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from tramontane.engine.engine import Engine
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import CapacityError
from tramontane.hub import resolve_model
from tramontane.llm.completion import Completion, Delta
from tramontane.llm.generation import Generation
from tramontane.llm.open_model import open_model
from tramontane.llm.prompt import Message, Prompt, chat_prompt, fim_prompt, read_prompt, text_prompt
from tramontane.loading import Progress
from tramontane.model.adapter import Adapter


class LLM:
    """A loaded model. Not for use from several threads at once; see AsyncLLM for that.

    >>> llm = LLM("models/mistral-7b")  # a folder, a .gguf file, a hub id that was pulled, or "default"
    >>> llm.generate(["The Mistral is"], SamplingParams(max_tokens=20))[0].text
    >>> llm.chat([{"role": "user", "content": "Who are you?"}]).text
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
        progress: Progress | None = None,
    ) -> None:
        """Load `model`; of a LoRA adapter's folder its base, with the adapter as `default_adapter`.

        `base`: the model that an adapter is for, where it is not the one it names.

        `weight_format`: how weights are held on a CPU, where native kernels compute with them in float32: `auto` as
        stored, or `f32`, `bf16`, `f16`, `q8_0`, `q4_0`, `q4_k`; `torch` holds plain tensors instead, computed by torch
        in `dtype`, as on a GPU. `max_seq_len`: longest prompt and answer together in tokens. `kv_cache_gib`: memory
        for keys and values, which are held in `kv_dtype`: `auto`, `float32`, `bfloat16`, `float16` or `q8_0`.
        `draft_model`: a small model of the same vocabulary, whose guesses make answers faster and never different.
        Raises ConfigError, CheckpointError or TokenizerError for a model that cannot be used, CapacityError where it
        does not fit. `default_sampling`, for calls that give none, is what the model's makers advise in
        generation_config.json, else greedy.
        """
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
            progress=progress,
        )
        self.checkpoint = opened.checkpoint
        self.default_sampling = SamplingParams(**opened.checkpoint.sampling)  # where a call gives none
        self.tokenizer = opened.tokenizer
        self.engine: Engine = opened.engine
        self.adapters = opened.adapters
        self._generations: dict[int, Generation] = {}

    @property
    def max_seq_len(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return self.engine.max_seq_len

    @property
    def reach(self) -> int:
        """How many tokens of a prompt an answer can depend on: all, or what windows reach through all layers."""
        return min(self.max_seq_len, self.checkpoint.config.reach or self.max_seq_len)

    @property
    def default_adapter(self) -> str | None:
        """The adapter whose folder this was opened as: what answers where a call names none. None: the bare model."""
        return self.adapters.default

    def load_adapter(self, path: Path | str, name: str | None = None) -> str:
        """Load a LoRA adapter (PEFT's or mistral-finetune's folder) and return the name that calls give it by
        (`adapter=`): `name`, by default the folder's. One batch may mix any adapters with the bare model; answers do
        not depend on it.

        Raises ConfigError or CheckpointError for an adapter that does not fit this model.
        """
        return self.adapters.load(resolve_model(str(path)), name)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises RequestError if there is none of that name."""
        self.adapters.unload(name)

    def generate(
        self,
        prompts: str | Sequence[str | Sequence[int]],
        sampling: SamplingParams | None = None,
        *,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Continue each prompt (text or token ids), all of them in one batch; completions in the order of prompts.

        Raises RequestError for a prompt that can never be served; the others are then given up too.
        """
        wanted = [prompts] if isinstance(prompts, str) else prompts
        return self._complete([text_prompt(self.tokenizer, prompt) for prompt in wanted], sampling, adapter)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        adapter: str | None = None,
    ) -> Completion:
        """Answer a conversation; `completion.message` has reasoning and tool calls apart from the text.

        Raises TokenizerError for a conversation this model's format cannot express.
        """
        return self._complete([chat_prompt(self.tokenizer, messages, tools)], sampling, adapter)[0]

    def count_chat_tokens(self, messages: Sequence[Message], tools: Sequence[Message] | None = None) -> int:
        """Tokens of a conversation as a prompt. Raises TokenizerError as `chat` does."""
        return len(chat_prompt(self.tokenizer, messages, tools).token_ids)

    def fill_in_middle(
        self, prompt: str, suffix: str | None, sampling: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Completion:
        """The text between `prompt` and `suffix`, from a model trained to fill in (Codestral, Code Llama)."""
        return self._complete([fim_prompt(self.tokenizer, prompt, suffix)], sampling, adapter)[0]

    def stream(
        self,
        prompt: str | Sequence[int] | Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        adapter: str | None = None,
    ) -> Generator[str, None, None]:
        """Text as it comes: of a conversation where `prompt` is a list of messages, else continuing the prompt.

        Closing the iterator ends the answer. Of n answers, the first is streamed.
        """
        for delta in self.stream_deltas(prompt, sampling, tools=tools, adapter=adapter):
            if delta.index == 0 and delta.text:
                yield delta.text

    def stream_deltas(
        self,
        prompt: str | Sequence[int] | Sequence[Message],
        sampling: SamplingParams | None = None,
        *,
        tools: Sequence[Message] | None = None,
        adapter: str | None = None,
    ) -> Generator[Delta, None, None]:
        """As `stream`, with token ids, reasoning, log-probabilities and the reason each answer ended.

        A step that adds nothing yet, such as a chunk of a long prompt, gives an empty Delta, so that a caller can
        stop between any two steps.
        """
        params = sampling or self.default_sampling
        request_id = self._add(read_prompt(self.tokenizer, prompt, tools), params, self._adapter(adapter))
        generation = self._generations[request_id]
        try:
            while not generation.is_finished:
                self._step()
                if not generation.deltas:
                    yield Delta(0, "", ())
                while generation.deltas:
                    yield generation.deltas.popleft()
        finally:
            self._drop(request_id)

    def embed(self, texts: Sequence[str], *, adapter: str | None = None) -> Tensor:
        """Mean of each text's final hidden states, scaled to length 1: (N, dim) float32.

        How well these stand for meaning depends on the model; a chat model's are only rough.
        """
        batch = [self.tokenizer.encode_prompt(text) for text in texts]
        return F.normalize(self.engine.embed(batch, adapter=self._adapter(adapter)), dim=-1)

    def score(self, token_ids: Sequence[int], *, adapter: str | None = None) -> list[float | None]:
        """Log-probability of each token given those before it; None for the first."""
        return self.engine.score(token_ids, adapter=self._adapter(adapter))

    def logits(self, token_ids: Sequence[int], *, adapter: str | None = None) -> Tensor:
        """Scores of the whole vocabulary after each token, (T, V) float32."""
        return self.engine.logits(token_ids, adapter=self._adapter(adapter))

    def _adapter(self, name: str | None) -> Adapter | None:
        return None if name is None else self.adapters.get(name)

    def _complete(
        self, prompts: Sequence[Prompt], sampling: SamplingParams | None, adapter_name: str | None
    ) -> list[Completion]:
        params, adapter = sampling or self.default_sampling, self._adapter(adapter_name)
        request_ids: list[int] = []
        try:
            request_ids.extend(self._add_waiting(prompt, params, adapter) for prompt in prompts)
            generations = [self._generations[request_id] for request_id in request_ids]
            while not all(generation.is_finished for generation in generations):
                self._step()
            return [generation.completion() for generation in generations]
        finally:
            for request_id in request_ids:
                self._drop(request_id)

    def _add_waiting(self, prompt: Prompt, params: SamplingParams, adapter: Adapter | None) -> int:
        """Queue a prompt, making room in the queue by computing first where it is full."""
        while True:
            try:
                return self._add(prompt, params, adapter)
            except CapacityError:
                if not self.engine.has_work:
                    raise
                self._step()

    def _add(self, prompt: Prompt, params: SamplingParams, adapter: Adapter | None) -> int:
        request_id = self.engine.add(prompt.token_ids, params, adapter=adapter)
        self._generations[request_id] = Generation(prompt, params)
        return request_id

    def _step(self) -> None:
        """One step of the engine; its outputs go to whoever waits for them, be it another call on this LLM."""
        for output in self.engine.step():
            generation = self._generations.get(output.request_id)
            if generation is not None and generation.take(output):
                self.engine.finish(output.sequence_id, "stop")

    def _drop(self, request_id: int) -> None:
        """Forget a request; ends it if it is not over."""
        self._generations.pop(request_id, None)
        self.engine.abort(request_id)
