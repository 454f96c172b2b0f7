"""Services: what every route may need, made once per server and found at `app.state.services`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from tramontane.server.models import ModelRegistry
from tramontane.server.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What one inference request did; sent to every observer when it is over, however it ended."""

    endpoint: str  # such as /v1/chat/completions
    model: str
    key_id: str
    status: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_token_s: float | None  # from the request's arrival
    duration_s: float
    request_id: str


@dataclass(slots=True, eq=False)
class Services:
    settings: ServerSettings
    registry: ModelRegistry
    observers: list[Callable[[RequestRecord], None]] = field(default_factory=list)

    def observe(self, record: RequestRecord) -> None:
        for observer in self.observers:
            observer(record)


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
