"""A pseudo-random permutation of 0..n-1 that needs no table: shuffling at constant memory, with random access.

A Feistel network over the next even number of bits, walked until it lands below n (Black and Rogaway, 2002).
"""

from __future__ import annotations

_ROUNDS = 6
_MASK64 = (1 << 64) - 1


def _mix(value: int) -> int:
    """The finaliser of splitmix64 (Steele et al., 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


class Permutation:
    """`permutation[i]` for i in 0..size-1; equal keys give equal permutations on every machine."""

    def __init__(self, size: int, key: int) -> None:
        self._size = size
        self._half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
        self._keys = [_mix((key + round_number * 0x9E3779B97F4A7C15) & _MASK64) for round_number in range(_ROUNDS)]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self._size:
            raise IndexError(place)
        half, low_mask = self._half, (1 << self._half) - 1
        value = place
        while True:
            left, right = value >> half, value & low_mask
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & low_mask)
            value = left << half | right
            if value < self._size:
                return value
