"""Database: short transactions on SQLite or PostgreSQL, the schema brought up to date when it is opened."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker

from tramontane.errors import ConfigError
from tramontane.server.store.errors import DiskFullError, explain
from tramontane.server.store.reserve import Reserve
from tramontane.server.store.serving import hold, serving_arguments
from tramontane.server.store.tables import Secret

T = TypeVar("T")

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 30_000
QUICK_CHECK_BYTES = 256 * 2**20
"""SQLite files up to this size are checked from end to end when opened: under a second."""
MIGRATION_LOCK = 0x7472616D  # a number of our own for PostgreSQL's advisory locks


class Database:
    """Call it from any thread but that of the event loop: everything here waits for the disk.

    Sessions raise DiskFullError, and StoreError where the database is damaged or out of reach. `lock` says to others
    that a server uses it. `reserve` is the room that `free` falls back on, where the database lies on a disk of ours.
    """

    def __init__(self, engine: Engine, *, lock: IO[str] | None = None, reserve: Reserve | None = None) -> None:
        self.engine = engine
        self.reserve = reserve
        self.name = shown_url(engine.url)  # for the user, without the password
        self._lock = lock
        self._is_reserving = False
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._writers = sessionmaker(engine.execution_options(writes=True), expire_on_commit=False)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent look; rows stay usable after it."""
        with _explained(), self._sessions() as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction: durable when the block has ended, undone if it raises."""
        if not self.has_room:
            raise DiskFullError("the disk of the server's database is full; nothing was stored")
        with self._transaction() as session:
            yield session

    def free(self, work: Callable[[Session], T]) -> T:
        """`work` in a transaction that takes back, as deleting, cancelling and revoking do: on a full disk it uses the
        reserve, and may then be called twice."""
        try:
            with self._transaction() as session:
                return work(session)
        except DiskFullError:
            if self.reserve is None or not self.reserve.give_up():
                raise
        with self._transaction() as session:
            return work(session)

    def keep_reserve(self) -> None:
        """From now on there is a reserve, or nothing is stored but by `free`."""
        self._is_reserving = self.reserve is not None
        if self.reserve is not None and not self.reserve.keep():
            log.warning("the disk of %s is full: only what frees room is stored", self.name)

    @property
    def has_room(self) -> bool:
        """Whether there is room for more than the reserve, where one is kept."""
        return not self._is_reserving or self.reserve is None or self.reserve.keep()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Session]:
        with _explained(), self._writers() as session, session.begin():
            yield session

    def secret(self, name: str) -> bytes:
        """32 random bytes, the same for every server on this database, made at the first call."""
        with self.read() as session:
            found = session.scalar(select(Secret.value).where(Secret.name == name))
        if found is not None:
            return found
        made = secrets.token_bytes(32)
        try:
            with self.write() as session:
                session.add(Secret(name=name, value=made))
        except IntegrityError:  # another server was first
            return self.secret(name)
        return made

    def close(self) -> None:
        self.engine.dispose()
        _close(self._lock)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        known = explain(error)
        if known is None:
            raise
        raise known from error


def open_database(address: str, *, serving: bool = False, must_exist: bool = False) -> Database:
    """Open `address`, an SQLAlchemy URL, and bring its schema up to date; `serving`: others are told that a server
    uses it; `must_exist`: a file is not made.

    Raises ConfigError, never with the password in it, where that cannot be done: the message says what to do.
    """
    try:
        url = make_url(address)
        engine = create_engine(
            url,
            pool_pre_ping=url.get_backend_name() != "sqlite",
            hide_parameters=True,  # what users have sent has no place in messages of errors, which go to logs
            connect_args=serving_arguments(url) if serving else {},
        )
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigError(
            f"database_url cannot be used ({type(error).__name__}); write sqlite:////path/state.db "
            "or postgresql+psycopg://user:password@host/name"
        ) from None
    lock = reserve = None
    if url.get_backend_name() == "sqlite":
        if must_exist and url.database and not Path(url.database).exists():
            raise ConfigError(f"there is no {url.database}; --state-dir names the folder that a server has used")
        _prepare_sqlite(engine, url)
        reserve = Reserve(Path(f"{url.database}.reserve")) if url.database else None
        lock = hold(url) if serving else None
    try:
        try:
            _prepare(engine, url)
        except DBAPIError as error:
            if not isinstance(explain(error), DiskFullError) or reserve is None or not reserve.give_up():
                raise
            _prepare(engine, url)
    except CommandError:
        engine.dispose()
        _close(lock)
        raise ConfigError(
            f"{shown_url(url)} was written by a newer version; upgrade tramontane, or choose another database"
        ) from None
    except DBAPIError as error:
        engine.dispose()
        _close(lock)
        raise _unusable(url, str(error.orig)) from None
    return Database(engine, lock=lock, reserve=reserve)


def _close(lock: IO[str] | None) -> None:
    if lock is not None:
        lock.close()


def current_revision(connection: Connection) -> str | None:
    """Of the schema that a database has; None for one without any."""
    return MigrationContext.configure(connection).get_current_revision()


def head_revision() -> str | None:
    """Of the schema of this version."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _prepare(engine: Engine, url: URL) -> None:
    with engine.execution_options(writes=True).begin() as connection:
        _check(connection, url)
        _migrate(connection)


def _prepare_sqlite(engine: Engine, url: URL) -> None:
    """WAL: readers never wait. synchronous=FULL: what was committed survives a power cut."""
    if url.database:
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_log(path)
        with contextlib.suppress(FileExistsError):  # hashes and the signing secret are for this user alone
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))

    @event.listens_for(engine, "connect")
    def connect(connection, record):  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail, not wait, if another has written in between.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _check_log(path: Path) -> None:
    """SQLite takes an empty file for a new database and throws away its log, the last that is left of it."""
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size and (not path.exists() or not path.stat().st_size):
        raise ConfigError(
            f"{path} is empty or gone, and {log.name} beside it shows that it was not: put a backup in its place, with "
            f"{log.name} moved away"
        )


def _check(connection: Connection, url: URL) -> None:
    if connection.dialect.name != "sqlite":
        return
    if url.database and os.path.getsize(url.database) > QUICK_CHECK_BYTES:
        return
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if found != "ok":
        raise _unusable(url, str(found))


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # of several servers that start at once, one migrates
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _unusable(url: URL, reason: str) -> ConfigError:
    reason = " ".join(reason.split())[:200]
    if url.get_backend_name() == "sqlite":
        return ConfigError(
            f"{shown_url(url)} cannot be used: {reason}. Is it a database of this server, readable, and on a disk with "
            "room? If it is damaged, put a backup in its place; to start anew, move the folders of files away with it"
        )
    return ConfigError(f"{shown_url(url)} cannot be used: {reason}")


def shown_url(url: URL) -> str:
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)
