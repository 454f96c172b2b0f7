"""The body of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Discriminator, Field, Tag

from tramontane.server.schema.base import MAX_METADATA, ApiModel, at_most
from tramontane.server.schema.chat import MAX_CHUNKS, MAX_MESSAGES, JsonObject, OtherTool, tool_kind
from tramontane.server.schema.sampling import MAX_INTEGER


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


def _part_kind(part: Any) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    kinds: dict[str, type[ApiModel]] = {"text": TextPart, "file": FilePart, "other": OtherPart}
    return next((tag for tag, part in kinds.items() if kind in get_args(part.model_fields["type"].annotation)), None)


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[FilePart, Tag("file")] | Annotated[OtherPart, Tag("other")],
    Discriminator(
        _part_kind,
        custom_error_type="part_type",
        custom_error_message="Input should be of type input_text, output_text, text or input_file",
    ),
]


class StoredItem(ApiModel):
    """An item of an earlier answer, which comes back with what it was given there. Nothing hangs on that."""

    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(StoredItem):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[Part], Field(max_length=MAX_CHUNKS)]


class FunctionCallItem(StoredItem):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionOutputItem(StoredItem):
    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[Part], Field(max_length=MAX_CHUNKS)]


class ReasoningText(ApiModel):
    type: Literal["reasoning_text"]
    text: str


class ReasoningSummary(ApiModel):
    type: Literal["summary_text"]
    text: str


class ReasoningItem(StoredItem):
    type: Literal["reasoning"]
    summary: Annotated[list[ReasoningSummary], Field(max_length=MAX_CHUNKS)] | None = None
    content: Annotated[list[ReasoningText], Field(max_length=MAX_CHUNKS)] | None = None


class ItemReference(ApiModel):
    """An item that this server has given or was given, by its id."""

    type: Literal["item_reference"] = "item_reference"
    id: str


class OtherItem(ApiModel):
    """What came of tools that do not run here; no model here can read it."""

    model_config = ConfigDict(extra="allow")
    type: str


ITEM_KINDS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")


def _item_kind(item: Any) -> str | None:
    if not isinstance(item, dict):
        kind = getattr(item, "type", None)
    elif item.get("type") is None:
        kind = "message" if "role" in item else "item_reference"
    else:
        kind = item["type"]
    return kind if kind in ITEM_KINDS else "other"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_item_kind),
]


class FunctionTool(ApiModel):
    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


ResponseTool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[OtherTool, Tag("other")], Discriminator(tool_kind)
]


class NamedFunction(ApiModel):
    type: Literal["function"]
    name: str


class AllowedTools(ApiModel):
    """The tools that may be called, of all that are told of."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[JsonObject] = Field(max_length=128)


def _choice_kind(choice: Any) -> str:
    if isinstance(choice, str):
        return "mode"
    kind = choice.get("type") if isinstance(choice, dict) else getattr(choice, "type", None)
    return kind if kind in ("function", "allowed_tools") else "other"


ResponseToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("mode")]
    | Annotated[NamedFunction, Tag("function")]
    | Annotated[AllowedTools, Tag("allowed_tools")]
    | Annotated[OtherTool, Tag("other")],
    Discriminator(_choice_kind),
]


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
    input: str | Annotated[list[Item], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    tools: list[ResponseTool] | None = Field(default=None, max_length=128)
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = True
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = "disabled"
    previous_response_id: str | None = None
    conversation: str | JsonObject | None = None
    prompt: JsonObject | None = None
    moderation: None = None


class ResponseRequest(ResponseInput):
    """An answer is stored unless `store` is false."""

    stream: bool | None = False
    stream_options: ResponseStreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    max_output_tokens: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = Field(default=None, ge=0, le=MAX_INTEGER)  # of tools that do not run here
    background: bool | None = False
    store: bool | None = None
    metadata: Annotated[dict[str, str], at_most(MAX_METADATA, "pairs")] | None = None
    prompt_cache_key: str | None = None
