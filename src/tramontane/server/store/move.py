"""move_database: every row of one database into an empty one, SQLite or PostgreSQL, whole or not at all.

What was copied is read back and compared, by counts and a digest of what the rows hold. The source is only read. The
store id goes along, so that the folders stay tied; once a server has used the target, the source is an older copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, func, insert, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, StatementError

from tramontane.errors import ConfigError
from tramontane.server.store.database import current_revision, head_revision, open_database, shown_url
from tramontane.server.store.serving import alone
from tramontane.server.store.tables import Base

TOGETHER = 1000  # rows
DIGEST_BITS = 256


def move_database(source: str, target: str) -> dict[str, int]:
    """Rows by table. Raises ConfigError, with the target as empty as before, where it cannot be done: a source that is
    not there, of another version or in use, a target that is not empty."""
    with _reading(source) as (origin, source_name):
        opened = open_database(target)
        try:
            with opened.engine.execution_options(writes=True).begin() as destination:
                filled = [table.name for table in _tables() if _count(destination, table)]
                if filled:
                    raise ConfigError(f"{opened.name} is not empty (it has {', '.join(filled)}); choose a new database")
                for table in _tables():
                    _copy(origin, destination, table)
                counts = {table.name: _compare(origin, destination, table) for table in _tables()}
        except (DBAPIError, StatementError) as error:
            reason = " ".join(str(getattr(error, "orig", error)).split())[:200]
            raise ConfigError(f"{opened.name} does not take what {source_name} holds: {reason}") from None
        finally:
            opened.close()
    return counts


@contextlib.contextmanager
def _reading(address: str) -> Iterator[tuple[Connection, str]]:
    """One consistent look at a database of this version that no server uses."""
    try:
        url = make_url(address)
        if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
            raise ConfigError(f"there is no database {shown_url(url)}")
        engine = create_engine(url, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(f"--from cannot be used ({type(error).__name__}); write it as for --database-url") from None
    if url.get_backend_name() == "sqlite":
        _only_read(engine)
    else:
        engine = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    try:
        with engine.connect() as connection, connection.begin():
            _check(connection, shown_url(url))
            with alone(url, connection):
                yield connection, shown_url(url)
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())[:200]
        raise ConfigError(f"{shown_url(url)} cannot be read: {reason}") from None
    finally:
        engine.dispose()


def _only_read(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection, record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None
        connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def _check(connection: Connection, name: str) -> None:
    revision = current_revision(connection)
    if revision is None or not inspect(connection).has_table("keys"):
        raise ConfigError(f"{name} is no database of this server")
    if revision != head_revision():
        raise ConfigError(f"{name} was written by another version; tramontane keys list with it brings it up to date")


def _tables() -> list[Table]:
    """Those that others refer to first."""
    return Base.metadata.sorted_tables


def _count(connection: Connection, table: Table) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0


def _rows(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """Ordered, some at a time."""
    query = select(table).order_by(*table.primary_key.columns)
    result = connection.execution_options(yield_per=TOGETHER).execute(query)
    for rows in result.mappings().partitions():
        yield [dict(row) for row in rows]


def _copy(origin: Connection, destination: Connection, table: Table) -> None:
    for rows in _rows(origin, table):
        destination.execute(insert(table), rows)
    counted = table.autoincrement_column
    if counted is not None and destination.dialect.name == "postgresql":  # which counts on by itself
        highest = destination.scalar(select(func.max(counted)))
        if highest is not None:
            sequence = func.pg_get_serial_sequence(table.name, counted.name)
            destination.execute(select(func.setval(sequence, highest)))


def _compare(origin: Connection, destination: Connection, table: Table) -> int:
    """How many rows both have. Raises ConfigError where they differ."""
    (num_there, there), (num_here, here) = _digest(origin, table), _digest(destination, table)
    if (num_there, there) != (num_here, here):
        raise ConfigError(
            f"table {table.name} arrived otherwise: {num_there} rows are {num_here}, or hold other things"
        )
    return num_here


def _digest(connection: Connection, table: Table) -> tuple[int, int]:
    """The number of rows, and the sum of their hashes: the databases sort text differently."""
    num_rows = digest = 0
    for rows in _rows(connection, table):
        num_rows += len(rows)
        for row in rows:
            digest += int.from_bytes(hashlib.sha256(_canonical(row)).digest(), "big")
    return num_rows, digest % 2**DIGEST_BITS


def _canonical(row: dict[str, Any]) -> bytes:
    plain = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
    return json.dumps(plain, sort_keys=True).encode()
