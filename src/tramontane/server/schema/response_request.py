"""The body of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from tramontane.server.schema.base import ApiModel
from tramontane.server.schema.chat import JsonObject


class TextPart(ApiModel):
    type: Literal["input_text", "output_text", "text"]
    text: str


class FilePart(ApiModel):
    type: Literal["input_file"]
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None


class OtherPart(ApiModel):
    model_config = ConfigDict(extra="allow")
    type: Literal["input_image", "input_audio", "refusal"]


def _part_kind(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    if kind == "input_file":
        return "file"
    return "text" if kind in ("input_text", "output_text", "text") else "other"


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[FilePart, Tag("file")] | Annotated[OtherPart, Tag("other")],
    Discriminator(_part_kind),
]


class StoredItem(ApiModel):
    """An item of an earlier answer, which comes back with what it was given there. Nothing hangs on that."""

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(StoredItem):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Part]


class FunctionCallItem(StoredItem):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionOutputItem(StoredItem):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Part]


class ReasoningText(ApiModel):
    type: Literal["reasoning_text"]
    text: str


class ReasoningSummary(ApiModel):
    type: Literal["summary_text"]
    text: str


class ReasoningItem(StoredItem):
    type: Literal["reasoning"]
    summary: list[ReasoningSummary] | None = None
    content: list[ReasoningText] | None = None


def _item_kind(item: Any) -> str | None:
    return item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", None)


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_item_kind),
]


class FunctionTool(ApiModel):
    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamedFunction(ApiModel):
    type: Literal["function"]
    name: str


class TextFormat(ApiModel):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: JsonObject | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextConfig(ApiModel):
    format: TextFormat | None = None


class Reasoning(ApiModel):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class ResponseStreamOptions(ApiModel):
    pass


class ResponseInput(ApiModel):
    """What counts as input: shared by /v1/responses and /v1/responses/input_tokens."""

    model: str
    input: str | Annotated[list[Item], Field(min_length=1)]
    instructions: str | None = None
    tools: list[FunctionTool] | None = Field(default=None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = True
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["disabled"] | None = "disabled"
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    moderation: None = None


class ResponseRequest(ResponseInput):
    """Answers are not stored, whatever `store` says: there is nothing to fetch, continue or cancel later."""

    stream: bool | None = False
    stream_options: ResponseStreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    max_output_tokens: int | None = Field(default=None, ge=1)
    max_tool_calls: None = None
    background: Literal[False] | None = False
    store: bool | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
