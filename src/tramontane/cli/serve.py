"""`tramontane serve`: Mistral's API and OpenAI's over models of yours."""

from __future__ import annotations

import logging
import sys

import typer

from tramontane.server.settings import ServerSettings


def serve(*, settings: ServerSettings) -> None:
    """Serve models over HTTP: Mistral's API and OpenAI's under /v1, /health, /metrics.

    Without a MODEL, the default one is served. It listens on this machine alone unless told otherwise.
    """
    from tramontane.cli.terminal import bytes_bar
    from tramontane.server.serve import serve as run_server

    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each start that the schema is as it was
    code = run_server(
        settings,
        progress_of=lambda name: bytes_bar(f"loading {name}"),
        on_ready=lambda url: print(f"serving on {url}", flush=True),
    )
    if code:
        raise typer.Exit(code)
