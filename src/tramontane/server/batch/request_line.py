"""One request of a batch, as a line of JSON: Mistral's form and OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tramontane.errors import DataError

KEYS = frozenset(("custom_id", "body", "method", "url"))
MAX_CUSTOM_ID_CHARS = 512


@dataclass(frozen=True, slots=True)
class RequestLine:
    """`url` is there in OpenAI's form only. `custom_id` may be missing in Mistral's."""

    custom_id: str | None
    body: Mapping[str, Any]
    url: str | None = None


def parse_request_line(value: Mapping[str, Any]) -> RequestLine:
    """`{"custom_id"?, "body"}` or `{"custom_id", "method": "POST", "url", "body"}`. Raises DataError."""
    if unknown := sorted(set(value) - KEYS):
        raise DataError(f"unknown key {unknown[0][:64]!r}; known are {', '.join(sorted(KEYS))}")
    body = value.get("body")
    if not isinstance(body, dict):
        raise DataError("body must be an object: the body of one request")
    custom_id = value.get("custom_id")
    if custom_id is not None and not _is_id(custom_id):
        raise DataError(f"custom_id must be a printable text of 1 to {MAX_CUSTOM_ID_CHARS} characters")
    if body.get("stream"):
        raise DataError("body: stream must be false in a batch")
    url = value.get("url")
    if "method" in value or url is not None:
        if value.get("method") != "POST" or not isinstance(url, str):
            raise DataError('method must be "POST" and url the path of an endpoint')
        if custom_id is None:
            raise DataError("custom_id is missing")
    return RequestLine(custom_id, body, url)


class UniqueIds:
    """Refuses a custom_id that was there before; numbers requests that have none."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self.num_lines = 0

    def take(self, line: RequestLine) -> str:
        """Raises DataError."""
        custom_id = str(self.num_lines) if line.custom_id is None else line.custom_id
        if custom_id in self._seen:
            raise DataError(f"custom_id {custom_id[:64]!r} is used twice; give each request its own")
        self._seen.add(custom_id)
        self.num_lines += 1
        return custom_id


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= MAX_CUSTOM_ID_CHARS and value.isprintable()
