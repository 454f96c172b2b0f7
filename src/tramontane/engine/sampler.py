"""Sampler: the next token of each sequence of a step, as SamplingParams ask."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tramontane.engine.draw import draw, uniform
from tramontane.engine.logprobs import token_logprobs
from tramontane.engine.request import Sequence, SequenceId, TokenLogprobs
from tramontane.engine.sampling import LogitsProcessor, SamplingParams
from tramontane.engine.scheduler import StepPlan
from tramontane.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Sample:
    """A token, or why there is none."""

    token_id: int | None
    logprobs: TokenLogprobs | None = None
    error: str | None = None


class Sampler:
    """Rows are treated one by one, each seeing its own sequence only; plain greedy rows share one argmax."""

    def __init__(self, model: Transformer, max_rows: int) -> None:
        self.model = model
        self.max_rows = max_rows
        self._adjustments: dict[SequenceId, LogitsAdjustment] = {}

    @torch.inference_mode()
    def sample(self, plan: StepPlan, hidden_ND: Tensor) -> list[Sample]:
        """One Sample for each of `plan.samples`; row n of `hidden_ND` belongs to the n-th chunk that has samples."""
        sampled = [chunk.samples for chunk in plan.chunks if chunk.samples]
        samples: list[Sample] = []
        for start in range(0, len(sampled), self.max_rows):
            logits_NV = self.model.logits(hidden_ND[start : start + self.max_rows])
            samples += self._sample_rows(sampled[start : start + self.max_rows], logits_NV)
        return samples

    def forget(self, sequence_id: SequenceId) -> None:
        """The sequence has ended."""
        self._adjustments.pop(sequence_id, None)

    def _sample_rows(self, sampled: SequenceOf[SequenceOf[Sequence]], logits_NV: Tensor) -> Iterator[Sample]:
        rows: NDArray[np.float32] | None = None
        if logits_NV.device.type == "cpu":
            rows = logits_NV.numpy()
            likeliest = rows.argmax(axis=-1)  # numpy's takes 0.7 us for 8192 scores, torch's 8.5 us
            likeliest_N, highest_N = likeliest.tolist(), rows[np.arange(len(rows)), likeliest].tolist()
        else:
            highest_N, likeliest_N = (values.tolist() for values in logits_NV.max(dim=-1))
        for n, sequences in enumerate(sampled):
            for sequence in sequences:
                params = sequence.request.params
                if not -np.inf < highest_N[n] < np.inf:
                    yield Sample(None, error=f"the model's scores are not finite (highest: {highest_N[n]})")
                elif params.is_plain_greedy:
                    yield Sample(likeliest_N[n])
                else:
                    if rows is None:
                        rows = logits_NV.cpu().numpy()
                    yield self._sample_row(sequence, params, rows[n])

    def _sample_row(self, sequence: Sequence, params: SamplingParams, logits_V: NDArray[np.float32]) -> Sample:
        adjusted_V = logits_V
        if params.adjusts_logits:
            adjustment = self._adjustments.get(sequence.sequence_id)
            if adjustment is None:
                adjustment = self._adjustments[sequence.sequence_id] = LogitsAdjustment(sequence)
            try:
                adjusted_V = adjustment.apply(logits_V)
            except Exception as error:  # a processor is the caller's code: its failure ends this answer, nothing else
                return Sample(None, error=f"logits processor failed: {type(error).__name__}: {error}")
            if not -np.inf < adjusted_V.max() < np.inf:
                return Sample(None, error="logits processors and biases leave no token that could be drawn")
        number = uniform(sequence.request.seed, sequence.index, len(sequence.token_ids))
        token_id = draw(adjusted_V, params, number)
        logprobs = None if params.logprobs is None else token_logprobs(logits_V, token_id, params.logprobs)
        return Sample(token_id, logprobs)


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
