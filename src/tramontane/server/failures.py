"""What is answered when a route, or the lack of one, ends a request with an exception."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tramontane.engine.async_engine import EngineStoppedError
from tramontane.errors import TramontaneError
from tramontane.server.errors import ApiError, as_api_error
from tramontane.server.guard import REQUEST_ID
from tramontane.server.unknown_route import unknown_route
from tramontane.server.validation import validation_error

log = logging.getLogger(__name__)


async def on_failure(request: Request, error: Exception) -> JSONResponse:
    """What nobody foresaw. uvicorn closes the connection after it: a client that is not told so would send its next
    request into a connection that is gone."""
    answer = await on_error(request, error)
    answer.headers["Connection"] = "close"
    return answer


async def on_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        return unknown_route(request, error.status_code).response()
    answer = validation_error(error.errors()) if isinstance(error, RequestValidationError) else as_api_error(error)
    if answer.status >= 500 and not isinstance(error, ApiError):
        trace = None if isinstance(error, TramontaneError) else error  # what is foreseen is told in one line
        name = request.scope.get(REQUEST_ID, "")
        log.error("request %s, %s %s failed: %s", name, request.method, request.url.path, error, exc_info=trace)
    return answer.response()


def add_error_handlers(app: FastAPI) -> None:
    foreseen = (ApiError, TramontaneError, EngineStoppedError, RequestValidationError, HTTPException, ClientDisconnect)
    for kind in foreseen:
        app.add_exception_handler(kind, on_error)
    app.add_exception_handler(Exception, on_failure)
