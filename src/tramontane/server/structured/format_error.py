"""FormatError: a format or a tool that cannot be held to. Light: it is raised where little else is loaded."""

from __future__ import annotations

from tramontane.errors import RequestError

MAX_ECHO_CHARS = 100
"""What a refusal repeats of a schema."""


class FormatError(RequestError):
    """`param` names the field of the request."""

    def __init__(self, message: str, param: str = "response_format") -> None:
        super().__init__(message)
        self.param = param


def said(text: str) -> str:
    """`text` as a refusal repeats it."""
    return text if len(text) <= MAX_ECHO_CHARS else f"{text[: MAX_ECHO_CHARS - 1]}…"
