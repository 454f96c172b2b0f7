"""Log-probabilities of continuations from the engine: only the scores that are asked for, and shared prefixes once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tramontane.engine.engine import Engine
from tramontane.errors import CapacityError, CheckpointError, RequestError
from tramontane.evals.item import Likelihood
from tramontane.model.transformer import Transformer


@dataclass(frozen=True, slots=True)
class TokenPair:
    """Token ids before, and those whose probability is wanted; neither may be empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def fitted(self, max_tokens: int) -> TokenPair:
        """With the beginning of the context left out, so that the model reads at most `max_tokens`.

        Raises RequestError where the continuation alone is longer.
        """
        surplus = len(self.context) + len(self.continuation) - 1 - max_tokens
        if surplus <= 0:
            return self
        if surplus >= len(self.context):
            raise RequestError(
                f"a continuation of {len(self.continuation)} tokens does not fit into max_seq_len={max_tokens}"
            )
        return TokenPair(self.context[surplus:], self.continuation)


class _Scored:
    """Collector of the scores after positions `first` … of one input: of the token that follows in the input, and
    after its end of each of `endings`. What lies before `first` may come from the prefix cache."""

    def __init__(self, model: Transformer, token_ids: Sequence[int], first: int, endings: list[int], rows: int) -> None:
        self.model = model
        self.token_ids = token_ids
        self.endings = endings
        self.num_collected = self.first = first
        self.max_rows = rows
        self.logprobs: list[float] = []  # of token_ids[first + 1], …
        self.greedy: list[bool] = []
        self.ending_logprobs: dict[int, float] = {}
        self.likeliest_ending = -1

    def collect(self, hidden_TD: Tensor) -> None:
        for start in range(0, hidden_TD.shape[0], self.max_rows):
            self._collect(hidden_TD[start : start + self.max_rows])

    def _collect(self, hidden_TD: Tensor) -> None:
        position = self.num_collected
        self.num_collected += hidden_TD.shape[0]
        following = self.token_ids[position + 1 : self.num_collected + 1]
        logits_TV = self.model.logits(hidden_TD)
        normalisers = logits_TV.logsumexp(dim=-1)
        likeliest = logits_TV.argmax(dim=-1)
        if following:
            rows = torch.arange(len(following), device=logits_TV.device)
            ids = torch.tensor(following, device=logits_TV.device)
            self.logprobs += (logits_TV[rows, ids] - normalisers[: len(following)]).tolist()
            self.greedy += (likeliest[: len(following)] == ids).tolist()
        if self.num_collected == len(self.token_ids):
            ids = torch.tensor(self.endings, device=logits_TV.device)
            values = (logits_TV[-1, ids] - normalisers[-1]).tolist()
            self.ending_logprobs = dict(zip(self.endings, values, strict=True))
            self.likeliest_ending = int(likeliest[-1])

    def likelihood(self, pair: TokenPair) -> Likelihood:
        num_inner = len(pair.continuation) - 1
        ending = pair.continuation[-1]
        inner = self.logprobs[len(self.logprobs) - num_inner :]
        greedy = self.greedy[len(self.greedy) - num_inner :]
        return Likelihood(
            sum(inner) + self.ending_logprobs[ending], all(greedy) and ending == self.likeliest_ending, num_inner + 1
        )


def token_likelihoods(engine: Engine, pairs: Sequence[TokenPair]) -> list[Likelihood]:
    """The likelihood of every pair, computed together.

    Pairs that differ in their last token alone are computed once. Of those that share a context one goes first, so
    that the others find it in the prefix cache. Raises CheckpointError where the model's scores are not finite.
    """
    fitted = [pair.fitted(engine.max_seq_len) for pair in pairs]
    groups: dict[tuple[int, ...], list[TokenPair]] = {}
    for pair in fitted:
        groups.setdefault(pair.context + pair.continuation[:-1], []).append(pair)
    collectors: dict[tuple[int, ...], _Scored] = {}
    first_wave: list[tuple[int, ...]] = []
    second_wave: list[tuple[int, ...]] = []
    contexts: set[tuple[int, ...]] = set()
    for token_ids, group in groups.items():
        longest = max(len(pair.continuation) for pair in group)
        endings = list(dict.fromkeys(pair.continuation[-1] for pair in group))
        first = len(token_ids) - longest
        collectors[token_ids] = _Scored(engine.model, token_ids, first, endings, engine.max_logits_rows)
        (second_wave if group[0].context in contexts else first_wave).append(token_ids)
        contexts.update(pair.context for pair in group)
    for token_ids in (*first_wave, *second_wave):
        _add(engine, token_ids, collectors[token_ids])
    while engine.has_work:
        engine.step()
    results = [collectors[pair.context + pair.continuation[:-1]].likelihood(pair) for pair in fitted]
    if any(not torch.isfinite(torch.tensor(result.logprob)) for result in results):
        raise CheckpointError(
            "the model's scores are not finite: its weights are damaged or leave the range of the dtype; "
            "try --dtype float32"
        )
    return results


def _add(engine: Engine, token_ids: tuple[int, ...], collector: _Scored) -> None:
    """Queue an input, making room by computing first where the queue is full."""
    while True:
        try:
            engine.add_prompt(token_ids, collector)
            return
        except CapacityError:
            if not engine.has_work:
                raise
            engine.step()


def text_windows(token_ids: Sequence[int], prefix_ids: Sequence[int], window: int, stride: int) -> list[TokenPair]:
    """A text cut into pairs that score each token exactly once.

    The first window begins with `prefix_ids`; where there are none it begins with the first token, which is then not
    scored. Each of the next advances by `stride` (the last by what is left) and reads `window` tokens, so every token
    but those of the first window sees at least `window - stride` before it. With stride = window these are the
    rolling windows of the lm-evaluation-harness.
    """
    if not 1 <= stride <= window:
        raise RequestError(f"stride={stride} must lie between 1 and window={window}")
    pairs = []
    given = tuple(prefix_ids) or tuple(token_ids[:1])
    if scored := tuple(token_ids[0 if prefix_ids else 1 : window]):
        pairs.append(TokenPair(given, scored))
    for start in range(window, len(token_ids), stride):
        end = min(start + stride, len(token_ids))
        pairs.append(TokenPair(tuple(token_ids[end - window - 1 : start]), tuple(token_ids[start:end])))
    return pairs
