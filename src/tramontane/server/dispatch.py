"""dispatch: one API call made inside the process, as batch jobs make them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI

from tramontane.server.auth import Caller
from tramontane.server.errors import ApiError, as_api_error
from tramontane.server.services import Services

log = logging.getLogger(__name__)

Call = Callable[[Services, Caller, Mapping[str, Any]], Awaitable[dict[str, Any]]]

CALLS: dict[str, Call] = {}
"""Path to what answers it, for every endpoint whose answer is one JSON object."""


async def dispatch(app: FastAPI, endpoint: str, body: Mapping[str, Any], caller: Caller) -> tuple[int, dict[str, Any]]:
    """Status and body of `POST endpoint` with this body, not streamed, as HTTP would give them. Never raises but for
    cancellation, which frees what the call holds."""
    try:
        call = CALLS.get(endpoint)
        if call is None:
            raise ApiError(404, f"no endpoint {endpoint}; known are {', '.join(CALLS)}", param="endpoint")
        return 200, await call(app.state.services, caller, body)
    except Exception as error:
        answer = as_api_error(error)
        if answer.status >= 500 and not isinstance(error, ApiError):
            log.error("%s failed", endpoint, exc_info=error)
        return answer.status, answer.body()
