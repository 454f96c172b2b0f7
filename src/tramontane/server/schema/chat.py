"""The body of /v1/chat/completions: Mistral's fields, and OpenAI's where they mean the same or are honoured too."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from tramontane.server.schema.base import ApiModel, at_most
from tramontane.server.schema.sampling import MAX_INTEGER, SamplingFields

JsonObject = dict[str, Any]
MAX_MESSAGES = 10_000
MAX_CHUNKS = 1_000
MAX_CALLS = 1_000
"""Of one message."""


class TextChunk(ApiModel):
    type: Literal["text"] = "text"
    text: str


class ThinkChunk(ApiModel):
    type: Literal["thinking"]
    thinking: str | Annotated[list[TextChunk], Field(max_length=MAX_CHUNKS)]
    closed: bool = True
    signature: str | None = None


class DocumentChunk(ApiModel):
    """Mistral's chunk: a document behind a URL."""

    type: Literal["document_url"]
    document_url: str
    document_name: str | None = None
    file_id: ClassVar[None] = None

    @property
    def data_url(self) -> str:
        return self.document_url

    @property
    def name(self) -> str | None:
        return self.document_name


class FileContent(ApiModel):
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class FileChunk(ApiModel):
    """An uploaded file: Mistral's has the id at its side, OpenAI's inside, where the content may stand instead."""

    type: Literal["file"]
    file_id: str | None = None
    file: FileContent | None = None

    @model_validator(mode="after")
    def _names_one(self) -> FileChunk:
        inside = self.file or FileContent()
        if [self.file_id, inside.file_id, inside.file_data].count(None) != 2:
            raise ValueError("give one of file_id, file.file_id and file.file_data")
        if self.file_id is None:
            self.file_id = inside.file_id
        return self

    @property
    def data_url(self) -> str:
        return "" if self.file is None else self.file.file_data or ""

    @property
    def name(self) -> str | None:
        return None if self.file is None else self.file.filename


class OtherChunk(ApiModel):
    """Content that no model here can read; refused by name, so that the message can say so."""

    model_config = ConfigDict(extra="allow")
    type: Literal["image_url", "reference", "tool_reference", "input_audio", "refusal"]


def _chunk_kind(chunk: Any) -> Any:
    kind = chunk.get("type", "text") if isinstance(chunk, dict) else getattr(chunk, "type", "text")
    return "other" if kind in get_args(OtherChunk.model_fields["type"].annotation) else kind


Chunk = Annotated[
    Annotated[TextChunk, Tag("text")]
    | Annotated[ThinkChunk, Tag("thinking")]
    | Annotated[DocumentChunk, Tag("document_url")]
    | Annotated[FileChunk, Tag("file")]
    | Annotated[OtherChunk, Tag("other")],
    Discriminator(
        _chunk_kind,
        custom_error_type="chunk_type",
        custom_error_message="Input should be of type text, thinking, document_url or file",
    ),
]
Content = str | Annotated[list[Chunk], Field(max_length=MAX_CHUNKS)]


class FunctionCall(ApiModel):
    name: str
    arguments: str | JsonObject = "{}"


class ToolCallMessage(ApiModel):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = Field(default=None, ge=0, le=MAX_INTEGER)


class SystemMessage(ApiModel):
    role: Literal["system", "developer"]
    content: Content


class UserMessage(ApiModel):
    role: Literal["user"]
    content: Content | None


class AssistantMessage(ApiModel):
    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: Annotated[list[ToolCallMessage], Field(max_length=MAX_CALLS)] | None = None
    prefix: bool = False
    reasoning_content: str | None = None
    # OpenAI's answers have these and come back with them; what such a field says, no model here would see
    refusal: None = None
    audio: None = None
    function_call: None = None


class ToolMessage(ApiModel):
    role: Literal["tool"]
    content: Content | None
    tool_call_id: str | None = None
    name: str | None = None


def _role(message: Any) -> str | None:
    role = message.get("role") if isinstance(message, dict) else getattr(message, "role", None)
    return "system" if role == "developer" else role


