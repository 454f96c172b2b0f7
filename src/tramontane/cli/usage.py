"""`tramontane usage`: what was asked of the server, how fast it answered, and what the tokens cost."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tramontane.cli.options import Json
from tramontane.errors import ConfigError

DAY_S = 86_400


def usage(
    *,
    by: Annotated[Literal["model", "key", "day", "hour"], typer.Option(help="One line for each of these.")] = "model",
    since: Annotated[
        str | None, typer.Option(help="A day such as 2026-11-01 (UTC), or so many days back, such as 7d.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(envvar="TRAMONTANE_PRICE_PER_HOUR", help="What the machine costs per hour.")
    ] = None,
    state_dir: Annotated[Path | None, typer.Option(help="As for serve.")] = None,
    database_url: Annotated[str | None, typer.Option(envvar="TRAMONTANE_DATABASE_URL", help="As for serve.")] = None,
    as_json: Json = False,
) -> None:
    """Sum up the requests of the server: tokens, speed and cost, by model, key, day or hour."""
    from tramontane.cli.terminal import print_json, print_table
    from tramontane.server.settings import ServerSettings
    from tramontane.server.store.database import open_database
    from tramontane.server.usage.report import usage_report

    start = 0.0 if since is None else moment(since)
    settings = ServerSettings(state_dir=state_dir, database_url=database_url, price_per_hour=price_per_hour)
    database = open_database(settings.resolved_database_url, must_exist=True)
    try:
        report = usage_report(database, by=by, since=start, price_per_hour=price_per_hour)
    finally:
        database.close()
    if as_json:
        print_json(report)
        return
    lines = [*report["data"], {by: "all", **report["totals"]}]
    print_table([(by, *HEAD), *(row_of(line, by) for line in lines)], num_texts=1)


HEAD = (
    *("requests", "refused", "failed", "prompt", "cached", "completion"),
    *("first token s", "tokens/s", "cost", "per million"),
)


NO_MODEL = "(none served)"
"""Requests that named none of the served models, or were refused before that was looked at."""


def row_of(line: dict[str, Any], by: str) -> tuple[str, ...]:
    counts = ("requests", "refusals", "failures", "prompt_tokens", "cached_tokens", "completion_tokens")
    measures = (("first_token_s", 3), ("tokens_per_second", 1), ("cost", 4), ("cost_per_million_tokens", 4))
    shown = ("-" if line.get(name) is None else f"{line[name]:.{digits}f}" for name, digits in measures)
    return (str(line[by]) or NO_MODEL, *(str(line[name]) for name in counts), *shown)


def moment(text: str) -> float:
    """Seconds since 1970. Raises ConfigError."""
    try:
        if text.endswith("d"):
            return time.time() - float(text[:-1]) * DAY_S
        given = datetime.fromisoformat(text)
        return (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        raise ConfigError(f"since={text!r}: give a day such as 2026-11-01, or days back such as 7d") from None
