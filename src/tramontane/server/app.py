"""create_app: the whole HTTP surface of one server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

import tramontane
from tramontane.server.errors import add_error_handlers
from tramontane.server.load import load_registry
from tramontane.server.metrics import Metrics
from tramontane.server.models import ModelRegistry
from tramontane.server.openapi import add_openapi
from tramontane.server.routes import (
    chat,
    completions,
    docs,
    documents,
    embeddings,
    fim,
    health,
    metrics,
    models,
    moderations,
    not_implemented,
    responses,
)
from tramontane.server.services import Services
from tramontane.server.settings import ServerSettings
from tramontane.server.web_page import WebPage

ROUTERS = (
    health.router,
    metrics.router,
    docs.router,
    models.router,
    chat.router,
    fim.router,
    completions.router,
    embeddings.router,
    moderations.router,
    responses.router,
    documents.router,
    not_implemented.router,
)


def create_app(settings: ServerSettings, registry: ModelRegistry | None = None) -> FastAPI:
    """The app serves the models of `registry`, or loads those of `settings` when it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services: Services = app.state.services
        async with contextlib.AsyncExitStack() as stack:  # what is opened here is closed in reverse at the end
            if registry is None:
                services.registry = await asyncio.to_thread(load_registry, settings)
                for model in services.registry:
                    stack.callback(model.llm.shutdown)
            yield

    app = FastAPI(
        title="Tramontane",
        version=tramontane.__version__,
        docs_url=None,  # FastAPI's pages load their scripts from a foreign host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    counters = Metrics()
    served = ModelRegistry() if registry is None else registry
    app.state.services = Services(settings, served, counters, [counters.observe])
    add_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    add_openapi(app)
    app.mount("/", WebPage(), name="web_page")
    return app
