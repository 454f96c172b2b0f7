"""Moving a database: every kind of row, between real SQLite and PostgreSQL, and a server that goes on there."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Double, Integer, LargeBinary, create_engine, func, insert, make_url, select, text

from tests.server.in_process import serving
from tests.server.store.databases import new_postgres
from tramontane.cli.main import run
from tramontane.errors import ConfigError
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.settings import ServerSettings
from tramontane.server.state import open_state
from tramontane.server.store.database import open_database
from tramontane.server.store.move import move_database
from tramontane.server.store.tables import Base, FineTuningEvent, Usage

ROWS = 2500  # more than are copied at a time


@pytest.fixture
def addresses(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    def address(kind: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/{uuid.uuid4().hex}/state.db"
        return new_postgres(request.getfixturevalue("postgres"))

    return address


def value_of(draw: random.Random, column: Any, number: int) -> Any:
    if column.name == "id" and not isinstance(column.type, Integer):
        return str(uuid.UUID(int=draw.getrandbits(128)))
    if column.nullable and draw.random() < 0.3:
        return None
    if isinstance(column.type, JSON):
        lists = column.name in ("scopes", "input_files", "validation_files", "input", "errors", "training_files")
        lists = lists or column.name in ("classifier_targets", "checkpoints")
        entry = {"é\u2028\u0001": [1, 1.0, 0.1, None, True], "b": "x" * draw.randrange(50)}
        return [entry] if lists else entry
    if isinstance(column.type, Boolean):
        return draw.random() < 0.5
    if isinstance(column.type, LargeBinary):
        return draw.randbytes(32)
    if isinstance(column.type, Double):
        return draw.choice([0.1, 1e-300, 1.7976931348623157e308, -5e-324, 1796069384.593256])
    if isinstance(column.type, Integer):
        return draw.choice([0, 1, 2**31 - 1, -(2**31)])
    long = getattr(column.type, "length", None) or 300
    return "".join(draw.choices("aé\U0001f32c\n'\"\\%", k=draw.randrange(long)))


def fill(address: str, num_rows: int) -> None:
    """Rows of every table, with all that their columns may hold."""
    draw = random.Random(0)
    database = open_database(address)
    job_ids: dict[str, list[str]] = {}
    with database.write() as session:
        for table in Base.metadata.sorted_tables:
            rows = []
            for number in range(1 if table.name == "store" else num_rows if table.name == "usage" else 40):
                row = {c.name: value_of(draw, c, number) for c in table.columns}
                for column in table.primary_key.columns:
                    is_text = not isinstance(column.type, Integer)
                    row[column.name] = uuid.UUID(int=draw.getrandbits(128)).hex if is_text else number + 1
                for key in table.foreign_keys:
                    row[key.parent.name] = draw.choice(job_ids[key.column.table.name])
                if table.name == "batch_results":
                    row["line"] = number
                rows.append(row)
            session.execute(insert(table), rows)
            if "id" in table.columns:
                job_ids[table.name] = [row["id"] for row in rows]
    database.close()


def contents_of(address: str) -> dict[str, list[Any]]:
    database = open_database(address)
    with database.engine.connect() as connection:
        found = {
            table.name: sorted((dict(row) for row in connection.execute(select(table)).mappings()), key=repr)
            for table in Base.metadata.sorted_tables
        }
    database.close()
    return found


@pytest.mark.parametrize(
    ("source", "target"), [("sqlite", "postgresql"), ("postgresql", "sqlite"), ("sqlite", "sqlite")]
)
def test_every_row_arrives(addresses: Callable[[str], str], source: str, target: str) -> None:
    old, new = addresses(source), addresses(target)
    fill(old, ROWS)
    before = contents_of(old)
    assert all(before.values())
    counts = move_database(old, new)
    assert counts == {name: len(rows) for name, rows in before.items()}
    assert contents_of(new) == before
    assert contents_of(old) == before


def test_ids_count_on(addresses: Callable[[str], str]) -> None:
    old, new = addresses("sqlite"), addresses("postgresql")
    fill(old, 3)
    move_database(old, new)
    database = open_database(new)
    with database.write() as session:
        for table in (Usage, FineTuningEvent):
            highest = session.scalar(select(func.max(table.id)))
            row = session.scalars(select(table)).first()
            values = {c.name: getattr(row, c.name) for c in table.__table__.columns if c.name != "id"}
            added = table(**values)
            session.add(added)
            session.flush()
            assert highest is not None
            assert added.id == highest + 1
    database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_target_that_is_not_empty_is_left_alone(addresses: Callable[[str], str], kind: str) -> None:
    old, new = addresses("sqlite"), addresses(kind)
    fill(old, 3)
    database = open_database(new)
    create_key(database, KeyOptions("wind"))
    database.close()
    before = contents_of(new)
    with pytest.raises(ConfigError, match="is not empty \\(it has keys\\)"):
        move_database(old, new)
    assert contents_of(new) == before


def test_what_the_target_cannot_hold_leaves_it_empty(addresses: Callable[[str], str]) -> None:
    """PostgreSQL has no NUL in text, and holds to lengths."""
    old, new = addresses("sqlite"), addresses("postgresql")
    fill(old, 3)
    database = open_database(old)
    with database.write() as session:
        session.execute(text("UPDATE usage SET request_id = :long WHERE id = 2"), {"long": "x" * 65})
    database.close()
    with pytest.raises(ConfigError, match=r"does not take what .* holds"):
        move_database(old, new)
    assert not any(contents_of(new).values())


def test_a_source_in_use_is_refused(addresses: Callable[[str], str]) -> None:
    for kind in ("sqlite", "postgresql"):
        old = addresses(kind)
        server = open_database(old, serving=True)
        with server.read() as session:
            session.scalar(select(1))
        with pytest.raises(ConfigError, match=r"a server is using .*; stop it first"):
            move_database(old, addresses("sqlite"))
        server.close()
        move_database(old, addresses("sqlite"))


def test_sources_that_are_none(addresses: Callable[[str], str], tmp_path: Path) -> None:
    target = addresses("sqlite")
    other = tmp_path / "other.db"
    with create_engine(f"sqlite:///{other}").begin() as connection:
        connection.execute(text("CREATE TABLE wind (speed INTEGER)"))
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("wind" * 100)
    for url, said in (
        (f"sqlite:///{tmp_path}/none.db", "there is no database"),
        ("sqlite://", "there is no database"),
        (f"sqlite:///{other}", "is no database of this server"),
        (f"sqlite:///{tmp_path}/empty.db", "is no database of this server"),
        (f"sqlite:///{tmp_path}/text.db", "cannot be read"),
        ("wind", "--from cannot be used"),
        ("postgresql+psycopg://u:canary@127.0.0.1:1/x", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            move_database(url, target)
        assert "canary" not in str(error.value)
        assert not make_url(target).database or not Path(str(make_url(target).database)).exists()
    assert not (tmp_path / "none.db").exists()


def test_an_older_schema_is_brought_up_to_date_first(addresses: Callable[[str], str]) -> None:
    old = addresses("sqlite")
    database = open_database(old)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    database.close()
    with pytest.raises(ConfigError, match="another version"):
        move_database(old, addresses("sqlite"))


@pytest.mark.parametrize("back", [False, True])
def test_a_server_goes_on_with_the_moved_database(
    addresses: Callable[[str], str],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    back: bool,
) -> None:
    """The same objects, by the same keys and links, beside the same files; then the old database is an older copy."""
    home = tmp_path / "home"
    old = addresses("postgresql") if back else f"sqlite:///{home}/state.db"
    new = f"sqlite:///{home}/state.db" if back else addresses("postgresql")
    chat = {"chat": checkpoints["chat"]}
    with serving(chat, home, database_url=old) as client:
        services = client.app.state.services  # type: ignore[attr-defined]
        _, token = create_key(services.database, KeyOptions("wind"))
        client.headers["authorization"] = f"Bearer {token}"
        uploaded = client.post(
            "/v1/files", files={"file": ("a.txt", b"tramontane")}, data={"purpose": "user_data"}
        ).json()
        answered = client.post("/v1/responses", json={"model": "chat", "input": "wind", "max_output_tokens": 16}).json()
        line = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "wind"}], "max_tokens": 2}}
        batch = client.post(
            "/v1/batch/jobs", json={"model": "chat", "endpoint": "/v1/chat/completions", "requests": [line]}
        ).json()
        path = f"/v1/batch/jobs/{batch['id']}"
        until = time.monotonic() + 60
        while (ended := client.get(path).json())["status"] != "SUCCESS" and time.monotonic() < until:
            time.sleep(0.1)
        link = client.get(f"/v1/files/{uploaded['id']}/url").json()["url"]
        listed = client.get("/v1/files").json()
    assert run(["database", "move", "--from", old, "--to", new]) == 0
    assert "files" in capsys.readouterr().out
    with serving(chat, home, database_url=new) as client:
        assert client.get("/v1/files").status_code == 401
        client.headers["authorization"] = f"Bearer {token}"
        assert client.get("/v1/files").json() == listed
        assert client.get(path).json() == ended
        assert client.get(f"/v1/files/{ended['output_file']}/content").text.count("\n") == 1
        assert client.get(f"/v1/responses/{answered['id']}").json() == answered
        assert client.get(link).content == b"tramontane"
    with pytest.raises(ConfigError, match="older copy"):
        open_state(ServerSettings(state_dir=home, database_url=old))
