"""`tramontane database`: where the server keeps its rows."""

from __future__ import annotations

from typing import Annotated

import typer

from tramontane.cli.options import Json

Url = "An SQLAlchemy URL, as for serve's --database-url."


def move(
    *,
    source: Annotated[str, typer.Option("--from", metavar="URL", help=Url)],
    target: Annotated[str, typer.Option("--to", metavar="URL", help=f"{Url} It has to be empty.")],
    as_json: Json = False,
) -> None:
    """Copy every row into an empty database, SQLite or PostgreSQL, and compare what has arrived.

    Stop the servers of the first; it is left as it is. Files stay where they are and belong to the second from then on:
    give serve its URL, and --state-dir if the files lie in the folder of the first.
    """
    from tramontane.cli.terminal import print_json, print_table
    from tramontane.server.store.move import move_database

    counts = move_database(source, target)
    if as_json:
        print_json({"tables": counts})
    else:
        print_table([("table", "rows"), *((name, str(count)) for name, count in counts.items())], num_texts=1)