Message = Annotated[
    Annotated[SystemMessage, Tag("system")]
    | Annotated[UserMessage, Tag("user")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[ToolMessage, Tag("tool")],
    Discriminator(_role),
]


class Function(ApiModel):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = ""
    parameters: JsonObject | None = None
    strict: bool | None = False


class Tool(ApiModel):
    type: Literal["function"] = "function"
    function: Function


class OtherTool(ApiModel):
    """A tool that does not run here: of another server's own machines, or called in another way than functions are."""

    model_config = ConfigDict(extra="allow")
    type: str


def tool_kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "function" if kind in ("function", None) else "other"


class FunctionName(ApiModel):
    name: str


class NamedTool(ApiModel):
    type: Literal["function"] = "function"
    function: FunctionName


class AllowedTools(ApiModel):
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=128)


class AllowedToolsChoice(ApiModel):
    """OpenAI's: some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _choice_kind(choice: Any) -> Any:
    return choice.get("type", "function") if isinstance(choice, dict) else getattr(choice, "type", "mode")


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "any", "required"], Tag("mode")]
    | Annotated[NamedTool, Tag("function")]
    | Annotated[AllowedToolsChoice, Tag("allowed_tools")],
    Discriminator(
        _choice_kind,
        custom_error_type="tool_choice",
        custom_error_message="Input should be auto, none, any, required, or of type function or allowed_tools",
    ),
]


class JsonSchema(ApiModel):
    name: str
    schema_: JsonObject = Field(alias="schema")
    description: str | None = None
    strict: bool | None = False


class ResponseFormat(ApiModel):
    """`regex` and `grammar` (Lark or GBNF) are extensions: the answer is text that matches."""

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"] = "text"
    json_schema: JsonSchema | None = None
    regex: str | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> ResponseFormat:
        for name in ("json_schema", "regex", "grammar"):
            if (self.type == name) != (getattr(self, name) is not None):
                raise ValueError(f"type {name!r} and the field {name!r} go together")
        return self


class Prediction(ApiModel):
    """Text that the answer may repeat: a hint for speed, which never changes what is answered."""

    type: Literal["content"] = "content"
    content: str | Annotated[list[TextChunk], Field(max_length=MAX_CHUNKS)] = ""


class StreamOptions(ApiModel):
    include_usage: bool = False


class ModerationGuardrail(ApiModel):
    model_name: str | None = None
    custom_category_thresholds: (
        Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], at_most(64, "categories")] | None
    ) = None
    ignore_other_categories: bool = False
    action: Literal["none", "block"] | None = None


class Guardrail(ApiModel):
    block_on_error: bool = False
    moderation_llm_v1: ModerationGuardrail | None = None
    moderation_llm_v2: ModerationGuardrail | None = None


class ChatRequest(SamplingFields):
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: (
        list[Annotated[Annotated[Tool, Tag("function")] | Annotated[OtherTool, Tag("other")], Discriminator(tool_kind)]]
        | None
    ) = Field(default=None, max_length=128)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = True
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    prompt_logprobs: bool | None = None
    top_prompt_logprobs: int | None = Field(default=None, ge=0, le=20)
    prediction: Prediction | None = None
    prompt_mode: Literal["reasoning"] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    safe_prompt: bool = False
    guardrails: Annotated[list[Guardrail], Field(max_length=8)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=8)] | None = None

    @property
    def functions(self) -> dict[int, Tool]:
        """The tools that can be called, by their place among all."""
        return {place: tool for place, tool in enumerate(self.tools or ()) if isinstance(tool, Tool)}

    @property
    def has_prefix(self) -> bool:
        """Whether the last message asks for an answer that begins with it, as Mistral's `prefix` does. An answer that
        only continues the last message repeats nothing of it."""
        last = self.messages[-1]
        return isinstance(last, AssistantMessage) and last.prefix

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if self.top_prompt_logprobs and not self.prompt_logprobs:
            raise ValueError("top_prompt_logprobs needs prompt_logprobs to be true")
        if self.prediction is not None and (self.n or 1) > 1:
            raise ValueError("prediction is not possible with n above 1")
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise ValueError("tool_choice needs tools")
        return self
