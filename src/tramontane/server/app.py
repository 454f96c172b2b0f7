"""create_app: the whole HTTP surface of one server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

import tramontane
from tramontane.server.errors import add_error_handlers
from tramontane.server.models import ModelRegistry
from tramontane.server.routes import health, not_implemented
from tramontane.server.services import Services
from tramontane.server.settings import ServerSettings

ROUTERS = (health.router, not_implemented.router)
STATIC = Path(__file__).parent / "static"


def create_app(settings: ServerSettings, registry: ModelRegistry | None = None) -> FastAPI:
    """The app serves the models of `registry`, or loads those of `settings` when it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack():  # what is opened here is closed in reverse when the server stops
            yield

    app = FastAPI(
        title="Tramontane",
        version=tramontane.__version__,
        docs_url=None,  # FastAPI's pages load their scripts from a foreign host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.services = Services(settings, ModelRegistry() if registry is None else registry)
    add_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    if STATIC.is_dir():
        app.mount("/", StaticFiles(directory=STATIC, html=True), name="static")
    return app
