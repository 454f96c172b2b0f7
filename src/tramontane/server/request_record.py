"""RequestRecord: what is left of a request when it is over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What one inference request did; sent to every observer when it is over, however it ended."""

    endpoint: str  # such as /v1/chat/completions
    model: str
    key_id: str
    owner: str
    status: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_token_s: float | None  # from the request's arrival
    duration_s: float
    request_id: str
