"""PageAllocator: gives sequences the pages they need in every window group, shares them, and takes them back."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial

from tramontane.engine.pages import PagePool, PageTable, first_visible_page, max_pages_for
from tramontane.engine.prefix_cache import PrefixCache, PrefixNode
from tramontane.engine.request import Sequence


@dataclass(frozen=True, slots=True)
class PageCopy:
    """Before the step's keys are written, page `target` of a window group must become a copy of page `source`."""

    group: int
    source: int
    target: int


class PageAllocator:
    """Between steps a sequence holds, in each group, exactly the pages that its next query can see."""

    def __init__(
        self, page_size: int, windows: SequenceOf[int | None], num_pages: SequenceOf[int], *, prefix_cache: bool = True
    ) -> None:
        self.page_size = page_size
        self.windows = tuple(windows)
        self.cache = PrefixCache(page_size, windows)
        self.is_caching = prefix_cache
        self.pools = [PagePool(pages, partial(self.cache.detach, group)) for group, pages in enumerate(num_pages)]
        self.cache.pools = self.pools
        self._windowed = [(group, window) for group, window in enumerate(self.windows) if window is not None]

    @property
    def max_tokens(self) -> int | None:
        """Longest sequence that fits with the whole cache to itself; None: any length, every group being windowed."""
        limits = [
            pool.num_pages * self.page_size
            for pool, window in zip(self.pools, self.windows, strict=True)
            if window is None or pool.num_pages < max_pages_for(window, self.page_size)
        ]
        return min(limits, default=None)

    def available(self) -> tuple[int, ...]:
        """Pages of each group that are free or only cached."""
        return tuple(pool.num_available for pool in self.pools)

    def match(self, sequence: Sequence) -> list[PrefixNode]:
        """The cached prefix this sequence could start from (empty: none)."""
        if not self.is_caching:
            return []
        return self.cache.match(sequence.token_ids, sequence.request.prefix_salt, sequence.num_cacheable_tokens)

    def outstanding(self, sequence: Sequence, max_chunk: int) -> list[int]:
        """Pages of each group that a running sequence has still to take for the tokens it has, computing at most
        `max_chunk` of them in one step."""
        num_held = [len(table) for table in sequence.tables]
        return self._demand(sequence.num_computed_tokens, len(sequence.token_ids), max_chunk, num_held)

    def admission_cost(self, sequence: Sequence, path: list[PrefixNode], max_chunk: int) -> list[int]:
        """Available pages of each group that a waiting sequence would use up, starting from the cached prefix `path`:
        those to be taken, and those of the prefix that nobody else holds."""
        num_computed = len(path) * self.page_size
        kept = [path[first_visible_page(num_computed, window, self.page_size) :] for window in self.windows]
        cost = self._demand(num_computed, len(sequence.token_ids), max_chunk, [len(nodes) for nodes in kept])
        for group, nodes in enumerate(kept):
            cost[group] += sum(self.pools[group].ref_counts[_page(node, group)] == 0 for node in nodes)
        return cost

    def start(self, sequence: Sequence, path: list[PrefixNode]) -> None:
        """Give a sequence that holds nothing the pages of the cached prefix `path`, which may be empty."""
        num_computed = len(path) * self.page_size
        sequence.tables = []
        sequence.trailing_nodes = [None] * len(self.windows)
        for group, window in enumerate(self.windows):
            table = PageTable(first_visible_page(num_computed, window, self.page_size))
            for node in path[table.first_page :]:
                page = _page(node, group)
                self.pools[group].share(page)
                table.append(page)
            sequence.tables.append(table)
        sequence.num_computed_tokens = num_computed
        if self.is_caching:
            sequence.prefix_node = path[-1] if path else self.cache.root
            self.cache.follow(sequence.prefix_node)

    def reach(self, sequence: Sequence, end: int) -> int:
        """How far, at most to `end`, the sequence can compute with the pages available now."""
        for group, table in enumerate(sequence.tables):
            pool = self.pools[group]
            num_new = pool.num_available - self._must_copy(sequence, group)
            end = min(end, (table.end_page + num_new) * self.page_size) if num_new >= 0 else 0
        return max(end, sequence.num_computed_tokens)

    def extend(self, sequence: Sequence, end: int) -> tuple[PageCopy, ...]:
        """Take pages for the tokens up to `end`, which `reach` has allowed; the copies must precede any write."""
        copies = []
        for group, table in enumerate(sequence.tables):
            pool = self.pools[group]
            if self._must_copy(sequence, group):
                source = table.last
                target = pool.allocate()
                pool.release(source)
                table.replace_last(target)
                copies.append(PageCopy(group, source, target))
            for _ in range(-(-end // self.page_size) - table.end_page):
                table.append(pool.allocate())
        sequence.may_share_page = False
        return tuple(copies)

    def advance(self, sequence: Sequence, num_computed: int) -> None:
        """The keys up to `num_computed` are stored: offer full pages to the prefix cache, return those out of sight."""
        size = self.page_size
        for page in range(sequence.num_computed_tokens // size, num_computed // size):
            self._offer(sequence, page)
        sequence.num_computed_tokens = num_computed
        for group, window in self._windowed:
            table = sequence.tables[group]
            first_page = (num_computed - window + 1) // size
            while table.first_page < first_page:
                self._drop_trailing_page(sequence, group)
                is_prompt = (table.first_page + 1) * size <= sequence.num_prompt_tokens
                page = table.pop_first()
                sequence.trailing_nodes[group] = None if is_prompt else self.cache.node_of_page[group].get(page)
                self.pools[group].release(page)

    def trim(self, sequence: Sequence) -> None:
        """Return the pages behind the last computed token, which were taken for guesses that turned out wrong."""
        end_page = -(-sequence.num_computed_tokens // self.page_size)
        for pool, table in zip(self.pools, sequence.tables, strict=True):
            while table.end_page > end_page:
                pool.release(table.pop_last())

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """`child` shares all pages of `parent`, the last one in part; whoever writes there first copies it."""
        child.tables = [table.copy() for table in parent.tables]
        for pool, table in zip(self.pools, child.tables, strict=True):
            for page in table.page_ids.tolist():
                pool.share(page)
        child.trailing_nodes = [None] * len(self.windows)
        child.num_computed_tokens = parent.num_computed_tokens
        child.prefix_node = parent.prefix_node
        if child.prefix_node is not None:
            self.cache.follow(child.prefix_node)
        parent.may_share_page = child.may_share_page = child.num_computed_tokens % self.page_size != 0

    def release(self, sequence: Sequence) -> None:
        """Take everything back. The end of the sequence is forgotten first: a prefix serves more requests."""
        for group, table in enumerate(sequence.tables):
            for page in reversed(table.page_ids.tolist()):
                self.pools[group].release(page)
        sequence.tables = []
        sequence.num_computed_tokens = 0
        sequence.may_share_page = False
        if sequence.prefix_node is not None:
            self.cache.unfollow(sequence.prefix_node)
            sequence.prefix_node = None

    def _demand(self, num_computed: int, num_tokens: int, max_chunk: int, num_held: list[int]) -> list[int]:
        end_page = -(-num_tokens // self.page_size)
        demand = []
        for window, held in zip(self.windows, num_held, strict=True):
            pages = end_page - first_visible_page(num_computed, window, self.page_size)
            if window is not None:
                pages = min(pages, max_pages_for(window - 1 + max_chunk, self.page_size))
            demand.append(max(0, pages - held))
        return demand

    def _must_copy(self, sequence: Sequence, group: int) -> bool:
        return sequence.may_share_page and self.pools[group].ref_counts[sequence.tables[group].last] > 1

    def _offer(self, sequence: Sequence, page: int) -> None:
        parent = sequence.prefix_node
        if parent is None:
            return
        token_ids = tuple(sequence.token_ids[page * self.page_size : (page + 1) * self.page_size])
        node = self.cache.add(parent, token_ids, sequence.request.prefix_salt)
        for group, table in enumerate(sequence.tables):
            self.cache.attach(node, group, int(table.page_ids[page - table.first_page]))
        self.cache.follow(node)
        self.cache.unfollow(parent)
        sequence.prefix_node = node

    def _drop_trailing_page(self, sequence: Sequence, group: int) -> None:
        """Forget the page that left the window before the one about to leave it.

        A prompt's pages stay cached, others may begin with them; but what the model itself wrote is asked for again at
        its end, if at all. The memory of an endless answer is flat because of this. One page stays behind the window: a
        request that continues the answer starts at the last full page, from where it is still seen.
        """
        node = sequence.trailing_nodes[group]
        page = node.pages[group] if node is not None else None
        if page is not None and self.pools[group].ref_counts[page] == 0:
            self.pools[group].drop(page)


def _page(node: PrefixNode, group: int) -> int:
    page = node.pages[group]
    if page is None:
        raise RuntimeError(f"the prefix cache lost a page of group {group} between match and use")
    return page
