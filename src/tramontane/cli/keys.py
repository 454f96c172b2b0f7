"""`tramontane keys`: who may call the server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tramontane.cli.options import Json
from tramontane.errors import ConfigError

if TYPE_CHECKING:
    from tramontane.server.store.tables import Key

DAY_S = 86_400


def keys(
    action: Annotated[Literal["create", "list", "revoke"], typer.Argument(help="What to do.")],
    name: Annotated[str | None, typer.Argument(help="A name for the new key; the id of the one to revoke.")] = None,
    *,
    owner: Annotated[
        str | None,
        typer.Option(help="Whose files and jobs it sees (default: its own; 'local': those made without a key)."),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it allows (may be repeated): inference, files, batch, fine_tuning, usage or admin "
            "(default: all but admin)."
        ),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Most requests a minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Most tokens a minute, prompts and answers.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="Days until it is refused (default: never).")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="As for serve.")] = None,
    database_url: Annotated[str | None, typer.Option(envvar="TRAMONTANE_DATABASE_URL", help="As for serve.")] = None,
    as_json: Json = False,
) -> None:
    """Make, list and revoke the keys of the server.

    A new key is shown once and kept as a hash. Servers that are running learn of changes within a second.
    """
    from tramontane.cli.terminal import print_json, print_table, printable
    from tramontane.server.keys import SCOPES, KeyOptions, create_key, list_keys, revoke_key
    from tramontane.server.settings import ServerSettings
    from tramontane.server.store.database import open_database

    if name is None and action != "list":
        wanted = "a name for the new key" if action == "create" else "the id of a key (tramontane keys list)"
        raise ConfigError(f"keys {action} needs {wanted}")
    if name is not None and action == "list":
        raise ConfigError(f"keys list takes no name; leave out {name!r}")
    settings = ServerSettings(state_dir=state_dir, database_url=database_url)
    database = open_database(settings.resolved_database_url)
    try:
        if action == "list":
            rows = [describe(key) for key in list_keys(database)]
            if as_json:
                print_json({"keys": rows})
            else:
                heads = ("id", "state", "owner", "scopes", "name")
                cells = [[row[name] for name in heads] for row in rows]
                shown = [[printable(",".join(c) if isinstance(c, list) else str(c)) for c in row] for row in cells]
                print_table([heads, *shown], num_texts=len(heads))
        elif action == "revoke":
            key = revoke_key(database, name or "")
            print_json(describe(key)) if as_json else print(f"{key.id} is revoked")
        else:
            options = KeyOptions(
                name=name or "",
                owner=owner,
                scopes=scope or SCOPES - {"admin"},
                requests_per_minute=requests_per_minute,
                tokens_per_minute=tokens_per_minute,
                expires_s=None if expires_days is None else expires_days * DAY_S,
            )
            key, token = create_key(database, options)
            print_json(describe(key) | {"key": token}) if as_json else print(token)
    finally:
        database.close()


def describe(key: Key) -> dict[str, Any]:
    is_over = key.expires_at is not None and key.expires_at <= time.time()
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": key.scopes,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "created_at": int(key.created_at),
        "expires_at": None if key.expires_at is None else int(key.expires_at),
        "state": "revoked" if key.revoked_at is not None else "expired" if is_over else "valid",
    }
