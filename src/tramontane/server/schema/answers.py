"""What answers look like, for the OpenAPI schema; the answers themselves are built as plain dictionaries."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class TokenLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] | None = None
    token_id: int


class ContentLogprob(TokenLogprob):
    top_logprobs: list[TokenLogprob] = []


class Logprobs(BaseModel):
    content: list[ContentLogprob] | None
    refusal: None = None


class CalledFunction(BaseModel):
    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str | list[dict[str, Any]] | None
    tool_calls: list[ToolCall] | None = None
    prefix: bool = False
    reasoning_content: str | None = None
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length", "model_length", "error", "tool_calls"]
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None


class ChatCompletion(BaseModel):
    """With `stream`, the same in chunks: `choices[].delta` instead of `message`, as server-sent events."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    guardrails: list[dict[str, Any]] | None = None


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: TextLogprobs | None = None


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Embedding(BaseModel):
    object: Literal["embedding"]
    embedding: list[float] | str
    index: int


class Embeddings(BaseModel):
    id: str
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class ModerationResult(BaseModel):
    categories: dict[str, bool]
    category_scores: dict[str, float]
    flagged: bool
    category_applied_input_types: dict[str, list[str]]


class Moderations(BaseModel):
    id: str
    model: str
    results: list[ModerationResult]
    usage: Usage


class TargetScores(BaseModel):
    scores: dict[str, float]


class Classifications(BaseModel):
    id: str
    model: str
    results: list[dict[str, TargetScores]]
    usage: Usage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    name: str | None = None
    description: str | None = None
    max_context_length: int
    alias_of: str | None
    num_parameters: int
    aliases: list[str]
    deprecation: str | None = None
    default_model_temperature: float | None = None
    default_sampling: dict[str, float]
    capabilities: dict[str, bool]
    type: Literal["base", "fine-tuned"]
    job: str | None = None
    root: str | None = None
    archived: bool = False


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class ErrorFields(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(ErrorFields):
    """The body of every failure; `detail` comes with 422 alone."""

    object: Literal["error"]
    raw_status_code: int
    error: ErrorFields
    detail: list[dict[str, Any]] | None = None
