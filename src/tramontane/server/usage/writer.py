"""UsageWriter: a row of the table, and a line of the request log, for every request that is over."""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert

from tramontane.errors import TramontaneError
from tramontane.server.request_record import RequestRecord
from tramontane.server.store.database import Database
from tramontane.server.store.tables import Usage

log = logging.getLogger(__name__)

Row = dict[str, Any]
BATCH_S = 0.5
"""How long rows wait for more of them: a transaction waits for the disk, so many share one."""
MAX_BATCH = 1000
MAX_WAITING = 100_000
SWEEP_S = 3600.0
DAY_S = 86_400
STDERR = Path("-")


class UsageWriter:
    """`observe` never waits: a thread of its own writes. Rows older than `days` are deleted. `request_log` is a file
    that JSON lines are appended to, or "-" for stderr."""

    def __init__(self, database: Database, *, days: int, request_log: Path | None = None) -> None:
        self._database = database
        self._days = days
        self._request_log = request_log
        self._waiting: queue.Queue[Row | None] = queue.Queue(MAX_WAITING)
        self._num_lost = 0
        self._swept = -SWEEP_S
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def observe(self, record: RequestRecord) -> None:
        row = {
            "request_id": record.request_id,
            "owner": record.owner,
            "key_id": record.key_id,
            "endpoint": record.endpoint,
            "model": record.model,
            "status": record.status,
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
            "first_token_s": record.first_token_s,
            "duration_s": record.duration_s,
            "ended_at": time.time(),
        }
        try:
            self._waiting.put_nowait(row)
        except queue.Full:
            self._num_lost += 1

    def close(self) -> None:
        """Write what waits, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            try:
                first = self._waiting.get(timeout=self._until_sweep())
            except queue.Empty:
                self._sweep()
                continue
            rows, is_open = self._batch(first)
            if rows:
                self._log(rows)
                self._store(rows)
            if self._num_lost:
                log.error(
                    "usage of %d requests was not kept: the database is too slow or cannot be written", self._num_lost
                )
                self._num_lost = 0

    def _batch(self, first: Row | None) -> tuple[list[Row], bool]:
        """The rows to write together, and whether more may come."""
        rows: list[Row] = []
        row, until = first, time.monotonic() + BATCH_S
        while row is not None:
            rows.append(row)
            if len(rows) == MAX_BATCH:
                return rows, True
            try:
                row = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return rows, True
        return rows, False

    def _store(self, rows: Sequence[Row]) -> None:
        try:
            with self._database.write() as session:
                session.execute(insert(Usage), rows)
        except Exception as error:  # whatever it is, answers go on
            self._num_lost += len(rows)
            log.error(
                "usage cannot be written: %s", error if isinstance(error, TramontaneError) else type(error).__name__
            )

    def _log(self, rows: Sequence[Row]) -> None:
        if self._request_log is None:
            return
        text = "".join(json.dumps(line_of(row)) + "\n" for row in rows)
        try:
            if self._request_log == STDERR:
                sys.stderr.write(text)
                sys.stderr.flush()
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            descriptor = os.open(self._request_log, flags, 0o600)  # opened anew, so that it can be rotated
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            log.error("request_log %s cannot be written: %s", self._request_log, error.strerror)

    def _until_sweep(self) -> float:
        return max(0.0, self._swept + SWEEP_S - time.monotonic())

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        try:
            with self._database.write() as session:
                session.execute(delete(Usage).where(Usage.ended_at < time.time() - self._days * DAY_S))
        except Exception as error:
            log.error("old usage cannot be deleted: %s", type(error).__name__)


def line_of(row: Mapping[str, Any]) -> Row:
    """What the request log says of a row."""
    rest = {name: value for name, value in row.items() if name not in ("ended_at", "owner")}
    ended = datetime.fromtimestamp(row["ended_at"], UTC).isoformat(timespec="milliseconds")
    speed = tokens_per_second(row["completion_tokens"], row["first_token_s"], row["duration_s"])
    return {"time": ended, **rest, "tokens_per_second": speed}


def tokens_per_second(completion_tokens: int, first_token_s: float | None, duration_s: float) -> float | None:
    """Of the tokens after the first; None where there are none or it is not known when the first came."""
    if first_token_s is None or completion_tokens < 2 or duration_s <= first_token_s:
        return None
    return round((completion_tokens - 1) / (duration_s - first_token_s), 2)
