"""Run by Alembic, on the connection and in the transaction of its caller."""

from __future__ import annotations

from alembic import context

from tramontane.server.store.tables import Base


def migrate() -> None:
    connection = context.config.attributes["connection"]
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    context.run_migrations()


if __name__ == "env_py":  # what Alembic calls it; imported as any other module, it only defines
    migrate()
