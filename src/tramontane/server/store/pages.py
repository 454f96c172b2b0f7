"""select_page: one page of a list of rows, by number or behind a row, as both APIs ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from tramontane.server.store.tables import BatchJob, File, FineTuningJob

Row = TypeVar("Row", File, BatchJob, FineTuningJob)


def select_page(
    session: Session,
    table: type[Row],
    conditions: Sequence[ColumnElement[bool]],
    *,
    page: int,
    page_size: int,
    start: Row | None = None,
    is_ascending: bool = False,
) -> tuple[list[Row], int, bool]:
    """(rows, how many meet `conditions` in all, whether more follow), the newest first unless `is_ascending`; with
    `start`, those behind it."""
    total = session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0
    at, by_id = table.created_at, table.id
    query = select(table).where(*conditions).order_by(*((at, by_id) if is_ascending else (at.desc(), by_id.desc())))
    if start is not None:
        later = at > start.created_at if is_ascending else at < start.created_at
        next_id = by_id > start.id if is_ascending else by_id < start.id
        query = query.where(or_(later, (at == start.created_at) & next_id))
    rows = session.scalars(query.offset(page * page_size).limit(page_size + 1)).all()
    return list(rows[:page_size]), total, len(rows) > page_size
