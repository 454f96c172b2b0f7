"""Log-probabilities of the model's raw distribution, and the collectors of a prompt's scores and hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tramontane.engine.draw import logsumexp, top_ids
from tramontane.engine.request import TokenLogprobs
from tramontane.model.transformer import Transformer


def token_logprobs(logits_V: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprobs:
    """The log-probability of `token_id`, and the `num_top` highest."""
    normaliser = logsumexp(logits_V)
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        ids = top_ids(logits_V, num_top)
        likeliest_first = ids[np.argsort(-logits_V[ids], kind="stable")]
        top = tuple((int(i), float(logits_V[i]) - normaliser) for i in likeliest_first)
    return TokenLogprobs(token_id, float(logits_V[token_id]) - normaliser, top)


class PromptLogprobs:
    """Collector of the log-probability of each prompt token after the first, given those before it."""

    def __init__(self, model: Transformer, token_ids: Sequence[int], num_top: int, max_rows: int) -> None:
        self.model = model
        self.token_ids = token_ids
        self.num_top = num_top
        self.max_rows = max_rows
        self.num_collected = 0
        self.logprobs: list[TokenLogprobs | None] = [None]

    def collect(self, hidden_TD: Tensor) -> None:
        first = self.num_collected + 1
        self.num_collected += hidden_TD.shape[0]
        next_token_ids = self.token_ids[first : self.num_collected + 1]
        rows = _logits_rows(self.model, hidden_TD[: len(next_token_ids)], self.max_rows)
        for logits_V, token_id in zip(rows, next_token_ids, strict=False):
            self.logprobs.append(token_logprobs(logits_V, token_id, self.num_top))


class Logits:
    """Collector of all scores of a prompt: `logits_TV`, float32 on the CPU."""

    def __init__(self, model: Transformer, num_tokens: int, max_rows: int) -> None:
        self.model = model
        self.max_rows = max_rows
        self.num_collected = 0
        self.logits_TV = torch.empty(num_tokens, model.config.vocab_size)

    def collect(self, hidden_TD: Tensor) -> None:
        for block_TD in _blocks(hidden_TD, self.max_rows):
            end = self.num_collected + block_TD.shape[0]
            self.logits_TV[self.num_collected : end] = self.model.logits(block_TD)
            self.num_collected = end


class MeanHidden:
    """Collector of the mean of a prompt's hidden states, summed in float64 token by token, so that the way the prompt
    was cut into chunks leaves no trace."""

    def __init__(self, dim: int) -> None:
        self.num_collected = 0
        self._sum_D = np.zeros(dim)

    def collect(self, hidden_TD: Tensor) -> None:
        for row_D in hidden_TD.double().cpu().numpy():
            self._sum_D += row_D
            self.num_collected += 1

    @property
    def mean(self) -> Tensor:
        """(D,) float32 on the CPU."""
        return torch.from_numpy(self._sum_D / self.num_collected).float()


class LastHidden:
    """Collector of the hidden state of a prompt's last token."""

    def __init__(self) -> None:
        self.num_collected = 0
        self._last_D: Tensor | None = None

    def collect(self, hidden_TD: Tensor) -> None:
        self.num_collected += len(hidden_TD)
        self._last_D = hidden_TD[-1].float().cpu()

    @property
    def last(self) -> Tensor:
        """(D,) float32 on the CPU. Raises ValueError before there is one."""
        if self._last_D is None:
            raise ValueError("nothing was collected")
        return self._last_D


def _logits_rows(model: Transformer, hidden_TD: Tensor, max_rows: int) -> Iterator[NDArray[np.float32]]:
    """One row of scores after the other, never more than `max_rows` of them in memory."""
    for block_TD in _blocks(hidden_TD, max_rows):
        yield from model.logits(block_TD).cpu().numpy()


def _blocks(hidden_TD: Tensor, max_rows: int) -> Iterator[Tensor]:
    for start in range(0, hidden_TD.shape[0], max_rows):
        yield hidden_TD[start : start + max_rows]
