"""A 5-gram language model with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999): the baseline that a
neural model has to beat on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tramontane.errors import RequestError
from tramontane.evals.item import Likelihood, Pair, Question, Text, TextScore
from tramontane.evals.likelihood import TokenPair
from tramontane.evals.target import encode_pair, text_pairs
from tramontane.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]
    Counts = NDArray[np.int32]

ORDER = 5
FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True)
class _Level:
    """The n-grams of one length. `keys` (N,), ascending: rank of the first n - 1 tokens among the level below, times
    the size of the vocabulary, plus the last token. `discounted` (N,): count less discount, over the total of the
    context. `backoff` (M,): what is left for the level below, by rank of the context."""

    keys: Ids
    discounted: NDArray[np.float32]
    backoff: NDArray[np.float32]


class KneserNey:
    """Probabilities of tokens given up to four before them.

    Counts of the longest n-grams, and of those that begin a text, are as they are; those of all others are the number
    of different tokens seen before them. Each length has its own three discounts, from its counts of counts. Below
    single tokens lies the uniform distribution. Counting takes up to 60 bytes a token of memory.
    """

    def __init__(self, token_ids: Ids, starts: Ids, vocab_size: int) -> None:
        """`token_ids` (T,) are texts end to end; `starts` (N,) ascending, where each begins, the first being 0. Raises
        RequestError for ids beyond the vocabulary."""
        if len(token_ids) == 0 or token_ids.min() < 0 or token_ids.max() >= vocab_size:
            raise RequestError(f"token ids must be given, and lie between 0 and {vocab_size - 1}")
        self.vocab_size = vocab_size
        places = np.arange(len(token_ids), dtype=np.int32)
        places -= np.repeat(starts, np.diff(np.append(starts, len(token_ids)))).astype(np.int32)  # of each in its text
        ranks = np.zeros(len(token_ids), np.int32)  # of the context that ends before each token; level 0 has but one
        below_ranks = below_firsts = ranks  # of the length before
        counted: list[tuple[Ids, Counts]] = []
        for n in range(1, ORDER + 1):
            ends = np.flatnonzero(places >= n - 1).astype(np.int32)
            ids = ranks[ends].astype(np.int64) * vocab_size + token_ids[ends]
            keys, firsts, counts, ends_ranks = _grouped(ids)
            firsts = ends[firsts]
            if counted:
                # what the n-grams of this length say of the one a token shorter: how many different tokens precede it
                below_keys, below_counts = counted[-1]
                preceded = np.bincount(below_ranks[firsts], minlength=len(below_keys)).astype(np.int32)
                counted[-1] = (below_keys, np.where(places[below_firsts] == n - 2, below_counts, preceded))
            counted.append((keys, counts))
            below_firsts = firsts
            below_ranks = np.full(len(token_ids), -1, np.int32)
            below_ranks[ends] = ends_ranks
            del ends, ends_ranks
            ranks[0], ranks[1:] = -1, below_ranks[:-1]
        self.levels = [
            _level(keys, counts, vocab_size, 1 if n == 0 else len(counted[n - 1][0]))
            for n, (keys, counts) in enumerate(counted)
        ]

    @property
    def num_ngrams(self) -> list[int]:
        """How many different n-grams of each length are known."""
        return [len(level.keys) for level in self.levels]

    def logprobs(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """Natural logarithms of the probability of each token given those before it in the sequence, (T,)."""
        ids = np.asarray(token_ids, np.int64)
        probabilities = np.full(len(ids), 1.0 / self.vocab_size)
        contexts = np.zeros(len(ids), np.int64)  # rank of the n - 1 tokens before each, -1 where never seen
        for level in self.levels:
            known = contexts >= 0
            keys = np.where(known, contexts, 0) * self.vocab_size + ids
            places = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
            found = known & (level.keys[places] == keys)
            mass = np.where(found, level.discounted[places], 0.0)
            weight = np.where(known, level.backoff[np.where(known, contexts, 0)], 1.0)
            probabilities = mass + weight * probabilities
            contexts = np.concatenate([[-1], np.where(found, places, -1)[:-1]])
        log_probabilities: NDArray[np.float64] = np.log(probabilities)
        return log_probabilities


def _grouped(keys: Ids) -> tuple[Ids, Counts, Counts, Counts]:
    """The different keys (N,) ascending; where each comes first and how often, (N,); and which of them each key is."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    is_new = np.empty(len(keys), np.bool_)
    is_new[0] = True
    np.not_equal(keys[1:], keys[:-1], out=is_new[1:])
    groups = np.flatnonzero(is_new)
    ranks = np.empty(len(keys), np.int32)
    ranks[order] = np.cumsum(is_new, dtype=np.int32) - 1
    counts = np.diff(groups, append=len(keys)).astype(np.int32)
    return keys[groups], order[groups].astype(np.int32), counts, ranks


def _level(keys: Ids, counts: Counts, vocab_size: int, num_contexts: int) -> _Level:
    """Discounts D1, D2, D3+ from how many n-grams have counts 1 to 4; where these are no guide, as among few different
    tokens, FALLBACK. A context never followed backs off wholly."""
    at = [int((counts == k).sum()) for k in (1, 2, 3, 4)]
    share = at[0] / max(1, at[0] + 2 * at[1])
    found = [k - (k + 1) * share * at[k] / max(1, at[k - 1]) for k in (1, 2, 3)]
    is_guide = all(at) and all(0 < discount <= k for k, discount in enumerate(found, start=1))
    discounts = np.array([0.0, *(found if is_guide else FALLBACK)])
    taken = discounts[np.minimum(counts, 3)]
    contexts = keys // vocab_size
    totals = np.bincount(contexts, weights=counts, minlength=num_contexts)
    left = np.bincount(contexts, weights=taken, minlength=num_contexts)
    backoff = np.where(totals > 0, left / np.maximum(totals, 1), 1.0)
    discounted = (counts - taken) / np.maximum(totals, 1)[contexts]
    return _Level(keys, discounted.astype(np.float32), backoff.astype(np.float32))


class NgramTarget:
    """A Kneser-Ney model as a target, reading with the tokenizer of the model it is compared with."""

    def __init__(self, model: KneserNey, tokenizer: Tokenizer, name: str, *, window: int, stride: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.window, self.stride = window, stride
        self.description: dict[str, Any] = {"model": name, "ngrams": model.num_ngrams}

    def likelihoods(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        return [self._likelihood(encode_pair(self.tokenizer, pair)) for pair in pairs]

    def text_scores(self, texts: Sequence[Text]) -> list[TextScore]:
        scores = []
        for text in texts:
            parts = [self._likelihood(p) for p in text_pairs(self.tokenizer, text, self.window, self.stride)]
            scores.append(TextScore(sum(p.logprob for p in parts), sum(p.num_tokens for p in parts)))
        return scores

    def answers(self, questions: Sequence[Question]) -> list[list[str]]:
        raise RequestError("the n-gram baseline scores text; it answers no questions")

    def close(self) -> None:
        """Nothing to close."""

    def _likelihood(self, pair: TokenPair) -> Likelihood:
        """Greedy decoding, which would need every token's probability, is not looked at."""
        context = pair.context[-(ORDER - 1) :]
        logprobs = self.model.logprobs((*context, *pair.continuation))[len(context) :]
        return Likelihood(float(logprobs.sum()), False, len(pair.continuation))
