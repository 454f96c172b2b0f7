"""Speculative decoding: tokens that may come next are guessed and verified in one pass, several for the price of one.

Guesses are only ever accepted where the sampler, given the same scores, draws the very same token; since scores do not
depend on company, the answer is that of plain decoding, token for token. What is decided here is how much to guess, and
that changes nothing but speed.

A draft of k tokens costs k more rows and yields the run of them that is right. Its expected length comes from how often
guesses after an equally long match were right in this sequence, the cost of rows from the measured time of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Protocol

from tramontane.engine.request import Sequence
from tramontane.engine.token_index import TokenIndex

MIN_GAIN = 1.02  # expected tokens per time, relative to plain decoding, below which nothing is guessed


class Drafter(Protocol):
    """Guesses how sequences go on. Nothing it says can change an answer."""

    def draft(self, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> list[list[int]]:
        """For each decoding sequence at most `limits[n]` tokens, or none."""
        ...

    def verified(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """What came of the last draft for `sequence`."""
        ...


class StepCosts:
    """What a further row adds to a step, as a share of the step: a regression of time on rows that forgets."""

    PRIOR = 0.08
    _MEMORY = 0.97  # weight of a step after the next one
    _PRIOR_WEIGHT = 4.0  # steps, one row apart from the mean

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._rows_2 = self._rows_seconds = 0.0

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step of nothing but decoding took `seconds`."""
        if self._weight:
            seconds = min(seconds, 3 * self._seconds / self._weight)  # an interruption is not a cost
        for name, value in (
            ("_weight", 1.0),
            ("_rows", num_rows),
            ("_seconds", seconds),
            ("_rows_2", num_rows * num_rows),
            ("_rows_seconds", num_rows * seconds),
        ):
            setattr(self, name, getattr(self, name) * self._MEMORY + value)

    @property
    def mean_s(self) -> float:
        """Time of a step, as of late; 0 before the first."""
        return self._seconds / self._weight if self._weight else 0.0

    def per_row(self, num_rows: int) -> float:
        """Relative cost of one row more than `num_rows`."""
        if not self._weight:
            return self.PRIOR
        rows, seconds = self._rows / self._weight, self._seconds / self._weight
        variance = max(0.0, self._rows_2 - self._rows * rows)
        covariance = self._rows_seconds - self._rows * seconds
        prior_slope = self.PRIOR * seconds / (1 + self.PRIOR * (rows - 1))
        slope = (covariance + self._PRIOR_WEIGHT * prior_slope) / (variance + self._PRIOR_WEIGHT)
        step = seconds + slope * (num_rows - rows)
        return min(max(slope / step, 0.005), 2.0) if step > 0 else 2.0


class Acceptance:
    """How often a guess after a match of so many tokens is right: counts that forget, around a prior."""

    _BUCKET = (0, 0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 6, 7)  # of each match length
    _PRIOR_WEIGHT = 2.0
    _MEMORY = 0.95
    _SKIP_MEMORY = 0.99  # a guess not made brings the estimate nearer to the prior: it will be tried again

    def __init__(self, prior: SequenceOf[float]) -> None:
        self._prior = prior
        self._right = [0.0] * len(prior)
        self._tried = [0.0] * len(prior)

    def rate(self, match_len: int) -> float:
        bucket = self._bucket(match_len)
        right = self._right[bucket] + self._PRIOR_WEIGHT * self._prior[bucket]
        return right / (self._tried[bucket] + self._PRIOR_WEIGHT)

    def count(self, match_len: int, num_drafted: int, num_accepted: int) -> None:
        for n in range(min(num_accepted + 1, num_drafted)):
            bucket = self._bucket(match_len + n)
            self._right[bucket] = self._right[bucket] * self._MEMORY + (n < num_accepted)
            self._tried[bucket] = self._tried[bucket] * self._MEMORY + 1

    def skip(self, match_len: int) -> None:
        bucket = self._bucket(match_len)
        self._right[bucket] *= self._SKIP_MEMORY
        self._tried[bucket] *= self._SKIP_MEMORY

    def _bucket(self, match_len: int) -> int:
        return self._BUCKET[min(match_len, len(self._BUCKET) - 1)]

    def best_len(self, match_len: int, limit: int, cost: float) -> int:
        """How many tokens to guess, so that expected tokens per time are most; 0 where guessing does not pay."""
        best_len, best_gain = 0, MIN_GAIN
        chance, expected = 1.0, 1.0
        for length in range(1, limit + 1):
            chance *= self.rate(match_len + length - 1)
            expected += chance
            gain = expected / (1 + cost * length)
            if gain > best_gain:
                best_len, best_gain = length, gain
            elif chance < cost:  # from here on each row costs more than it can bring
                break
        return best_len


