"""TokenIndex: where a text has been before, found by its last tokens (prompt lookup)."""

from __future__ import annotations

from collections.abc import Sequence

MIN_MATCH = 2  # tokens that must agree for a place to be found
MAX_MATCH = 16  # tokens compared, beyond which agreement says no more
MAX_CANDIDATES = 4  # latest places compared


class TokenIndex:
    """Every pair of neighbouring tokens of a growing text, with the latest places where it stands."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self._places: dict[tuple[int, int], list[int]] = {}  # positions after each pair, oldest first

    def extend(self, token_ids: Sequence[int]) -> None:
        """The text goes on with these."""
        known = self.token_ids
        previous = known[-1] if known else None
        for token_id in token_ids:
            known.append(token_id)
            if previous is not None:
                places = self._places.setdefault((previous, token_id), [])
                places.append(len(known))
                if len(places) > 2 * MAX_CANDIDATES:
                    del places[:MAX_CANDIDATES]
            previous = token_id

    def find(self, suffix: Sequence[int]) -> tuple[int, int]:
        """(place, how many tokens before it equal the end of `suffix`) of the longest match that something follows,
        the latest of equals; (0, 0) if there is none. `suffix` may be this very text."""
        if len(suffix) < MIN_MATCH:
            return 0, 0
        known = self.token_ids
        best_place = best_len = 0
        candidates = self._places.get((suffix[-2], suffix[-1]), ())
        for place in reversed(candidates[-MAX_CANDIDATES - 1 :]):
            if place == len(known):
                continue  # nothing follows, or the suffix has found itself
            length = MIN_MATCH
            limit = min(MAX_MATCH, place, len(suffix))
            while length < limit and known[place - length - 1] == suffix[-length - 1]:
                length += 1
            if length > best_len:
                best_place, best_len = place, length
                if length == MAX_MATCH:
                    break
        return best_place, best_len

    def read(self, place: int, num_tokens: int) -> list[int]:
        """What follows `place`; past the end of the text it goes on as from there, as a text that repeats would."""
        found = self.token_ids[place : place + num_tokens]
        period = len(self.token_ids) - place
        while len(found) < num_tokens:
            found.append(found[len(found) - period])
        return found
