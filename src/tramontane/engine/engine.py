"""Engine: token ids in, token ids out; many requests at once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tramontane.config import ModelConfig
from tramontane.engine.draft_model import DraftModel
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.integrity import check_integrity
from tramontane.engine.kv_cache import KvCache, model_kv_dtype, page_bytes, resolve_num_pages
from tramontane.engine.logprobs import Logits, MeanHidden, PromptLogprobs
from tramontane.engine.page_allocator import PageAllocator
from tramontane.engine.request import Collector, FinishReason, Output, Request, Sequence, SequenceId
from tramontane.engine.runner import Runner
from tramontane.engine.sampler import Sample, Sampler, wait_for_processors
from tramontane.engine.sampling import SamplingParams
from tramontane.engine.scheduler import Scheduler
from tramontane.engine.shares import TokenCost
from tramontane.engine.speculation import Drafter, PromptLookup
from tramontane.engine.step_plan import StepPlan
from tramontane.errors import ConfigError, ContextLengthError, RequestError
from tramontane.model.adapter import Adapter
from tramontane.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class GroupStats:
    """Pages of one window group."""

    window: int | None
    page_bytes: int  # in all layers of the group
    num_pages: int
    num_held: int  # by running sequences
    num_cached: int  # reusable by a request with the same beginning, free for others
    num_touched: int  # used at least once: the others take no memory yet
    num_evictions: int  # cached pages given up for others


@dataclass(frozen=True, slots=True)
class EngineStats:
    num_running: int
    num_waiting: int
    num_steps: int
    num_preemptions: int
    num_computed_tokens: int  # prompt and generated, recomputation included
    num_generated_tokens: int
    num_drafted_tokens: int  # guesses that were verified
    num_accepted_tokens: int  # guesses that were right
    num_prompt_tokens: int  # of requests that computing has begun for
    num_cached_tokens: int  # prompt tokens taken from the prefix cache
    groups: tuple[GroupStats, ...]


class Engine:
    """`add` requests, call `step` while `has_work`, read the Outputs. Not for use from several threads at once."""

    def __init__(
        self,
        model: Transformer,
        config: EngineConfig | None = None,
        *,
        draft_model: Transformer | None = None,
        default_adapter: Adapter | None = None,
    ) -> None:
        """`draft_model`: a small model of the same vocabulary that guesses what `model` says next; it makes answers
        faster where it is right and never different. `default_adapter` is what every request carries that names no
        other: it is held here, below all callers, so that none can leave it out.

        Raises CapacityError if the KV cache does not fit, ConfigError for sizes or a draft model that do not suit the
        model.
        """
        self.model = model
        self.config = config = config or EngineConfig()
        for token_id in config.eos_token_ids:
            if not 0 <= token_id < model.config.vocab_size:
                raise ConfigError(f"eos_token_ids holds {token_id}, beyond vocab_size={model.config.vocab_size}")
        self.kv_dtype = model_kv_dtype(config.kv_dtype, model)
        num_pages = resolve_num_pages(model.config, config, self.kv_dtype, model.device)
        windows = model.config.windows
        allocator = PageAllocator(config.page_size, windows, num_pages, prefix_cache=config.prefix_cache)
        self.max_logits_rows = max(1, config.max_logits_bytes // (4 * model.config.vocab_size))
        max_draft_tokens = min(config.max_draft_tokens, self.max_logits_rows - 1)
        # where scores depend on company, a verified guess might not be what plain decoding draws
        self.sampler = Sampler(model, self.max_logits_rows)
        self.lookup: PromptLookup | None = None
        if max_draft_tokens and model.is_batch_invariant:
            self.lookup = PromptLookup(max_draft_tokens, self.sampler.forced_token_ids)
        self.scheduler = Scheduler(config, allocator, self._drafter(draft_model), _token_cost(model.config))
        self.runner = Runner(model, KvCache(model.config, num_pages, config.page_size, self.kv_dtype, model.device))
        wanted = config.max_seq_len or model.config.max_seq_len
        self.max_seq_len = wanted if allocator.max_tokens is None else min(wanted, allocator.max_tokens)
        self._is_bound_by_cache = self.max_seq_len < wanted
        self.default_adapter = default_adapter
        self._requests: dict[int, Request] = {}
        self._outputs: list[Output] = []  # to be returned by the next step
        self._num_requests = 0
        self._num_computed_tokens = self._num_generated_tokens = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or bool(self._outputs)

    def add(
        self,
        token_ids: SequenceOf[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        first_index: int = 0,
        adapter: Adapter | None = None,
    ) -> int:
        """Queue a request and return its id. Its answers are numbered from `first_index`; with a seed, answer i is the
        same whether asked for alone or among others. Cached prefixes are reused only between equal salts and adapters.
        `adapter`, else `default_adapter`, answers in place of the bare model; it stays in memory while anything here
        needs it.

        Raises RequestError if it can never be served, CapacityError if the queue is full.
        """
        collector = None
        if params.prompt_logprobs is not None:
            collector = PromptLogprobs(self.model, token_ids, params.prompt_logprobs, self.max_logits_rows)
        return self._add(token_ids, params, priority, owner, salt, first_index, collector, adapter)

    def add_prompt(
        self,
        token_ids: SequenceOf[int],
        collector: Collector,
        *,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        adapter: Adapter | None = None,
    ) -> int:
        """Queue a prompt that is computed for `collector` alone and draws nothing; errors as in `add`."""
        return self._add(token_ids, SamplingParams(max_tokens=0), priority, owner, salt, 0, collector, adapter)

    def request(self, request_id: int) -> Request:
        """One that is not over. Raises KeyError."""
        return self._requests[request_id]

    def step(self) -> list[Output]:
        """Compute one batch; what it added to the answers. Should computing fail, the batch is put back untouched."""
        if not self.scheduler.has_work:
            return self._take_outputs()
        plan = self.scheduler.plan()
        if not plan.chunks:  # all that runs waits for its logits processors
            self.scheduler.cancel()
            wait_for_processors(self.scheduler.running)
            return self._take_outputs()
        started = time.perf_counter()
        try:
            self.sampler.prepare(plan)
            with torch.inference_mode():
                samples = self.sampler.sample(plan, self.runner.run(plan))
        except BaseException:
            self.scheduler.cancel()
            raise
        if self.lookup is not None and plan.is_decoding:
            self.lookup.costs.observe(plan.num_tokens, time.perf_counter() - started)
        self._commit(plan, samples)
        return self._take_outputs()

    def abort(self, request_id: int) -> None:
        """End all answers of a request and free their pages now. Does nothing if it is over."""
        if request_id in self._requests:
            self._end(self._requests[request_id], "abort")

    def finish(self, sequence_id: SequenceId, reason: FinishReason = "stop") -> None:
        """End one answer, as the text layer does at a stop string. Does nothing if it is over."""
        request = self._requests.get(sequence_id.request_id)
        if request is None:
            return
        if not request.is_forked:
            self._end(request, reason)
            return
        for sequence in request.sequences:
            if sequence.sequence_id == sequence_id and not sequence.is_finished:
                self.scheduler.finish(sequence, reason)
                self._outputs.append(self._output(sequence, ()))

    def check_integrity(self) -> None:
        """Raises RuntimeError if any page, table or queue is not as it must be."""
        check_integrity(self.scheduler)

    def stats(self) -> EngineStats:
        allocator = self.scheduler.allocator
        sizes = page_bytes(self.model.config, self.config.page_size, self.kv_dtype)
        return EngineStats(
            num_running=len(self.scheduler.running),
            num_waiting=len(self.scheduler.waiting),
            num_steps=self.scheduler.num_steps,
            num_preemptions=self.scheduler.num_preemptions,
            num_computed_tokens=self._num_computed_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_drafted_tokens=0 if self.lookup is None else self.lookup.num_drafted_tokens,
            num_accepted_tokens=0 if self.lookup is None else self.lookup.num_accepted_tokens,
            num_prompt_tokens=self.scheduler.num_prompt_tokens,
            num_cached_tokens=self.scheduler.num_cached_tokens,
            groups=tuple(
                GroupStats(
                    window=window,
                    page_bytes=size,
                    num_pages=pool.num_pages,
                    num_held=pool.num_held,
                    num_cached=len(pool.cached),
                    num_touched=pool.num_pages - pool.num_untouched,
                    num_evictions=pool.num_evictions,
                )
                for window, size, pool in zip(allocator.windows, sizes, allocator.pools, strict=True)
            ),
        )

    @contextmanager
    def plain_decoding(self) -> Iterator[None]:
        """No guesses within: each step computes one token of every sequence, as decoding speed is compared. Answers
        are the same."""
        drafter, self.scheduler.drafter = self.scheduler.drafter, None
        try:
            yield
        finally:
            self.scheduler.drafter = drafter

    def score(self, token_ids: SequenceOf[int], *, adapter: Adapter | None = None) -> list[float | None]:
        """Log-probability of each token given those before it; None for the first."""
        collector = PromptLogprobs(self.model, token_ids, 0, self.max_logits_rows)
        self._complete({self.add_prompt(token_ids, collector, adapter=adapter)})
        return [None if entry is None else entry.logprob for entry in collector.logprobs]

    def logits(self, token_ids: SequenceOf[int], *, adapter: Adapter | None = None) -> Tensor:
        """Scores of the whole vocabulary after each token: (T, V) float32 on the CPU."""
        collector = Logits(self.model, len(token_ids), self.max_logits_rows)
        self._complete({self.add_prompt(token_ids, collector, adapter=adapter)})
        return collector.logits_TV

    def embed(self, batch: SequenceOf[SequenceOf[int]], *, adapter: Adapter | None = None) -> Tensor:
        """Mean over each text's final hidden states, not normalised: (N, D) float32 on the CPU."""
        collectors = [MeanHidden(self.model.config.dim) for _ in batch]
        pending: set[int] = set()
        for token_ids, collector in zip(batch, collectors, strict=True):
            if len(self.scheduler.waiting) >= self.config.max_waiting:
                self._complete(pending)
            pending.add(self.add_prompt(token_ids, collector, adapter=adapter))
        self._complete(pending)
        embeddings_ND = torch.empty(len(batch), self.model.config.dim)
        for row_D, collector in zip(embeddings_ND, collectors, strict=True):
            row_D.copy_(collector.mean)
        return embeddings_ND

    def _drafter(self, draft_model: Transformer | None) -> Drafter | None:
        if draft_model is None:
            return self.lookup
        if self.lookup is None:
            raise ConfigError(
                "a draft model needs max_draft_tokens above 0 and a model on the native CPU kernels, whose scores do "
                "not depend on company; leave draft_model out"
            )
        if draft_model.config.vocab_size != self.model.config.vocab_size:
            raise ConfigError(
                f"the draft model has a vocabulary of {draft_model.config.vocab_size} tokens, the model one of "
                f"{self.model.config.vocab_size}; they must be the same"
            )
        return DraftModel(draft_model, self.config, self.lookup)

    def _add(
        self,
        token_ids: SequenceOf[int],
        params: SamplingParams,
        priority: int,
        owner: str,
        salt: str | None,
        first_index: int,
        collector: Collector | None,
        adapter: Adapter | None,
    ) -> int:
        adapter = adapter or self.default_adapter
        if adapter is not None and adapter.model is not self.model:
            raise ValueError("the adapter was made for another model")
        prompt = list(token_ids)
        self._check_token_ids(prompt, "prompt")
        self._check_token_ids(params.logit_bias, "logit_bias")
        self._check_token_ids(params.stop_token_ids, "stop_token_ids")
        self._check_token_ids(params.prediction, "prediction")
        eos = () if params.ignore_eos else self.config.eos_token_ids
        request = Request(
            request_id=self._num_requests,
            prompt_token_ids=prompt,
            params=params,
            seed=secrets.randbits(63) if params.seed is None else params.seed,
            stop_token_ids=frozenset((*eos, *params.stop_token_ids)),
            max_total_tokens=self._max_total_tokens(len(prompt), params),
            priority=priority,
            owner=owner,
            salt=salt,
            first_index=first_index,
            collector=collector,
            adapter=adapter,
        )
        self.scheduler.add(request)
        self._num_requests += 1
        self._requests[request.request_id] = request
        return request.request_id

    def _check_token_ids(self, token_ids: Iterable[int], name: str) -> None:
        vocab_size = self.model.config.vocab_size
        for token_id in token_ids:
            if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
                raise RequestError(f"{name} holds {token_id!r}, which is no token id (0 to {vocab_size - 1})")

    def _max_total_tokens(self, num_prompt_tokens: int, params: SamplingParams) -> int:
        limit, max_tokens = self.max_seq_len, params.max_tokens
        if num_prompt_tokens == 0:
            raise RequestError("the prompt is empty; give at least one token")
        wanted = num_prompt_tokens + (1 if max_tokens is None else max_tokens)
        if wanted > limit:
            place = " (all that the KV cache holds: kv_cache_gib)" if self._is_bound_by_cache else ""
            need = f"the prompt has {num_prompt_tokens}"
            if max_tokens is not None and num_prompt_tokens < limit:
                need += f" and max_tokens asks for {max_tokens} more; shorten the prompt or lower max_tokens"
            else:
                need += "; shorten it" if max_tokens == 0 else ", which leaves no room for an answer; shorten it"
            raise ContextLengthError(f"This model's maximum context length is {limit} tokens{place}, but {need}")
        if max_tokens is None and params.default_max_tokens is not None:
            return min(limit, num_prompt_tokens + max(params.default_max_tokens, params.min_tokens))
        return limit if max_tokens is None else wanted

    def _commit(self, plan: StepPlan, samples: SequenceOf[SequenceOf[Sample]]) -> None:
        self.scheduler.commit(plan, [[sample.token_id for sample in drawn] for drawn in samples])
        self._num_computed_tokens += plan.num_tokens
        for sequence, drawn in zip(plan.samples, samples, strict=True):
            if not drawn:
                continue
            sequence.error = drawn[-1].error
            if drawn[-1].is_refused:
                sequence.finish_reason = "refused"
            self._outputs.append(self._output(sequence, drawn))
        for chunk in plan.chunks:
            if chunk.sequence.is_finished and not chunk.samples:
                self._outputs += [self._output(sequence, ()) for sequence in chunk.sequence.request.sequences]

    def _end(self, request: Request, reason: FinishReason) -> None:
        finished = [sequence for sequence in request.sequences if sequence.is_finished]
        self.scheduler.end(request, reason)
        self._outputs += [self._output(sequence, ()) for sequence in request.sequences if sequence not in finished]

    def _complete(self, request_ids: set[int]) -> None:
        """Step until these requests are over; what other requests received meanwhile is kept for the next step."""
        others: list[Output] = []
        try:
            while not request_ids.isdisjoint(self._requests):
                others += [output for output in self.step() if output.request_id not in request_ids]
        finally:
            self._outputs = others + self._outputs
        self._outputs = [output for output in self._outputs if output.request_id not in request_ids]

    def _take_outputs(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def _output(self, sequence: Sequence, samples: SequenceOf[Sample]) -> Output:
        """What is new of one answer; the books of one that is over are closed."""
        request = sequence.request
        token_ids = tuple(sample.token_id for sample in samples if sample.token_id is not None)
        logprobs = tuple(sample.logprobs for sample in samples if sample.logprobs is not None) or None
        self._num_generated_tokens += len(token_ids)
        prompt_logprobs = None
        collector = request.collector
        if isinstance(collector, PromptLogprobs) and collector.num_collected == sequence.num_prompt_tokens:
            prompt_logprobs = tuple(collector.logprobs)
            request.collector = None  # delivered once, with the first Output, which is the first answer's
        if sequence.is_finished:
            self.sampler.forget(sequence.sequence_id)
            if sequence.pending is not None:
                sequence.pending.cancel()
            if request.is_finished:
                self._requests.pop(request.request_id, None)
        return Output(
            sequence.sequence_id,
            token_ids,
            sequence.finish_reason,
            logprobs,
            prompt_logprobs,
            request.sequences[0].num_cached_tokens or 0,
            sequence.error,
        )


def _token_cost(config: ModelConfig) -> TokenCost:
    """By multiplications: those with weights, and those with the keys and values of one token more."""
    heads_dim = config.n_heads * config.head_dim
    num_experts = 1 if config.moe is None else config.moe.num_experts_per_tok
    projections = 2 * config.dim * (heads_dim + config.n_kv_heads * config.head_dim)
    with_weights = projections + 3 * num_experts * config.dim * config.hidden_dim
    windows = [window for window in config.windows if window is not None]
    return TokenCost(with_weights / (2 * heads_dim), max(windows) if len(windows) == len(config.windows) else None)
