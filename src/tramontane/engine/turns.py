"""Turns: which owner is next, and who gives way, where several owners want more than there is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf

from tramontane.engine.page_allocator import PageAllocator
from tramontane.engine.request import Sequence
from tramontane.engine.shares import Shares


def next_in_turn(
    waiting: SequenceOf[Sequence], running: SequenceOf[Sequence], shares: Shares, step: int, aging_steps: int
) -> Sequence:
    """Who is admitted next: the first in order of the owner who has been served least; of those served alike, the one
    who holds the fewest places. The first of all, running or waiting, goes before anyone, so that every request ends.

    Priorities come before owners. One that has waited `aging_steps` for each unit of priority is equal to newcomers.
    """
    if not running or waiting[0].order < running[0].order:
        return waiting[0]
    firsts: dict[str, Sequence] = {}
    for sequence in waiting:
        firsts.setdefault(sequence.request.owner, sequence)
    if len(firsts) == 1:
        return waiting[0]
    most_urgent = min(sequence.request.priority for sequence in firsts.values())
    places = _held(running, lambda _: 1)

    def turn(sequence: Sequence) -> tuple[float, float, int, tuple[int, int, int]]:
        owner = sequence.request.owner
        urgency = max(most_urgent, math.ceil((sequence.order[0] - step) / aging_steps))
        return urgency, shares.level(owner), places[owner], sequence.order

    return min(firsts.values(), key=turn)


def yields_place(newcomer: Sequence, running: SequenceOf[Sequence]) -> Sequence | None:
    """The last of the owner with the most places, if these are at least two more than the newcomer's owner has; never
    the first of all, nor one more urgent than the newcomer."""
    places = _held(running, lambda _: 1)
    least = places[newcomer.request.owner] + 2
    return _last_of_most(
        (
            sequence
            for sequence in running[1:]
            if places[sequence.request.owner] >= least and sequence.request.priority >= newcomer.request.priority
        ),
        places,
    )


def yields_pages(
    newcomer: Sequence, need: int, group: int, running: SequenceOf[Sequence], given: SequenceOf[Sequence]
) -> Sequence | None:
    """The last of the owner with the most pages of a group who would still hold as many as the newcomer's owner then
    has; as in `yields_place` otherwise. `given` give way already."""
    staying = [sequence for sequence in running if sequence not in given]
    pages = _held(staying, lambda sequence: len(sequence.tables[group]))
    least = pages[newcomer.request.owner] + need
    return _last_of_most(
        (
            sequence
            for sequence in staying
            if sequence is not running[0]
            and sequence.request.owner != newcomer.request.owner
            and pages[sequence.request.owner] - len(sequence.tables[group]) >= least
            and sequence.request.priority >= newcomer.request.priority
        ),
        pages,
    )


def gives_up_pages(running: SequenceOf[Sequence], sequence: Sequence) -> Sequence:
    """Who loses pages where `sequence` cannot go on for want of them: the last of the owner who holds the most. It may
    be `sequence` itself, which then stands still, but for the first of all."""
    pages = _held(running, lambda each: sum(map(len, each.tables)))
    return _last_of_most(running[1:], pages) or sequence


def _held(sequences: Iterable[Sequence], size: Callable[[Sequence], int]) -> Counter[str]:
    """What owners hold, pages that sequences share counted for each."""
    held: Counter[str] = Counter()
    for sequence in sequences:
        held[sequence.request.owner] += size(sequence)
    return held


def _last_of_most(candidates: Iterable[Sequence], held: Counter[str]) -> Sequence | None:
    return max(candidates, key=lambda sequence: (held[sequence.request.owner], sequence.order), default=None)


def num_freed(sequences: Iterable[Sequence], allocator: PageAllocator) -> list[int]:
    """Pages of each group that would be available without these sequences."""
    return [
        sum(pool.ref_counts[page] == 1 for sequence in sequences for page in sequence.tables[group].page_ids.tolist())
        for group, pool in enumerate(allocator.pools)
    ]


def owners_in_turn(running: SequenceOf[Sequence], shares: Shares) -> list[list[Sequence]]:
    """Each owner's running sequences, the owner who has been served least first; of equals, the one with fewest."""
    of_owner: dict[str, list[Sequence]] = {}
    for sequence in running:
        of_owner.setdefault(sequence.request.owner, []).append(sequence)
    turns = sorted(of_owner, key=lambda owner: (shares.served(owner), len(of_owner[owner]), of_owner[owner][0].order))
    return [of_owner[owner] for owner in turns]
