"""Sampler: the next token of each sequence of a step, as SamplingParams ask."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tramontane.engine.draw import draw, uniform
from tramontane.engine.logprobs import token_logprobs
from tramontane.engine.request import Sequence, SequenceId, TokenLogprobs
from tramontane.engine.sampling import LogitsProcessor, SamplingParams
from tramontane.engine.step_plan import Chunk, StepPlan
from tramontane.errors import RequestError
from tramontane.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Sample:
    """A token, or why there is none."""

    token_id: int | None
    logprobs: TokenLogprobs | None = None
    error: str | None = None
    is_refused: bool = False  # the error is the request's own


MIN_PATIENCE_S = 1e-3
MAX_PATIENCE_S = 20e-3
"""How long a step waits for logits processors that are not done when its scores are: half as long again as it has
taken, within these bounds; the upper one where it has nothing else to draw."""


class Sampler:
    """Rows are treated one by one, each seeing its own sequence only; plain greedy rows share one argmax."""

    def __init__(self, model: Transformer, max_rows: int) -> None:
        self.model = model
        self.max_rows = max_rows
        self._adjustments: dict[SequenceId, LogitsAdjustment] = {}
        self._started = 0.0  # when the step did

    def sample(self, plan: StepPlan, hidden_ND: Tensor) -> list[list[Sample]]:
        """For each of `plan.samples` what was drawn: one Sample, or, where a chunk has a draft, one for each guess that
        was drawn and one after them; none where logits processors are not done. The rows of `hidden_ND` are those of
        `Runner.run`."""
        self._wait(plan)
        sampled = [chunk for chunk in plan.chunks if chunk.samples]
        samples: list[list[Sample]] = []
        first_row = 0
        for block in _blocks(sampled, self.max_rows):
            num_rows = sum(1 + len(chunk.draft) for chunk in block)
            scores = Scores(self.model.logits(hidden_ND[first_row : first_row + num_rows]))
            samples += self._sample_block(block, scores)
            first_row += num_rows
        return samples

    def prepare(self, plan: StepPlan) -> None:
        """The plan is about to be computed: logits processors that can work ahead begin."""
        self._started = time.perf_counter()
        for chunk in plan.chunks:
            for sequence in chunk.samples:
                if not sequence.request.params.logits_processors or sequence.is_pending:
                    continue
                if sequence.pending is None or sequence.pending.exception() is None:
                    sequence.pending = self._adjustment(sequence).prepare(chunk.draft)

    def _wait(self, plan: StepPlan) -> None:
        pending = [sequence.pending for sequence in plan.samples if sequence.pending is not None]
        if not pending:
            return
        patience = MAX_PATIENCE_S
        if len(pending) < len(plan.samples):
            patience = min(patience, max(MIN_PATIENCE_S, (time.perf_counter() - self._started) / 2))
        wait(pending, patience)

    def forget(self, sequence_id: SequenceId) -> None:
        """The sequence has ended."""
        self._adjustments.pop(sequence_id, None)

    def forced_token_ids(self, sequence: Sequence) -> list[int]:
        """What its logits processors say must come next."""
        if not sequence.request.params.logits_processors:
            return []
        forced = self._adjustment(sequence).forced_token_ids()
        return forced if all(0 <= token_id < self.model.config.vocab_size for token_id in forced) else []

    def _adjustment(self, sequence: Sequence) -> LogitsAdjustment:
        adjustment = self._adjustments.get(sequence.sequence_id)
        if adjustment is None:
            adjustment = self._adjustments[sequence.sequence_id] = LogitsAdjustment(sequence)
        return adjustment

    def _sample_block(self, chunks: SequenceOf[Chunk], scores: Scores) -> Iterator[list[Sample]]:
        row = 0
        for chunk in chunks:
            for sequence in chunk.samples:
                if sequence.is_pending:
                    yield []
                elif chunk.draft:
                    yield self._verify(chunk, scores, row)
                else:
                    yield [self._sample_row(sequence, scores, row)]
                if not sequence.is_pending:
                    sequence.pending = None
            row += 1 + len(chunk.draft)

    def _verify(self, chunk: Chunk, scores: Scores, row: int) -> list[Sample]:
        """Draw token by token, each seeing those before it, as long as the draws are the guesses."""
        sequence = chunk.sequence
        num_tokens = len(sequence.token_ids)
        samples: list[Sample] = []
        try:
            for guess in chunk.draft:
                sample = self._sample_row(sequence, scores, row + len(samples))
                samples.append(sample)
                if sample.token_id != guess or guess in sequence.request.stop_token_ids:
                    return samples
                sequence.token_ids.append(guess)  # for those after it to see; `commit` decides
            samples.append(self._sample_row(sequence, scores, row + len(samples)))
        finally:
            del sequence.token_ids[num_tokens:]
        return samples

    def _sample_row(self, sequence: Sequence, scores: Scores, row: int) -> Sample:
        params = sequence.request.params
        highest = scores.highest[row]
        if not -math.inf < highest < math.inf:
            return Sample(None, error=f"the model's scores are not finite (highest: {highest})")
        if params.is_plain_greedy:
            return Sample(scores.likeliest[row])
        return self._draw(sequence, params, scores.arrays[row])

    def _draw(self, sequence: Sequence, params: SamplingParams, logits_V: NDArray[np.float32]) -> Sample:
        adjusted_V = logits_V
        if params.adjusts_logits:
            adjustment = self._adjustment(sequence)
            try:
                if sequence.pending is not None:
                    sequence.pending.result(0)
                adjusted_V = adjustment.apply(logits_V)
            except RequestError as error:
                return Sample(None, error=str(error), is_refused=True)
            except Exception as error:  # a processor is the caller's code: its failure ends this answer, nothing else
                return Sample(None, error=f"logits processor failed: {type(error).__name__}: {error}")
            if not -np.inf < adjusted_V.max() < np.inf:
                return Sample(None, error="logits processors and biases leave no token that could be drawn")
        number = uniform(sequence.request.seed, sequence.index, len(sequence.token_ids))
        try:
            token_id = draw(adjusted_V, params, number)
        except Exception as error:  # whatever is wrong with one request must not end all others
            return Sample(None, error=f"no token could be drawn: {type(error).__name__}: {error}")
        logprobs = None if params.logprobs is None else token_logprobs(logits_V, token_id, params.logprobs)
        return Sample(token_id, logprobs)


class Scores:
    """Scores of some rows, and of each row the highest and whose it is."""

    def __init__(self, logits_NV: Tensor) -> None:
        self._logits_NV = logits_NV
        if logits_NV.device.type == "cpu":
            rows = self.arrays
            self.likeliest: list[int] = rows.argmax(axis=-1).tolist()  # numpy takes 0.7 us for 8192, torch 8.5 us
            self.highest: list[float] = [float(row[i]) for row, i in zip(rows, self.likeliest, strict=True)]
        else:
            self.highest, self.likeliest = (values.tolist() for values in logits_NV.max(dim=-1))

    @cached_property
    def arrays(self) -> NDArray[np.float32]:
        """(N, V)"""
        rows: NDArray[np.float32] = self._logits_NV.cpu().numpy()
        return rows


def wait_for_processors(sequences: Iterable[Sequence]) -> None:
    """Until one of those that wait for their logits processors need not any more, or a moment has passed."""
    pending = [sequence.pending for sequence in sequences if sequence.pending is not None]
    wait(pending, MAX_PATIENCE_S, FIRST_COMPLETED)


def _blocks(chunks: SequenceOf[Chunk], max_rows: int) -> Iterator[list[Chunk]]:
    """Chunks in order, at most `max_rows` rows to sample together; a chunk has no more."""
    block: list[Chunk] = []
    num_rows = 0
    for chunk in chunks:
        if num_rows + 1 + len(chunk.draft) > max_rows and block:
            yield block
            block, num_rows = [], 0
        block.append(chunk)
        num_rows += 1 + len(chunk.draft)
    if block:
        yield block


class LogitsAdjustment:
    """What one answer's scores go through before the draw: processors, biases, min_tokens, penalties."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        params = sequence.request.params
        self.params = params
        self.processors: list[LogitsProcessor] = [
            processor.clone() if hasattr(processor, "clone") else processor for processor in params.logits_processors
        ]
        self.bias_ids = np.fromiter(params.logit_bias.keys(), np.intp)
        self.biases = np.fromiter(params.logit_bias.values(), np.float32)
        self.stop_ids = np.fromiter(sequence.request.stop_token_ids, np.intp)
        self._place: dict[int, int] = {}  # of each distinct token so far in the two arrays below
        self._ids = np.empty(64, np.intp)
        self._num_generated = np.empty(64, np.float32)  # how often it was generated
        self._num_counted = 0

    def apply(self, logits_V: NDArray[np.float32]) -> NDArray[np.float32]:
        """Adjusted scores, in a new array."""
        sequence, params = self.sequence, self.params
        adjusted_V = logits_V.copy()
        for processor in self.processors:
            result = processor(sequence.generated_token_ids, torch.from_numpy(adjusted_V))
            if result.shape != logits_V.shape or result.dtype != torch.float32:
                raise ValueError(f"returned {result.dtype} {tuple(result.shape)}, not float32 {logits_V.shape}")
            adjusted_V = result.cpu().numpy()
        adjusted_V[self.bias_ids] += self.biases
        if sequence.num_generated_tokens < params.min_tokens:
            adjusted_V[self.stop_ids] = -np.inf
        if params.has_penalties:
            self._count_new_tokens()
            ids, counts = self._ids[: len(self._place)], self._num_generated[: len(self._place)]
            scores = adjusted_V[ids]
            penalty = np.float32(params.repetition_penalty)
            scores = np.where(scores > 0, scores / penalty, scores * penalty)
            scores -= params.presence_penalty * (counts > 0) + params.frequency_penalty * counts
            adjusted_V[ids] = scores
        return adjusted_V

    def forced_token_ids(self) -> list[int]:
        """Guesses of the first processor that has any; wrong ones cost time only, and a failure shows in `apply`."""
        generated_token_ids = self.sequence.generated_token_ids
        for processor in self.processors:
            if hasattr(processor, "forced_token_ids"):
                with suppress(Exception):
                    if forced := processor.forced_token_ids(generated_token_ids):
                        return [int(token_id) for token_id in forced]
        return []

    def prepare(self, draft: SequenceOf[int]) -> Future[None] | None:
        """What of the processors' work for the next draws is under way; only one of them can work ahead."""
        for processor in self.processors:
            if hasattr(processor, "prepare"):
                pending: Future[None] | None = processor.prepare(self.sequence.generated_token_ids, draft)
                return pending
        return None

    def _count_new_tokens(self) -> None:
        sequence = self.sequence
        for position in range(self._num_counted, len(sequence.token_ids)):
            token_id = sequence.token_ids[position]
            place = self._place.get(token_id)
            if place is None:
                place = self._place[token_id] = len(self._place)
                if place == len(self._ids):
                    self._ids = np.resize(self._ids, 2 * place)
                    self._num_generated = np.resize(self._num_generated, 2 * place)
                self._ids[place] = token_id
                self._num_generated[place] = 0
            self._num_generated[place] += position >= sequence.num_prompt_tokens
        self._num_counted = len(sequence.token_ids)
