"""Bodies of /api/documents: the text of a document and what is wanted of it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tramontane.server.schema.base import ApiModel

MAX_CHARS = 8_000_000
Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARS)]


class SummaryRequest(ApiModel):
    model: str
    text: Text
    words: Annotated[int, Field(ge=10, le=10_000)] = 150
    stream: bool = False


class AnswerRequest(ApiModel):
    model: str
    text: Text
    question: Annotated[str, Field(min_length=1, max_length=20_000)]
    passages: Annotated[int, Field(ge=1, le=100)] = 4
    stream: bool = False
