"""Empty databases to test with."""

from __future__ import annotations

import uuid

from sqlalchemy import create_engine, make_url, text


def new_postgres(server: str) -> str:
    """The URL of a new database on the server at the URL `server`."""
    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(server).set(database=name).render_as_string(hide_password=False)
