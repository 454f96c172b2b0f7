"""usage_report: the rows summed up, and what their tokens cost.

The cost of a time is the machine's price for its busy seconds: those in which at least one request was answered. It is
shared out by tokens, prompt and completion alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Integer, Select, String, case, cast, func, select

from tramontane.server.store.database import Database
from tramontane.server.store.tables import Usage

By = Literal["model", "key", "day", "hour"]
PERIODS_S = {"day": 86_400, "hour": 3600}
MAX_GROUPS = 10_000


def usage_report(
    database: Database,
    *,
    by: By = "model",
    since: float = 0.0,
    owner: str | None = None,
    price_per_hour: float | None = None,
) -> dict[str, Any]:
    """`owner`: only this one's requests, None for everyone's; the cost of a token is the whole server's all the same.
    Times are seconds since 1970, days and hours those of UTC. Waits for the disk."""
    group = _group(by, is_sqlite=database.engine.dialect.name == "sqlite")
    with database.read() as session:
        busy = {name: (busy_s, tokens) for name, busy_s, tokens in session.execute(_busy(group, since))}
        rows = session.execute(_sums(group, since, owner)).all()
        whole = session.execute(_whole(since, owner)).one()
    all_busy_s, all_tokens = (sum(column) for column in zip(*busy.values(), strict=True)) if busy else (0.0, 0)

    def cost(name: Any, tokens: int) -> dict[str, float | None]:
        busy_s, of_tokens = busy[name] if by in PERIODS_S and name in busy else (all_busy_s, all_tokens)
        if price_per_hour is None or not of_tokens:
            return {"cost": None, "cost_per_million_tokens": None}
        per_token = price_per_hour * busy_s / 3600 / of_tokens
        return {"cost": per_token * tokens, "cost_per_million_tokens": per_token * 1e6}

    data = []
    for name, *values in rows:
        figures = _figures(values)
        data.append({by: _shown(by, name), **figures, **cost(name, _num_tokens(figures))})
    totals = _figures(whole)
    costs = [line["cost"] for line in data if line["cost"] is not None]
    num_tokens = _num_tokens(totals)
    totals["cost"] = sum(costs) if costs else None
    totals["cost_per_million_tokens"] = sum(costs) / num_tokens * 1e6 if costs and num_tokens else None
    return {
        "object": "list",
        "by": by,
        "since": since,
        "until": time.time(),
        "owner": owner,
        "price_per_hour": price_per_hour,
        "data": data,
        "totals": totals,
    }


_IS_DECODING = (Usage.first_token_s.is_not(None)) & (Usage.completion_tokens > 1)
SUMS: dict[str, ColumnElement[Any]] = {
    "requests": func.count(),
    "refusals": cast(func.sum(case((Usage.status.between(400, 498), 1), else_=0)), Integer),  # 499: the client went
    "failures": cast(func.sum(case((Usage.status >= 500, 1), else_=0)), Integer),
    "prompt_tokens": cast(func.sum(Usage.prompt_tokens), Usage.prompt_tokens.type),
    "cached_tokens": cast(func.sum(Usage.cached_tokens), Usage.cached_tokens.type),
    "completion_tokens": cast(func.sum(Usage.completion_tokens), Usage.completion_tokens.type),
    "first_token_s": func.avg(Usage.first_token_s),
    "duration_s": func.avg(Usage.duration_s),
    "decoding_s": func.sum(case((_IS_DECODING, Usage.duration_s - Usage.first_token_s), else_=0.0)),
    "decoded": cast(func.sum(case((_IS_DECODING, Usage.completion_tokens - 1), else_=0)), Usage.completion_tokens.type),
}
MEANS = frozenset(("first_token_s", "duration_s"))


def _group(by: By, *, is_sqlite: bool) -> ColumnElement[Any]:
    if by in PERIODS_S:
        period = Usage.ended_at / PERIODS_S[by]
        return cast(period, Integer) if is_sqlite else cast(func.floor(period), Integer)  # PostgreSQL's cast rounds
    return cast(Usage.model if by == "model" else Usage.key_id, String)


def _sums(group: ColumnElement[Any], since: float, owner: str | None) -> Select[Any]:
    query = select(group.label("name"), *SUMS.values()).where(Usage.ended_at >= since)
    if owner is not None:
        query = query.where(Usage.owner == owner)
    return query.group_by("name").order_by("name").limit(MAX_GROUPS)


def _whole(since: float, owner: str | None) -> Select[Any]:
    query = select(*SUMS.values()).where(Usage.ended_at >= since)
    return query if owner is None else query.where(Usage.owner == owner)


def _figures(values: Iterable[Any]) -> dict[str, Any]:
    """A row of SUMS, where the sum of nothing is 0 and the mean of nothing None."""
    figures = dict(zip(SUMS, values, strict=True))
    for name in figures.keys() - MEANS:
        figures[name] = figures[name] or 0
    decoding_s, decoded = figures.pop("decoding_s"), figures.pop("decoded")
    figures["tokens_per_second"] = decoded / decoding_s if decoding_s else None
    return figures


def _num_tokens(figures: Mapping[str, Any]) -> int:
    return int(figures["prompt_tokens"] + figures["completion_tokens"])


def _busy(group: ColumnElement[Any], since: float) -> Select[Any]:
    """Per group: the seconds its requests add to those that earlier ones were busy, and its tokens."""
    start = Usage.ended_at - Usage.duration_s
    before = func.max(Usage.ended_at).over(order_by=(start, Usage.id), rows=(None, -1))
    rows = (
        select(
            group.label("name"),
            start.label("start"),
            Usage.ended_at.label("end"),
            before.label("before"),
            (Usage.prompt_tokens + Usage.completion_tokens).label("tokens"),
        )
        .where(Usage.ended_at >= since)
        .subquery()
    )
    added = case(
        (rows.c.before.is_(None) | (rows.c.before <= rows.c.start), rows.c.end - rows.c.start),
        (rows.c.before < rows.c.end, rows.c.end - rows.c.before),
        else_=0.0,
    )
    tokens = cast(func.sum(rows.c.tokens), Usage.prompt_tokens.type)
    return select(rows.c.name, func.sum(added), tokens).group_by(rows.c.name)


def _shown(by: By, name: Any) -> Any:
    if by not in PERIODS_S:
        return name
    moment = datetime.fromtimestamp(name * PERIODS_S[by], UTC)
    return moment.strftime("%Y-%m-%d" if by == "day" else "%Y-%m-%dT%H:00Z")
