"""The first seeds of each simulation; and that a broken promise shows within them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.simulations.trial import SIMULATIONS, failure
from tramontane.engine.page_allocator import PageAllocator
from tramontane.hub import transfer
from tramontane.server.batch import jobs
from tramontane.server.store.tables import BatchJob

FIRST_SEEDS = {"scheduler": 200, "batches": 60, "downloads": 40}


@pytest.mark.parametrize("name", SIMULATIONS)
def test_the_first_seeds_keep_every_promise(name: str) -> None:
    assert [found for seed in range(FIRST_SEEDS[name]) if (found := failure(name, seed))] == []


def test_a_page_that_is_not_copied_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    extend = PageAllocator.extend

    def without_copies(*given: Any) -> tuple[()]:
        extend(*given)
        return ()

    monkeypatch.setattr(PageAllocator, "extend", without_copies)
    found = first_failure("scheduler")
    assert "wrong key at" in found
    assert "again: python -m tests.simulations scheduler --first" in found


def test_a_lease_that_is_not_asked_for_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_asked(session: Session, job_id: str, holder: str) -> BatchJob | None:
        return session.scalar(select(BatchJob).where(BatchJob.id == job_id))

    monkeypatch.setattr(jobs, "held", not_asked)
    assert first_failure("batches")


def test_a_damaged_file_that_is_not_noticed_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "is_whole", lambda file, path: True)
    assert first_failure("downloads")


def first_failure(name: str) -> str:
    return next(found for seed in range(FIRST_SEEDS[name]) if (found := failure(name, seed)))
