"""dispatch: one API call made inside the process, as batch jobs make them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from tramontane.server.auth import Caller
from tramontane.server.dialect import Dialect
from tramontane.server.endpoint import ENDPOINTS, Call
from tramontane.server.errors import CLIENT_GONE, ApiError, as_api_error
from tramontane.server.services import Services

log = logging.getLogger(__name__)


async def dispatch(
    app: FastAPI,
    endpoint: str,
    body: Mapping[str, Any],
    caller: Caller,
    *,
    dialect: Dialect = "mistral",
    priority: int = 0,
) -> tuple[int, dict[str, Any]]:
    """Status and body of `POST endpoint` with this body, not streamed, as HTTP would give them; what its headers would
    say of the request's fields stands in the body too. Never raises but for cancellation, which frees what the call
    holds."""
    known = ENDPOINTS.get(endpoint)
    services: Services = app.state.services
    path = "unknown" if known is None else endpoint
    call = Call(services, caller, path, dialect, priority, is_strict=services.settings.strict)
    status = 500
    try:
        if known is None:
            raise ApiError(404, f"no endpoint {endpoint}; known are {', '.join(sorted(ENDPOINTS))}", param="endpoint")
        answer = await known.run(call, body)
        status = 200
        return status, {**answer, **call.notes.headers}
    except asyncio.CancelledError:
        status = CLIENT_GONE
        raise
    except Exception as error:
        failure = as_api_error(error) if known is None else known.failure(error)
        status = failure.status
        if status >= 500 and not isinstance(error, ApiError):
            log.error("request %s to %s failed", call.request_id, endpoint, exc_info=error)
        return status, failure.body()
    finally:
        call.record(status)
