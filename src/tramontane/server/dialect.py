"""Dialect: which of the two APIs a request speaks, where both have the same route and their answers differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command line reads `Dialect` where the extra `serve` may be missing
    from starlette.requests import Request

Dialect = Literal["mistral", "openai"]
"""OpenAI's shape is what a request gets that shows neither, because it has plain text where Mistral's has lists."""

HEADER = "x-dialect"
AGENTS: tuple[tuple[str, Dialect], ...] = (
    ("mistral-client", "mistral"),
    ("OpenAI/", "openai"),
    ("AsyncOpenAI/", "openai"),
)
"""Beginnings of the names of clients that read one of the shapes alone."""

FIELDS: dict[Dialect, frozenset[str]] = {
    "mistral": frozenset(
        (
            *("random_seed", "safe_prompt", "prompt_mode", "guardrails", "document_image_limit", "document_page_limit"),
            *("training_files", "page", "page_size", "created_by_me", "created_after", "created_before"),
        )
    ),
    "openai": frozenset(
        (
            *("seed", "max_completion_tokens", "stream_options", "store", "user", "verbosity", "modalities"),
            *("safety_identifier", "web_search_options", "training_file", "after", "limit"),
        )
    ),
}
"""Fields of a body, and parameters of an address, that only one of the APIs has."""


def dialect_of(request: Request, fields: Mapping[str, object], otherwise: Dialect) -> Dialect:
    """What the request says (the header x-dialect), else what its client is known to read, else what its fields show,
    else `otherwise`."""
    said, agent = request.headers.get(HEADER, ""), request.headers.get("user-agent", "")
    given = {name for name, value in fields.items() if value is not None}
    found = (
        *(dialect for dialect in FIELDS if dialect == said.lower()),
        *(dialect for beginning, dialect in AGENTS if agent.startswith(beginning)),
        *(dialect for dialect, names in FIELDS.items() if names & given and not given & _other(dialect)),
    )
    return next(iter(found), otherwise)


def _other(dialect: Dialect) -> frozenset[str]:
    return FIELDS["openai" if dialect == "mistral" else "mistral"]


def is_mistral_client(request: Request) -> bool:
    """Such a request is answered as strictly as by the API the client was made for, so that mistakes show here too."""
    return request.headers.get("user-agent", "").startswith("mistral-client")
