"""Means with their uncertainty, and whether two runs differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959964
RESAMPLES = 2000
MIN_PAIRS = 10  # below it neither a bootstrap nor an exact test says anything about other items
SEED = 20231010


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric with its standard error and 95 % confidence interval; `num_items` it was computed from."""

    value: float
    stderr: float
    low: float
    high: float
    num_items: int


def mean(values: Sequence[float]) -> Estimate:
    """Mean, and the standard error from the sample's deviation. For values that are all 0 or 1 the interval is
    Wilson's, which keeps within 0 … 1 and does not collapse at its ends."""
    n = len(values)
    value = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((v - value) ** 2 for v in values) / (n - 1)) if n > 1 else 0.0
    stderr = deviation / math.sqrt(n)
    if all(v in (0.0, 1.0) for v in values):
        centre = (value + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * math.sqrt(value * (1 - value) / n + Z95**2 / (4 * n * n))
        return Estimate(value, stderr, centre - half, centre + half, n)
    return Estimate(value, stderr, value - Z95 * stderr, value + Z95 * stderr, n)


def ratio(numerators: Sequence[float], denominators: Sequence[float], *, exponential: bool = False) -> Estimate:
    """Sum over sum (or e to its power), with a bootstrap over items; seeded, so the same items give the same
    interval. A single item has no interval: low and high are the value."""
    top, bottom = np.asarray(numerators), np.asarray(denominators)

    def finish(quotient: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.exp(quotient) if exponential else quotient
        return result

    value = float(finish(np.asarray(top.sum() / bottom.sum())))
    if len(top) < 2:
        return Estimate(value, 0.0, value, value, len(top))
    draws = _resamples(len(top))
    values = finish(np.array([top[draw].sum() / bottom[draw].sum() for draw in draws]))
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(value, float(values.std(ddof=1)), float(low), float(high), len(top))


@dataclass(frozen=True, slots=True)
class Difference:
    """B minus A over the items both have, its 95 % interval, and the `p_value` of the hypothesis that there is none, by
    `test`. With fewer than MIN_PAIRS items interval, p-value and test are None."""

    value: float
    low: float | None
    high: float | None
    p_value: float | None
    test: str | None
    num_items: int
    num_better: int  # items on which B is better
    num_worse: int


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """McNemar's exact test where all values are 0 or 1, else a paired bootstrap of the mean difference."""
    differences = np.asarray(b) - np.asarray(a)
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    value, n = float(differences.mean()), len(differences)
    if n < MIN_PAIRS:
        return Difference(value, None, None, None, None, n, better, worse)
    values = np.array([differences[draw].mean() for draw in _resamples(n)])
    low, high = (float(x) for x in np.quantile(values, [0.025, 0.975]))
    if all(v in (0.0, 1.0) for v in (*a, *b)):
        p_value, test = mcnemar(better, worse), "McNemar, exact"
    else:
        p_value, test = _bootstrap_p(values), "paired bootstrap"
    return Difference(value, low, high, p_value, test, n, better, worse)


def paired_ratio_difference(
    a: tuple[Sequence[float], Sequence[float]], b: tuple[Sequence[float], Sequence[float]]
) -> Difference:
    """As `paired_difference` for quotients of sums; an item is better where its own quotient is lower."""
    (top_a, bottom_a), (top_b, bottom_b) = ((np.asarray(x), np.asarray(y)) for x, y in (a, b))

    def difference(draw: NDArray[np.int64] | slice) -> float:
        return float(top_b[draw].sum() / bottom_b[draw].sum() - top_a[draw].sum() / bottom_a[draw].sum())

    value, n = difference(slice(None)), len(top_a)
    each = top_b / bottom_b - top_a / bottom_a
    better, worse = int((each < 0).sum()), int((each > 0).sum())
    if n < MIN_PAIRS:
        return Difference(value, None, None, None, None, n, better, worse)
    values = np.array([difference(draw) for draw in _resamples(n)])
    low, high = (float(x) for x in np.quantile(values, [0.025, 0.975]))
    return Difference(value, low, high, _bootstrap_p(values), "paired bootstrap", n, better, worse)


def mcnemar(better: int, worse: int) -> float:
    """Two-sided exact p-value: how unlikely a split of the discordant pairs at least as uneven is, if both sides are
    equally likely."""
    n, k = better + worse, min(better, worse)
    if n == 0:
        return 1.0
    log_half = n * math.log(0.5)
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + log_half) for i in range(k + 1)
    )
    return min(1.0, 2 * tail)


def _resamples(n: int) -> Iterator[NDArray[np.int64]]:
    generator = np.random.default_rng(SEED)
    for _ in range(RESAMPLES):
        yield generator.integers(0, n, n)


def _bootstrap_p(values: NDArray[np.float64]) -> float:
    """Twice the share of resamples on the far side of 0, never below what the number of resamples can show."""
    share = min((values <= 0).mean(), (values >= 0).mean())
    return float(min(1.0, max(2 * share, 1 / len(values))))
