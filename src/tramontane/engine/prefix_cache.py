"""PrefixCache: which computed pages can be reused by another sequence that begins with the same tokens.

A tree over whole pages of tokens. A node is found by comparing its complete key (parent, tokens, salt); a hash only
ever speeds the search up, so equal hashes cannot hand one prompt the pages of another.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tramontane.engine.pages import PagePool, first_visible_page


@dataclass(frozen=True, slots=True)
class PrefixKey:
    parent: int  # serial number of the node of the preceding page, 0 at the start; never reused
    token_ids: tuple[int, ...]
    salt: Hashable


class PrefixNode:
    """The prefix that ends with one certain page of tokens; `pages[g]` holds that page's keys and values in window
    group g, None where they are gone."""

    __slots__ = ("key", "num_children", "num_followers", "num_pages", "pages", "parent", "serial")

    def __init__(self, serial: int, parent: PrefixNode | None, key: PrefixKey, num_groups: int) -> None:
        self.serial = serial
        self.parent = parent
        self.key = key
        self.pages: list[int | None] = [None] * num_groups
        self.num_pages = 0
        self.num_children = 0
        self.num_followers = 0  # running sequences whose deepest node this is


class PrefixCache:
    """A node lives while it has a page, a child or a follower: the number of nodes is bounded by the pools."""

    def __init__(self, page_size: int, windows: Sequence[int | None]) -> None:
        self.page_size = page_size
        self.windows = tuple(windows)
        self.pools: list[PagePool] = []  # one per window; set by the owner of both
        self.root = PrefixNode(0, None, PrefixKey(0, (), None), len(self.windows))
        self.nodes: dict[PrefixKey, PrefixNode] = {}
        self.node_of_page: list[dict[int, PrefixNode]] = [{} for _ in self.windows]
        self._last_serial = 0

    def match(self, token_ids: Sequence[int], salt: Hashable, max_tokens: int) -> list[PrefixNode]:
        """Nodes of the longest usable prefix of at most `max_tokens` tokens.

        Usable after n pages: a full-attention group still has all of them, a group of window W those that hold the
        W - 1 tokens before position n * page_size.
        """
        size = self.page_size
        path: list[PrefixNode] = []
        run_lens = [0] * len(self.windows)  # pages present in each group without a gap, up to this node
        num_usable = 0
        serial = self.root.serial
        for n in range(1, max_tokens // size + 1):
            node = self.nodes.get(PrefixKey(serial, tuple(token_ids[(n - 1) * size : n * size]), salt))
            if node is None:
                break
            path.append(node)
            serial = node.serial
            is_usable = True
            for group, window in enumerate(self.windows):
                run_lens[group] = run_lens[group] + 1 if node.pages[group] is not None else 0
                is_usable &= run_lens[group] >= n - first_visible_page(n * size, window, size)
            if is_usable:
                num_usable = n
        return path[:num_usable]

    def add(self, parent: PrefixNode, token_ids: tuple[int, ...], salt: Hashable) -> PrefixNode:
        """The child of `parent` for one page of tokens, created where it does not exist."""
        key = PrefixKey(parent.serial, token_ids, salt)
        node = self.nodes.get(key)
        if node is None:
            self._last_serial += 1
            node = self.nodes[key] = PrefixNode(self._last_serial, parent, key, len(self.windows))
            parent.num_children += 1
        return node

    def attach(self, node: PrefixNode, group: int, page: int) -> None:
        """`page` holds the keys and values of `node`; kept only where the node has none in that group yet."""
        if node.pages[group] is None:
            node.pages[group] = page
            node.num_pages += 1
            self.node_of_page[group][page] = node
            self.pools[group].remember(page)

    def detach(self, group: int, page: int) -> None:
        """The content of `page` is about to be lost."""
        node = self.node_of_page[group].pop(page)
        node.pages[group] = None
        node.num_pages -= 1
        self._prune(node)

    def follow(self, node: PrefixNode) -> None:
        node.num_followers += 1

    def unfollow(self, node: PrefixNode) -> None:
        node.num_followers -= 1
        self._prune(node)

    def _prune(self, node: PrefixNode) -> None:
        while (parent := node.parent) and not (node.num_pages or node.num_children or node.num_followers):
            del self.nodes[node.key]
            node = parent
            node.num_children -= 1
