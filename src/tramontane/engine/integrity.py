"""Whether the books are right: every page accounted for, every table exact, every sequence where it says it is."""

from __future__ import annotations

from collections import Counter

from tramontane.engine.page_allocator import PageAllocator
from tramontane.engine.pages import first_visible_page
from tramontane.engine.prefix_cache import PrefixCache, PrefixNode
from tramontane.engine.request import Sequence, SequenceStatus
from tramontane.engine.scheduler import Scheduler
from tramontane.engine.step_plan import StepPlan


def check_integrity(scheduler: Scheduler) -> None:
    """Raises RuntimeError naming everything that is wrong; callable between any two calls of the scheduler."""
    faults = [
        *_queue_faults(scheduler),
        *_table_faults(scheduler),
        *_page_faults(scheduler.allocator, scheduler.running),
        *_cache_faults(scheduler.allocator.cache, scheduler.running),
    ]
    if scheduler.plan_in_flight is not None:
        faults += _plan_faults(scheduler.plan_in_flight, scheduler.allocator)
    if faults:
        raise RuntimeError("engine integrity is violated: " + "; ".join(faults))


def _queue_faults(scheduler: Scheduler) -> list[str]:
    faults = []
    for name, queue, status in (
        ("running", scheduler.running, SequenceStatus.RUNNING),
        ("waiting", scheduler.waiting, SequenceStatus.WAITING),
    ):
        orders = [sequence.order for sequence in queue]
        if orders != sorted(set(orders)):
            faults.append(f"the {name} queue is out of order or holds a sequence twice")
        faults += [f"{s} is in the {name} queue" for s in queue if s.status is not status]
    faults += [f"{s} waits, but holds pages" for s in scheduler.waiting if s.tables or s.num_computed_tokens]
    if len(scheduler.running) > scheduler.config.max_sequences:
        faults.append(f"{len(scheduler.running)} sequences run, more than {scheduler.config.max_sequences}")
    return faults


def _table_faults(scheduler: Scheduler) -> list[str]:
    faults = []
    allocator = scheduler.allocator
    chunks = scheduler.plan_in_flight.chunks if scheduler.plan_in_flight else ()
    planned_end = {chunk.sequence: chunk.end for chunk in chunks}
    for sequence in scheduler.running:
        end = planned_end.get(sequence, sequence.num_computed_tokens)
        for group, (table, window) in enumerate(zip(sequence.tables, allocator.windows, strict=True)):
            wanted = (
                first_visible_page(sequence.num_computed_tokens, window, allocator.page_size),
                -(-end // allocator.page_size),
            )
            if (table.first_page, table.end_page) != wanted:
                found = (table.first_page, table.end_page)
                faults.append(f"{sequence} holds the pages {found} of group {group}, not {wanted}")
    return faults


def _page_faults(allocator: PageAllocator, running: list[Sequence]) -> list[str]:
    faults = []
    for group, pool in enumerate(allocator.pools):
        held = Counter(page for sequence in running for page in sequence.tables[group].page_ids.tolist())
        first_untouched = pool.num_pages - pool.num_untouched
        places = Counter([*held, *pool.returned, *pool.cached, *range(first_untouched, pool.num_pages)])
        if len(places) != pool.num_pages or places.total() != pool.num_pages:
            faults.append(f"group {group}: {places.total()} places for {pool.num_pages} pages, {len(places)} distinct")
        for page, count in enumerate(pool.ref_counts):
            if count != held[page]:
                faults.append(f"group {group}: page {page} is counted {count} times, held {held[page]} times")
        remembered = {page for page in range(pool.num_pages) if pool.is_remembered[page]}
        if remembered != set(allocator.cache.node_of_page[group]):
            faults.append(f"group {group}: the pool and the prefix cache remember different pages")
        faults += [f"group {group}: page {page} is cached unremembered" for page in set(pool.cached) - remembered]
        faults += [f"group {group}: page {page} is free, yet remembered" for page in remembered & set(pool.returned)]
    return faults


def _cache_faults(cache: PrefixCache, running: list[Sequence]) -> list[str]:
    faults = []
    followers = Counter(s.prefix_node.serial for s in running if s.prefix_node is not None)
    children = Counter(node.parent.serial for node in cache.nodes.values() if node.parent is not None)
    alive: dict[int, PrefixNode] = {node.serial: node for node in (cache.root, *cache.nodes.values())}
    for node in alive.values():
        pages = [page for page in node.pages if page is not None]
        if (node.num_followers, node.num_children) != (followers[node.serial], children[node.serial]):
            faults.append(f"prefix node {node.serial} has its followers or children miscounted")
        if node.num_pages != len(pages) or any(
            page is not None and cache.node_of_page[group].get(page) is not node
            for group, page in enumerate(node.pages)
        ):
            faults.append(f"prefix node {node.serial} and its pages disagree")
        if node is not cache.root and not (pages or node.num_followers or node.num_children):
            faults.append(f"prefix node {node.serial} is kept for nothing")
        if node is not cache.root and alive.get(node.key.parent) is not node.parent:
            faults.append(f"prefix node {node.serial} has lost its parent")
    return faults


def _plan_faults(plan: StepPlan, allocator: PageAllocator) -> list[str]:
    """The pages that a step writes must be nobody else's, and unknown to the prefix cache."""
    faults = []
    size = allocator.page_size
    for chunk in plan.chunks:
        for group, table in enumerate(chunk.sequence.tables):
            written = table.page_ids[chunk.start // size - table.first_page : -(-chunk.end // size) - table.first_page]
            pool = allocator.pools[group]
            faults += [
                f"{chunk.sequence} is about to write page {page} of group {group}, which is shared"
                for page in written.tolist()
                if pool.ref_counts[page] != 1 or pool.is_remembered[page]
            ]
    return faults
