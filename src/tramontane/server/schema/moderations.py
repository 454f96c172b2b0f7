"""The bodies of the moderation and classification routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tramontane.server.schema.base import ApiModel, Metadata
from tramontane.server.schema.chat import MAX_MESSAGES, Message

Text = Annotated[str, Field(min_length=1)]
Conversation = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


class TextInput(ApiModel):
    """OpenAI's form of a text in /v1/moderations."""

    type: str = Field(pattern="^text$")
    text: Text


class ModerationRequest(ApiModel):
    model: str | None = None
    input: Text | Annotated[list[Text | TextInput], Field(min_length=1, max_length=256)]
    metadata: Metadata | None = None

    @property
    def texts(self) -> list[str]:
        inputs = [self.input] if isinstance(self.input, str) else self.input
        return [text if isinstance(text, str) else text.text for text in inputs]


class ClassificationRequest(ModerationRequest):
    model: str


class ChatModerationRequest(ApiModel):
    model: str
    input: Conversation | Annotated[list[Conversation], Field(min_length=1, max_length=256)]

    @property
    def conversations(self) -> list[list[Message]]:
        return list(self.input) if isinstance(self.input[0], list) else [self.input]


class Messages(ApiModel):
    messages: Conversation


class ChatClassificationRequest(ApiModel):
    model: str
    input: Messages | Annotated[list[Messages], Field(min_length=1, max_length=256)]

    @property
    def conversations(self) -> list[list[Message]]:
        inputs = self.input if isinstance(self.input, list) else [self.input]
        return [entry.messages for entry in inputs]
