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
DEFAULT_HELP = "'default': as the server has it, as for all limits."
USED = {
    "files": "max_files",
    "stored": "max_stored_bytes",
    "batches": "max_batches",
    "jobs": "max_fine_tuning_jobs",
    "models": "max_models",
}


def keys(
    action: Annotated[Literal["create", "limit", "list", "revoke"], typer.Argument(help="What to do.")],
    name: Annotated[str | None, typer.Argument(help="A name for the new key; the id of another.")] = None,
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
    requests_per_minute: Annotated[
        str | None, typer.Option(metavar="NUMBER", help=f"Most requests a minute. {DEFAULT_HELP}")
    ] = None,
    tokens_per_minute: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Most tokens a minute, prompts and answers.")
    ] = None,
    max_concurrent_requests: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Most requests at once, to each server.")
    ] = None,
    max_files: Annotated[str | None, typer.Option(metavar="NUMBER", help="Most files stored for its owner.")] = None,
    max_stored_gib: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Most GiB of files, kept responses and unfinished batches."),
    ] = None,
    max_batches: Annotated[str | None, typer.Option(metavar="NUMBER", help="Most unfinished batches.")] = None,
    max_fine_tuning_jobs: Annotated[
        str | None, typer.Option(metavar="NUMBER", help="Most unfinished fine-tuning jobs.")
    ] = None,
    max_models: Annotated[str | None, typer.Option(metavar="NUMBER", help="Most fine-tuned models.")] = None,
    expires_days: Annotated[float | None, typer.Option(help="Days until it is refused (default: never).")] = None,
    state_dir: Annotated[Path | None, typer.Option(help="As for serve.")] = None,
    database_url: Annotated[str | None, typer.Option(envvar="TRAMONTANE_DATABASE_URL", help="As for serve.")] = None,
    as_json: Json = False,
) -> None:
    """Make, limit, list and revoke the keys of the server.

    A new key is shown once and kept as a hash. Servers that are running learn of changes within a second. What is
    stored is counted for all keys of an owner together; where a key has no limit of its own, serve's hold.
    """
    from tramontane.cli.terminal import print_json, print_table, printable
    from tramontane.server.keys import SCOPES, KeyOptions, create_key, limit_key, list_keys, revoke_key
    from tramontane.server.quotas import usage
    from tramontane.server.settings import ServerSettings
    from tramontane.server.store.database import open_database

    if name is None and action != "list":
        wanted = "a name for the new key" if action == "create" else "the id of a key (tramontane keys list)"
        raise ConfigError(f"keys {action} needs {wanted}")
    if name is not None and action == "list":
        raise ConfigError(f"keys list takes no name; leave out {name!r}")
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_concurrent_requests": max_concurrent_requests,
        "max_files": max_files,
        "max_stored_gib": max_stored_gib,
        "max_batches": max_batches,
        "max_fine_tuning_jobs": max_fine_tuning_jobs,
        "max_models": max_models,
    }
    limits = read_limits({name: text for name, text in given.items() if text is not None})
    if action == "limit" and not limits:
        raise ConfigError("keys limit needs a limit, such as --max-files 1000 or --max-files default")
    if limits and action in ("list", "revoke"):
        raise ConfigError(f"keys {action} takes no limits")
    if action != "create":
        for option, value in (("--owner", owner), ("--scope", scope), ("--expires-days", expires_days)):
            if value is not None:
                raise ConfigError(f"keys {action} takes no {option}, which is for keys create")
    settings = ServerSettings(state_dir=state_dir, database_url=database_url)
    database = open_database(settings.resolved_database_url, must_exist=action != "create")
    try:
        if action == "list":
            keys = list_keys(database)
            with database.read() as session:
                used = {owner: usage(session, owner) for owner in {key.owner for key in keys}}
            rows = [describe(key) | {"used": used[key.owner]} for key in keys]
            if as_json:
                print_json({"keys": rows})
            else:
                texts = ("id", "state", "owner", "scopes", "name")
                cells = [[row[name] for name in texts] for row in rows]
                shown = [[printable(",".join(c) if isinstance(c, list) else str(c)) for c in row] for row in cells]
                lines = [[*line, *used_cells(row)] for line, row in zip(shown, rows, strict=True)]
                print_table([(*texts, *USED), *lines], num_texts=len(texts))
        elif action == "limit":
            print_json(describe(limit_key(database, name or "", limits)))
        elif action == "revoke":
            key = revoke_key(database, name or "")
            print_json(describe(key)) if as_json else print(f"{key.id} is revoked")
        else:
            options = KeyOptions(
                name=name or "",
                owner=owner,
                scopes=scope or SCOPES - {"admin"},
                **limits,
                expires_s=None if expires_days is None else expires_days * DAY_S,
            )
            key, token = create_key(database, options)
            print_json(describe(key) | {"key": token}) if as_json else print(token)
    finally:
        database.close()


def read_limits(given: dict[str, str]) -> dict[str, int | None]:
    """By the names of a key's columns; None for "default". Raises ConfigError."""
    limits: dict[str, int | None] = {}
    for name, text in given.items():
        is_size = name.endswith("_gib")
        try:
            number = None if text == "default" else float(text) * 2**30 if is_size else int(text)
            limits[name.replace("_gib", "_bytes")] = None if number is None else int(number)
        except (ValueError, OverflowError):
            wanted = "a size in GiB" if is_size else "a whole number"
            raise ConfigError(f"{name}={text!r} must be {wanted}, or 'default'") from None
    return limits


def used_cells(row: dict[str, Any]) -> list[str]:
    """What is used, and of how much where the key has a limit of its own."""
    from tramontane.server.quotas import shown

    return [
        shown(name, row["used"][name]) + ("" if row[name] is None else f" of {shown(name, row[name])}")
        for name in USED.values()
    ]


def describe(key: Key) -> dict[str, Any]:
    from tramontane.server.keys import LIMITS

    is_over = key.expires_at is not None and key.expires_at <= time.time()
    return {
        "id": key.id,
        "name": key.name,
        "owner": key.owner,
        "scopes": key.scopes,
        **{name: getattr(key, name) for name in LIMITS},
        "created_at": int(key.created_at),
        "expires_at": None if key.expires_at is None else int(key.expires_at),
        "state": "revoked" if key.revoked_at is not None else "expired" if is_over else "valid",
    }
