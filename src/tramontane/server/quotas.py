"""Quotas: how much may be stored and be under way at once.

What is stored belongs to an owner, whose keys all see it, so it is counted by owner; how much of it there may be is
said by the key that asks for more, else by the server's settings. Counted in the transaction that adds, one at a time
for each owner: requests at once, also to several servers, cannot together go over a quota.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, text
from sqlalchemy.orm import Session

from tramontane.server.errors import ApiError
from tramontane.server.store.tables import BatchJob, File, FineTunedModel, FineTuningJob, Key, StoredResponse

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


@dataclass(frozen=True, slots=True)
class Quota:
    """`name` is that of the key's column and of the setting; `status` is what is answered beyond it."""

    name: str
    what: str
    status: int
    remedy: str
    used: Callable[[Session, str], int]  # by an owner


def _count(session: Session, table: Any, *conditions: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0


def _sum(session: Session, column: Any, *conditions: ColumnElement[bool]) -> int:
    return int(session.scalar(select(func.sum(column)).where(*conditions)) or 0)


def _files(session: Session, owner: str) -> int:
    return _count(session, File, File.owner == owner, or_(File.expires_at.is_(None), File.expires_at > time.time()))


def _stored_bytes(session: Session, owner: str) -> int:
    """Of files, of kept responses, and of the requests of batches, which are kept until these have ended."""
    return (
        _sum(session, File.size_bytes, File.owner == owner)
        + _sum(session, StoredResponse.size_bytes, StoredResponse.owner == owner)
        + _sum(session, BatchJob.requests_bytes, BatchJob.owner == owner, BatchJob.completed_at.is_(None))
    )


def _batches(session: Session, owner: str) -> int:
    return _count(session, BatchJob, BatchJob.owner == owner, BatchJob.completed_at.is_(None))


def _fine_tuning_jobs(session: Session, owner: str) -> int:
    return _count(session, FineTuningJob, FineTuningJob.owner == owner, FineTuningJob.finished_at.is_(None))


def _models(session: Session, owner: str) -> int:
    """With those that unfinished jobs are to make, so that none is refused once it is trained."""
    return _count(session, FineTunedModel, FineTunedModel.owner == owner) + _fine_tuning_jobs(session, owner)


QUOTAS = (
    Quota("max_files", "files", 403, "delete some", _files),
    Quota("max_stored_bytes", "stored bytes", 403, "delete files or kept responses, or cancel batches", _stored_bytes),
    Quota("max_batches", "unfinished batches", 429, "wait until some have ended, or cancel them", _batches),
    Quota(
        "max_fine_tuning_jobs",
        "unfinished fine-tuning jobs",
        429,
        "wait until some have ended, or cancel them",
        _fine_tuning_jobs,
    ),
    Quota("max_models", "fine-tuned models", 403, "delete some, or cancel jobs", _models),
)
QUOTA_NAMES = (*(quota.name for quota in QUOTAS), "max_concurrent_requests")
"""The last is counted where requests are let in (running_requests.py), by key."""


class Quotas:
    """`defaults` by name, for keys that say nothing and callers without one; None, or no entry: no limit."""

    def __init__(self, defaults: Mapping[str, int | None] | None = None) -> None:
        self._defaults = dict(defaults or {})

    def require(self, session: Session, owner: str, key_id: str, **added: int) -> None:
        """Raises ApiError 403 or 429 where what is `added`, by the names of quotas, would go over one. In a transaction
        that writes, before it adds."""
        _take_turns(session, owner)
        key = session.get(Key, key_id)
        for quota in QUOTAS:
            if quota.name not in added:
                continue
            own = getattr(key, quota.name, None)
            limit = self._defaults.get(quota.name) if own is None else own
            if limit is None:
                continue
            used = quota.used(session, owner)
            if used + added[quota.name] > limit:
                raise _over(quota, used, added[quota.name], limit)


NO_QUOTAS = Quotas()


def usage(session: Session, owner: str) -> dict[str, int]:
    """What counts towards each quota."""
    return {quota.name: quota.used(session, owner) for quota in QUOTAS}


def shown(name: str, amount: int) -> str:
    for unit, size in UNITS:
        if name.endswith("_bytes") and amount >= size:
            return f"{amount / size:.1f} {unit}"
    return f"{amount} bytes" if name.endswith("_bytes") else str(amount)


def _take_turns(session: Session, owner: str) -> None:
    """SQLite has one writer at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(f"quotas of {owner}".encode()).digest()[:8], "big", signed=True)
        session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def _over(quota: Quota, used: int, added: int, limit: int) -> ApiError:
    amounts = [shown(quota.name, amount) for amount in (used, limit, added)]
    return ApiError(
        quota.status,
        f"the quota of {quota.what} is reached: {amounts[0]} of {amounts[1]} are used, and this needs {amounts[2]}; "
        f"{quota.remedy}, or have the operator raise it (tramontane keys limit)",
        code="quota_exceeded",
        headers={"Retry-After": "10"} if quota.status == 429 else None,
    )
