"""ApiError and the one error body that Mistral's clients and OpenAI's both read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tramontane.engine.async_engine import EngineStoppedError
from tramontane.errors import CapacityError, ContextLengthError, RequestError, TokenizerError, TramontaneError
from tramontane.server.store.errors import DiskFullError

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}
RETRY_AFTER_S = 1
"""For a full queue: places become free within steps."""

CLIENT_GONE = 499
"""nginx's number for a client that closed the connection; seen in records only."""

MAX_ECHO_CHARS = 100
"""A refused value or the name of a field is repeated in the refusal up to this length: enough to recognise it, too
little to fill logs."""

MAX_MESSAGE_CHARS = 600
"""Whatever the message repeats of the request; its beginning names the field, its end what would be right."""

MAX_DETAILS = 50
"""Wrong fields that a refusal lists one by one."""


class ApiError(Exception):
    """Ends a request with `status` and the body of `error_body`. `message` is for the user: what was wrong, and what
    to do about it. `param` names the field. `detail` is the list of a 422. What these repeat of a request is cut here,
    for every error there is."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        detail: Sequence[Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.message = shortened(message, MAX_MESSAGE_CHARS)
        super().__init__(self.message)
        self.status = status
        self.kind = kind or KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.param = param and shortened(param, MAX_MESSAGE_CHARS)
        self.code = code
        self.detail = detail and [shortened_entry(entry) for entry in detail[:MAX_DETAILS]]
        self.headers = dict(headers or {})

    @property
    def error(self) -> dict[str, Any]:
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}

    def body(self) -> dict[str, Any]:
        """Flat, as Mistral's clients read it, and under `error` once more, where OpenAI's JavaScript client looks and
        nowhere else. `detail` only with 422, where mistralai expects a list."""
        error = self.error
        body = {"object": "error", **error, "raw_status_code": self.status, "error": error}
        return body if self.detail is None else body | {"detail": [dict(entry) for entry in self.detail]}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def shortened(text: str, max_chars: int) -> str:
    """`text` with its middle left out if it is longer."""
    if len(text) <= max_chars:
        return text
    end = (max_chars - 1) // 2
    return f"{text[: max_chars - 1 - end]}…{text[len(text) - end :]}"


def shortened_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One wrong field; its name and pydantic's words may repeat what was sent."""
    loc = [shortened(part, MAX_ECHO_CHARS) if isinstance(part, str) else part for part in entry["loc"]]
    return {**entry, "loc": loc, "msg": shortened(entry["msg"], MAX_MESSAGE_CHARS)}


def invalid_lines(message: str, param: str, problems: Iterable[tuple[int, str]]) -> ApiError:
    """422 for a file of which some lines, (number from 1, what is wrong), cannot be used."""
    detail = [
        {"type": "invalid_line", "loc": ["body", param, line], "msg": what, "input": None} for line, what in problems
    ]
    return ApiError(422, message, param=param, code="invalid_file", detail=detail)


def as_api_error(error: BaseException) -> ApiError:
    """What any failure says to the client. A failure of ours says nothing of how it came about."""
    match error:
        case ApiError():
            return error
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
        case ClientDisconnect():
            return ApiError(CLIENT_GONE, "the client left before its request was whole")
        case DiskFullError():
            return ApiError(507, str(error), code="disk_full")
        case CapacityError():
            return ApiError(
                429, str(error), kind="rate_limited", code="1300", headers={"Retry-After": str(RETRY_AFTER_S)}
            )
        case ContextLengthError():
            return ApiError(400, str(error), code="context_length_exceeded")
        case RequestError() | TokenizerError():
            return ApiError(400, str(error))
        case EngineStoppedError():
            return ApiError(503, "the model has stopped and the server is going down; try again later")
        case MemoryError():
            return ApiError(
                503, "the server has no memory left for this request", headers={"Retry-After": str(RETRY_AFTER_S)}
            )
        case TramontaneError():
            return ApiError(500, str(error))
        case _:
            return ApiError(500, "internal error; the server's log has the details under this request's id")
