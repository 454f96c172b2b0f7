"""Samples packed whole into batches of one length, with little padding."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence

WINDOW = 256
"""Samples to choose from. More would save hardly any padding and move samples further from their shuffled place."""
SAMPLED = 4096
"""Samples that tell how well a length of batches suits them."""


def least_padded(lens: Sequence[int], capacities: Sequence[int], preferred: int) -> int:
    """The one of `capacities` at which `pack` pads least, to about a percent; of equals the nearest to `preferred`."""
    lens = lens[:SAMPLED]

    def padding(capacity: int) -> float:
        num_batches = sum(1 for _ in pack([range(len(lens))], lens, capacity))
        return 1 - sum(lens) / (num_batches * capacity)

    return min(capacities, key=lambda capacity: (round(padding(capacity), 2), abs(capacity - preferred)))


def pack(epochs: Iterable[Iterable[int]], lens: Sequence[int], capacity: int) -> Iterator[list[int]]:
    """Batches of samples whose `lens` add up to `capacity` at most; every sample of every epoch is in exactly one.

    A batch begins with the sample that has waited longest, then takes the longest that still fits among the next
    WINDOW of the same epoch (best fit, which bin packing knows to waste least of the simple rules). What an epoch's
    last batch has left is filled from the next epoch. `capacity` must hold the longest sample.
    """
    batch: list[int] = []
    free = capacity
    for epoch in epochs:
        drawn = enumerate(epoch)
        waiting: list[tuple[int, int]] = []  # (length, minus the place in the order), ascending
        samples: dict[int, int] = {}  # by place, the oldest first
        is_over = False
        while True:
            while len(waiting) < WINDOW and not is_over:
                place, sample = next(drawn, (-1, -1))
                is_over = place < 0
                if not is_over:
                    insort(waiting, (lens[sample], -place))
                    samples[place] = sample
            if not waiting:
                break
            if batch:
                choice = bisect_right(waiting, (free, 1)) - 1  # of equally long ones the oldest
            else:
                oldest = next(iter(samples))
                choice = bisect_right(waiting, (lens[samples[oldest]], -oldest)) - 1
            if choice < 0:
                yield batch
                batch, free = [], capacity
                continue
            sample_len, place = waiting.pop(choice)
            batch.append(samples.pop(-place))
            free -= sample_len
    if batch:
        yield batch
