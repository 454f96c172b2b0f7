"""Why an answer ended, in the words of each API."""

from __future__ import annotations

from tramontane.server.dialect import Dialect
from tramontane.server.endpoint import Call
from tramontane.server.errors import ApiError


def finish_reason(reason: str, *, dialect: Dialect, has_calls: bool = False, is_cut_by_limit: bool = True) -> str:
    """`reason` is the engine's; `is_cut_by_limit`: max_tokens was reached, not the end of the context."""
    if has_calls and reason == "stop":
        return "tool_calls"
    if reason == "length" and not is_cut_by_limit and dialect == "mistral":
        return "model_length"
    return reason


def require_sound(call: Call, reason: str, error: str | None) -> None:
    """Raises ApiError for an answer that came to nothing."""
    if reason == "refused":
        raise ApiError(400, error or "the request asks too much", param="response_format", code="format_too_complex")
    if reason == "error":
        raise ApiError(500, f"the model failed on this request: {error}")
    if reason == "abort":
        raise ApiError(503, "the request was ended by the server, which is going down; try again later")