# by bucket of match length: 1 (and none), 2, 3, 4, 5-6, 7-9, 10-15, 16 and more
OWN_TEXT = (0.1, 0.25, 0.4, 0.55, 0.65, 0.75, 0.85, 0.92)
PREDICTION = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97)


class Lookup:
    """What one sequence can be guessed from: its own text, and the prediction that came with the request."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.own = TokenIndex()
        self.own_acceptance = Acceptance(OWN_TEXT)
        prediction = sequence.request.params.prediction
        self.prediction: TokenIndex | None = None
        if prediction:
            self.prediction = TokenIndex()
            self.prediction.extend(prediction)
        self.prediction_acceptance = Acceptance(PREDICTION)
        self.num_as_predicted: int | None = 0  # the whole answer so far is this much of the prediction; None: it is not
        self.last: tuple[Acceptance, int] | None = None  # by which the last draft was made, and from what match

    def draft(self, limit: int, cost: float) -> list[int]:
        if self.prediction is not None:
            place, match_len = self._follow_prediction(self.prediction)
            if match_len:
                return self._draft_from(self.prediction, self.prediction_acceptance, place, match_len, limit, cost)
        own = self.own
        own.extend(self.sequence.token_ids[len(own.token_ids) :])
        place, match_len = own.find(own.token_ids)
        return self._draft_from(own, self.own_acceptance, place, match_len, limit, cost) if match_len else []

    def _draft_from(
        self, index: TokenIndex, acceptance: Acceptance, place: int, match_len: int, limit: int, cost: float
    ) -> list[int]:
        if index is not self.own:
            limit = min(limit, len(index.token_ids) - place)
        length = acceptance.best_len(match_len, limit, cost)
        if length == 0:
            acceptance.skip(match_len)
            return []
        self.last = acceptance, match_len
        return index.read(place, length)

    def _follow_prediction(self, prediction: TokenIndex) -> tuple[int, int]:
        """As TokenIndex.find; an answer that begins as predicted needs no second token to be found."""
        sequence = self.sequence
        num_generated = sequence.num_generated_tokens
        if self.num_as_predicted is not None:
            first = sequence.num_prompt_tokens + self.num_as_predicted
            expected = prediction.token_ids[self.num_as_predicted : num_generated]
            self.num_as_predicted = num_generated if sequence.token_ids[first:] == expected else None
        if self.num_as_predicted is not None:
            return (num_generated, num_generated) if num_generated < len(prediction.token_ids) else (0, 0)
        start = max(sequence.num_prompt_tokens, len(sequence.token_ids) - 32)
        return prediction.find(sequence.token_ids[start:])


class PromptLookup:
    """The Drafter that copies: what must come, a prediction, or from where the text has been before."""

    def __init__(self, max_draft_tokens: int, forced_token_ids: Callable[[Sequence], list[int]] | None = None) -> None:
        """`forced_token_ids(sequence)`: tokens that nothing else can be drawn for, or none."""
        self.max_draft_tokens = max_draft_tokens
        self.forced_token_ids = forced_token_ids
        self.costs = StepCosts()
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0

    def draft(self, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> list[list[int]]:
        num_rows = len(sequences)
        cost = self.costs.per_row(num_rows) * num_rows  # in units of what one sequence's token costs
        drafts: list[list[int]] = [[] for _ in sequences]
        for n, (sequence, limit) in enumerate(zip(sequences, limits, strict=True)):
            if (1 + cost) * MIN_GAIN >= 2:
                break  # even a sure guess would not pay
            if limit > 0:
                drafts[n] = self._draft(sequence, min(limit, self.max_draft_tokens), cost)
            if drafts[n]:
                num_rows += len(drafts[n])
                cost = self.costs.per_row(num_rows) * len(sequences)
        return drafts

    def _draft(self, sequence: Sequence, limit: int, cost: float) -> list[int]:
        if sequence.lookup is None:
            sequence.lookup = Lookup(sequence)
        sequence.lookup.last = None
        forced = [] if self.forced_token_ids is None else self.forced_token_ids(sequence)
        return forced[:limit] or sequence.lookup.draft(limit, cost)

    def verified(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        self.num_drafted_tokens += num_drafted
        self.num_accepted_tokens += num_accepted
        if sequence.lookup is not None and sequence.lookup.last is not None:
            acceptance, match_len = sequence.lookup.last
            acceptance.count(match_len, num_drafted, num_accepted)
