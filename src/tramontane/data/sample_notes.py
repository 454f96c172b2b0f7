"""What was read otherwise than it stands in a file of samples, counted, so that it is told once per file."""

from __future__ import annotations

from collections import Counter

_SHOWN_KEYS = 12


class SampleNotes:
    """Counts of samples by what there is to say about them."""

    def __init__(self) -> None:
        self._ignored: Counter[str] = Counter()
        self._told: Counter[str] = Counter()

    def ignore(self, key: str) -> None:
        """A key that means nothing to training stands in a sample."""
        self._ignored[key] += 1

    def tell(self, what: str) -> None:
        self._told[what] += 1

    def taken(self) -> Counter[str]:
        """How often there is what to say, keys one by one; from here on counted anew."""
        counts = self._told + Counter({f"key passed over: {key}": count for key, count in self._ignored.items()})
        self._told.clear()
        self._ignored.clear()
        return counts

    def lines(self) -> tuple[str, ...]:
        """One line for each thing there is to say, how often after a colon."""
        lines = [f"{what}: {count}" for what, count in self._told.items()]
        if self._ignored:
            keys = [f"{key} ({count})" for key, count in self._ignored.most_common(_SHOWN_KEYS)]
            more = f" and {len(self._ignored) - _SHOWN_KEYS} more" if len(self._ignored) > _SHOWN_KEYS else ""
            lines.append(f"keys without a meaning for training, passed over: {', '.join(keys)}{more}")
        return tuple(lines)
