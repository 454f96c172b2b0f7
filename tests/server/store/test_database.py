"""Both databases: schema, transactions, threads; and what is said of one that cannot be used."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import IntegrityError

from tramontane.errors import ConfigError
from tramontane.server.store.database import MIGRATIONS, Database, open_database
from tramontane.server.store.errors import StoreError
from tramontane.server.store.tables import Base, File, Secret


def test_migrations_make_the_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []


def test_files_of_an_older_version_stay_visible(tmp_path: Path) -> None:
    """Before files knew their key, every key of an owner saw them all, whatever their visibility said."""
    address = f"sqlite:///{tmp_path}/state.db"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(address)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        columns = "id, owner, filename, purpose, sample_type, source, size_bytes, signature, visibility, created_at"
        values = "'a', 'alice', 'f', 'batch', 'batch_request', 'upload', 1, 's', 'user', 1.0"
        connection.execute(text(f"INSERT INTO files ({columns}) VALUES ({values})"))
    engine.dispose()
    database = open_database(address)
    with database.read() as session:
        row = session.scalars(select(File)).one()
    assert (row.owner, row.key_id, row.visibility) == ("alice", "", "workspace")
    database.close()


def test_opening_again_changes_nothing(address: str) -> None:
    first = open_database(address)
    secret = first.secret("wind")
    first.close()
    second = open_database(address)
    assert second.secret("wind") == secret
    second.close()


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    def fails() -> None:
        with database.write() as session:
            session.add(Secret(name="half", value=b"x"))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with database.read() as session:
        assert session.get(Secret, "half") is None


def test_errors_do_not_repeat_what_was_stored(database: Database) -> None:
    def store() -> None:
        with database.write() as session:
            session.add(Secret(name="wind", value=b"canary"))

    store()
    with pytest.raises(IntegrityError) as error:
        store()
    assert "unique" in str(error.value).lower()
    assert "canary" not in str(error.value)


def test_threads_that_read_and_then_write_wait_for_each_other(database: Database) -> None:
    with database.write() as session:
        session.add(Secret(name="count", value=b"0"))

    def add_fifty() -> None:
        for _ in range(50):
            with database.write() as session:
                row = session.scalars(select(Secret).where(Secret.name == "count").with_for_update()).one()
                row.value = str(int(row.value) + 1).encode()

    threads = [threading.Thread(target=add_fifty) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.secret("count") == b"200"


def test_servers_that_start_at_once_migrate_once(address: str) -> None:
    opened: list[Database] = []
    threads = [threading.Thread(target=lambda: opened.append(open_database(address))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({database.secret("same") for database in opened}) == 1
    with opened[0].read() as session:
        assert session.scalar(select(func.count()).select_from(text("alembic_version"))) == 1
    for database in opened:
        database.close()


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/deep/state.db").close()
    assert stat.S_IMODE(os.stat(tmp_path / "deep" / "state.db").st_mode) == 0o600


@pytest.mark.parametrize("damage", ["no database", "cut", "garbled"])
def test_a_damaged_file_is_told_with_the_remedy(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.db"
    open_database(f"sqlite:///{path}").close()
    data = bytearray(path.read_bytes())
    if damage == "no database":
        data = bytearray(b"wind" * 5000)
    elif damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"state\.db cannot be used: .*put a backup in its place"):
        open_database(f"sqlite:///{path}")
    assert path.read_bytes() == data


def test_damage_while_it_is_open_is_told(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    opened = open_database(f"sqlite:///{path}")
    with opened.write() as session:
        session.add_all(Secret(name=f"s{n}", value=bytes(32)) for n in range(500))
    opened.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged; stop the server"), opened.read() as session:
        session.scalars(select(Secret)).all()
    opened.close()


def test_a_newer_database_is_left_alone(database: Database, address: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer version"):
        open_database(address)


@pytest.mark.parametrize(
    "url", ["wind", "wind://x", "postgresql+psycopg://u:canary@127.0.0.1:1/x", "sqlite:////proc/no/state.db"]
)
def test_an_address_that_leads_nowhere(url: str) -> None:
    with pytest.raises((ConfigError, OSError)) as error:
        open_database(url)
    assert "canary" not in str(error.value)
