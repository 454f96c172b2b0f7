"""`tramontane adopt`: folders of files that another database, or none, is known to belong to."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer

from tramontane.cli.options import Json
from tramontane.errors import ConfigError


def adopt(
    *,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be kept, and what is missing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state_dir: Annotated[Path | None, typer.Option(help="As for serve.")] = None,
    database_url: Annotated[str | None, typer.Option(envvar="TRAMONTANE_DATABASE_URL", help="As for serve.")] = None,
    files_url: Annotated[str | None, typer.Option(help="As for serve.")] = None,
    as_json: Json = False,
) -> None:
    """Tie the folders of files and fine-tuning jobs to the database, once it is said what that keeps.

    What has a row in the database is kept, and brought back from the trash. What has none is moved to the trash when a
    server starts, and stays there for its --trash-days: nothing is deleted. Rows whose contents are missing stay.
    """
    from tramontane.cli.terminal import print_json, print_table
    from tramontane.server.settings import ServerSettings
    from tramontane.server.state import open_state
    from tramontane.server.store.tie import survey

    settings = ServerSettings(state_dir=state_dir, database_url=database_url, files_url=files_url)
    state = open_state(settings, untied=True)
    try:
        found = [survey(keeper) for keeper in state.keepers]
        if as_json:
            print_json({"database": state.database.name, "folders": [dataclasses.asdict(each) for each in found]})
        else:
            print(f"database {state.database.name}")
            counts = [
                (each.folder, each.num_known, each.num_in_trash, each.num_unknown, each.num_missing) for each in found
            ]
            heads = ("folder", "kept", "back from the trash", "to the trash", "missing")
            print_table([heads, *(tuple(map(str, line)) for line in counts)], num_texts=1)
        if check:
            return
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError("nobody can be asked here; run it with --yes, or with --check only to see")
            typer.confirm("tie these folders to this database?", abort=True, err=True)
        state.adopt()
    finally:
        state.database.close()
