"""Drawing a token: from one row of scores and one uniform number, and from nothing else.

Everything is computed row by row in float64 on the CPU, in the order of token ids, with ties going to the lower id: the
same scores give the same token whatever else is in the batch.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from numpy.typing import NDArray

from tramontane.engine.sampling import SamplingParams

_MASK = 2**64 - 1


def uniform(seed: int, index: int, position: int) -> float:
    """A number in [0, 1) fixed by seed, answer index and position in the sequence: no state, so the order in which
    answers are computed cannot matter. Three rounds of splitmix64 (Steele, Lea, Flood 2014; Vigna's constants)."""
    return (_mix(_mix(_mix(seed & _MASK) ^ index) ^ position) >> 11) * 2.0**-53


def _mix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def draw(logits_V: NDArray[np.float32], params: SamplingParams, number: float) -> int:
    """Temperature, top_k, top_p, min_p, then the token at `number` of the cumulative distribution.

    top_k keeps the k highest; top_p, of what is left, the fewest that together reach top_p of its probability; min_p
    those at least min_p times as probable as the likeliest. The highest score must be finite.
    """
    if params.temperature == 0:
        return int(logits_V.argmax())
    ids: NDArray[np.intp] | None = None  # ascending; None: the whole vocabulary
    if params.top_k is not None and params.top_k < len(logits_V):
        ids = top_ids(logits_V, params.top_k)
        logits_V = logits_V[ids]
    weights = np.subtract(logits_V, logits_V.max(), out=_scratch(0, len(logits_V)), dtype=np.float64)
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the highest to -inf, as it should
        weights /= params.temperature
    np.exp(weights, out=weights)
    if params.top_p < 1:
        kept = _nucleus(weights, params.top_p)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    if params.min_p > 0:
        kept = np.flatnonzero(weights >= params.min_p)  # the likeliest weighs 1
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    cumulative = np.cumsum(weights, out=_scratch(1, len(weights)))
    total = cumulative[-1]
    place = int(np.searchsorted(cumulative, number * total, side="right"))
    # rounding can put number * total on total itself; then the last token of any weight is meant
    place = min(place, int(np.searchsorted(cumulative, total, side="left")))
    return place if ids is None else int(ids[place])


class _Scratch(threading.local):
    """Memory of each thread's draws: fresh pages for every row would take longer than the arithmetic."""

    def __init__(self) -> None:
        self.arrays = [np.empty(0), np.empty(0)]


_SCRATCH = _Scratch()


def _scratch(which: int, length: int) -> NDArray[np.float64]:
    if len(_SCRATCH.arrays[which]) < length:
        _SCRATCH.arrays[which] = np.empty(length)
    return _SCRATCH.arrays[which][:length]


def top_ids(logits_V: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """The k highest (k >= 1), in ascending order of id; of equals at the edge the lower ids."""
    if k >= len(logits_V):
        return np.arange(len(logits_V))
    return _highest(logits_V, torch.from_numpy(logits_V).topk(k).values[-1].item(), k)


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """Places, ascending, of the fewest weights that reach `top_p` of their sum, heaviest first."""
    total = weights.sum()
    target = top_p * total
    # All weights below this bound together stay under (1 - top_p) of the sum, so the nucleus lies above it: mostly few.
    bound = (1 - top_p) * total / len(weights)
    candidates = weights[weights >= min(bound, weights.max())]  # rounding must not put the bound above the heaviest
    heaviest_first = np.sort(candidates)[::-1]  # values, not places: several times faster than argsort
    count = min(int(np.searchsorted(np.cumsum(heaviest_first), target)) + 1, len(candidates))
    return _highest(weights, heaviest_first[count - 1], count)


def _highest(values: NDArray[np.floating], lowest: float, count: int) -> NDArray[np.intp]:
    """Places, ascending, of the `count` highest values, the last of which is `lowest`; of equals the first places."""
    places = np.flatnonzero(values >= lowest)
    excess = len(places) - count
    if excess:
        ties = np.flatnonzero(values[places] == lowest)
        places = np.delete(places, ties[-excess:])
    return places


def logsumexp(logits_V: NDArray[np.float32]) -> float:
    """log(sum(exp(logits))) in float64."""
    highest = np.float64(logits_V.max())
    scores = np.subtract(logits_V, highest, out=_scratch(0, len(logits_V)), dtype=np.float64)
    return float(highest + np.log(np.exp(scores, out=scores).sum()))
