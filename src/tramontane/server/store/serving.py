"""Whether a server uses a database: PostgreSQL knows by the name of its connections, SQLite's by a lock beside it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sqlalchemy import URL, Connection, text

from tramontane.errors import ConfigError

SERVING = "tramontane serve"


def serving_arguments(url: URL) -> dict[str, Any]:
    """What a server connects with."""
    return {"application_name": SERVING} if url.drivername == "postgresql+psycopg" else {}


def hold(url: URL) -> IO[str] | None:
    """As long as what is returned is open, a server uses the database; None where its connections say so. Raises
    ConfigError while it is being moved."""
    if url.get_backend_name() != "sqlite" or not url.database:
        return None
    file = _lock_path(url).open("w")
    if not _try(file, fcntl.LOCK_SH):
        file.close()
        raise ConfigError(f"{url.database} is being moved or adopted; wait until that is done")
    return file


@contextlib.contextmanager
def alone(url: URL, connection: Connection) -> Iterator[None]:
    """No server uses the database; of SQLite's, none begins to meanwhile. Raises ConfigError where one does."""
    if connection.dialect.name == "postgresql":
        servers = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
        )
        if connection.scalar(servers, {"name": SERVING}):
            raise ConfigError(f"a server is using {url.render_as_string(hide_password=True)}; stop it first")
    if connection.dialect.name != "sqlite" or not url.database or not _lock_path(url).exists():
        yield
        return
    with _lock_path(url).open("w") as file:
        if not _try(file, fcntl.LOCK_EX):
            raise ConfigError(f"a server is using {url.database}; stop it first")
        yield


def _lock_path(url: URL) -> Path:
    return Path(f"{url.database}.lock")


def _try(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
