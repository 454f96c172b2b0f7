"""PagePool and PageTable: who holds which page of the KV cache. No tensors here: a page is a number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def max_pages_for(num_tokens: int, page_size: int) -> int:
    """Most pages that `num_tokens` consecutive tokens can touch, wherever the first one falls in its page."""
    return (num_tokens - 2) // page_size + 2 if num_tokens > 0 else 0


def first_visible_page(position: int, window: int | None, page_size: int) -> int:
    """Logical page of the oldest key that a query at `position` sees."""
    return 0 if window is None else max(0, position - window + 1) // page_size


class PageTable:
    """The pages of one sequence in one window group: a run of logical pages first_page … end_page - 1.

    Logical page j holds positions j * page_size …; older ones have fallen out of the window.
    Example, page_size 4, window 5: after 9 tokens (positions 0…8) the next query, at position 9, sees positions 5…9,
    so the table holds the logical pages 1 and 2: first_page 1, page_ids [7, 3] if they lie in pages 7 and 3.
    """

    __slots__ = ("_buffer", "_start", "_stop", "first_page")

    def __init__(self, first_page: int = 0) -> None:
        self.first_page = first_page
        self._buffer: NDArray[np.int32] = np.empty(8, np.int32)
        self._start = self._stop = 0

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def end_page(self) -> int:
        return self.first_page + self._stop - self._start

    @property
    def page_ids(self) -> NDArray[np.int32]:
        """A view, valid until the table is next changed."""
        return self._buffer[self._start : self._stop]

    @property
    def last(self) -> int:
        return int(self._buffer[self._stop - 1])

    def append(self, page: int) -> None:
        if self._stop == len(self._buffer):
            # the pages that fell out of the window leave room in front; doubling keeps appending cheap on average
            grown = np.empty(max(8, 2 * len(self)), np.int32)
            grown[: len(self)] = self.page_ids
            self._start, self._stop, self._buffer = 0, len(self), grown
        self._buffer[self._stop] = page
        self._stop += 1

    def replace_last(self, page: int) -> None:
        self._buffer[self._stop - 1] = page

    def pop_first(self) -> int:
        page = int(self._buffer[self._start])
        self._start += 1
        self.first_page += 1
        return page

    def pop_last(self) -> int:
        self._stop -= 1
        return int(self._buffer[self._stop])

    def copy(self) -> PageTable:
        other = PageTable(self.first_page)
        other._buffer = self._buffer[self._start : self._stop].copy()
        other._stop = len(other._buffer)
        return other


class PagePool:
    """The pages of one window group. Each page is in exactly one of these states:

    free        nobody holds it and its content is forgotten
    held        `ref_counts[page]` sequences hold it
    cached      nobody holds it, but the prefix cache remembers its content; the least recently held goes first

    A held page may be remembered as well; it turns cached, instead of free, when its last holder lets go.
    """

    def __init__(self, num_pages: int, forget: Callable[[int], None]) -> None:
        """`forget(page)` is called when the content of a cached page is given up."""
        self.num_pages = num_pages
        self.ref_counts = [0] * num_pages
        self.is_remembered = bytearray(num_pages)
        self.cached: OrderedDict[int, None] = OrderedDict()  # least recently held first
        self.returned: list[int] = []  # free pages that were used before: taken first, their memory is warm
        self.num_untouched = num_pages  # free pages never used: num_pages - num_untouched …
        self.num_evictions = 0  # cached pages whose content was given up for somebody else's
        self._forget = forget

    @property
    def num_available(self) -> int:
        return len(self.returned) + self.num_untouched + len(self.cached)

    @property
    def num_held(self) -> int:
        return self.num_pages - self.num_available

    def allocate(self) -> int:
        """A page with one holder and no remembered content. Raises RuntimeError if none is available."""
        if self.returned:
            page = self.returned.pop()
        elif self.num_untouched:
            page = self.num_pages - self.num_untouched
            self.num_untouched -= 1
        elif self.cached:
            page, _ = self.cached.popitem(last=False)
            self.is_remembered[page] = False
            self._forget(page)
            self.num_evictions += 1
        else:
            raise RuntimeError(f"all {self.num_pages} pages of the KV cache are held; the scheduler must check first")
        self.ref_counts[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more holder, of a held or a cached page."""
        if self.ref_counts[page] == 0:
            del self.cached[page]
        self.ref_counts[page] += 1

    def release(self, page: int) -> None:
        self.ref_counts[page] -= 1
        if self.ref_counts[page] == 0:
            if self.is_remembered[page]:
                self.cached[page] = None
            else:
                self.returned.append(page)

    def remember(self, page: int) -> None:
        """The prefix cache has noted the content of a held page."""
        self.is_remembered[page] = True

    def drop(self, page: int) -> None:
        """Free a cached page: it is not worth keeping."""
        del self.cached[page]
        self.is_remembered[page] = False
        self._forget(page)
        self.returned.append(page)
