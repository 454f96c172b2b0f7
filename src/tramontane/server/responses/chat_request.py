"""A response request as the chat request it amounts to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tramontane.server.errors import ApiError
from tramontane.server.notes import Notes
from tramontane.server.schema.base import validate
from tramontane.server.schema.chat import ChatRequest, OtherTool
from tramontane.server.schema.response_request import (
    AllowedTools,
    FilePart,
    FunctionCallItem,
    FunctionOutputItem,
    FunctionTool,
    Item,
    ItemReference,
    MessageItem,
    NamedFunction,
    OtherItem,
    Part,
    ReasoningItem,
    ResponseInput,
    ResponseRequest,
    TextFormat,
    TextPart,
)


def chat_request(request: ResponseInput, items: Sequence[Item], notes: Notes | None) -> ChatRequest:
    """`items` are the whole conversation. What comes of tools that do not run here is left out and named in `notes`.
    Raises ApiError for content that no model here can read, for that without `notes`, and as `validate` does."""
    messages = _messages(items, notes)
    if not messages:
        raise ApiError(400, "input: none of its items can be read here; add a message", param="input")
    tools, choice = _tools(request)
    if request.instructions:
        messages.insert(0, {"role": "system", "content": request.instructions})
    body: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "tools": tools or None,
        "tool_choice": choice if tools else None,
        "parallel_tool_calls": request.parallel_tool_calls,
        "response_format": None
        if request.text is None or request.text.format is None
        else _format(request.text.format),
        "reasoning_effort": None if request.reasoning is None else request.reasoning.effort,
    }
    if isinstance(request, ResponseRequest):
        body |= {
            "stream": request.stream,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_output_tokens,
            "logprobs": bool(request.top_logprobs),
            "top_logprobs": request.top_logprobs or None,
        }
    return validate(ChatRequest, body)


def require_possible(request: ResponseInput) -> None:
    """Raises ApiError for what this server does not keep or do."""
    remedies = {
        "background": "responses are not made in the background here; stream them instead",
        "conversation": "conversations are not kept here; send previous_response_id, or the whole input",
        "prompt": "prompts are not kept here; send instructions and input",
    }
    for name, remedy in remedies.items():
        if getattr(request, name, None):
            raise ApiError(400, f"{name}: {remedy}", param=name)


def _left_out(name: str, notes: Notes | None) -> None:
    if notes is None:
        raise ApiError(400, f"{name} does not run here; leave it out", param=name.partition("[")[0])
    notes.ignored.add(name)


def _tools(request: ResponseInput) -> tuple[list[dict[str, Any]], str | dict[str, Any] | None]:
    """The tools, those that do not run here among them, and which is to be called."""
    tools = [_tool(tool) if isinstance(tool, FunctionTool) else tool.model_dump() for tool in request.tools or ()]
    choice = request.tool_choice
    match choice:
        case NamedFunction():
            return tools, {"type": "function", "function": {"name": choice.name}}
        case AllowedTools():
            allowed = [
                {"type": "function", "function": {"name": tool.get("name")}}
                for tool in choice.tools
                if tool.get("type") == "function"
            ]
            if not allowed:
                raise ApiError(400, "tool_choice allows none of the tools that run here", param="tool_choice")
            return tools, {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": allowed}}
        case OtherTool():
            raise ApiError(400, f"tool_choice: tools of type {choice.type} do not run here", param="tool_choice")
    return tools, choice


_AS_SENT = (
    (re.compile(r"^max_tokens$"), "max_output_tokens"),
    (re.compile(r"^reasoning_effort$"), "reasoning.effort"),
    (re.compile(r"^(tools\[\d+\])\.function\b"), r"\1"),
    (re.compile(r"^response_format\.json_schema\.schema\b"), "text.format.schema"),
    (re.compile(r"^messages\.\d+.*"), "input"),
)


def as_sent(name: str) -> str:
    """What a field of the chat request is called in the response request."""
    for pattern, words in _AS_SENT:
        name = pattern.sub(words, name)
    return name


def _messages(items: Sequence[Item], notes: Notes | None) -> list[dict[str, Any]]:
    """Reasoning and calls become parts of the assistant's message they belong to."""
    messages: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        match item:
            case FunctionOutputItem():
                content = _text(item.output, place)
                messages.append({"role": "tool", "tool_call_id": item.call_id, "content": content})
            case FunctionCallItem():
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                _assistant(messages).setdefault("tool_calls", []).append(call)
            case ReasoningItem():
                if item.content:
                    _assistant(messages)["reasoning_content"] = "".join(part.text for part in item.content)
            case ItemReference() | OtherItem():
                _left_out(f"input[{place}].{item.type}", notes)
            case MessageItem():
                if item.role == "assistant":
                    message = _assistant(messages)
                    message["content"] = (message.get("content") or "") + _text(item.content, place)
                else:
                    messages.append({"role": item.role, "content": _content(item.content, place)})
    return messages


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The assistant's message at the end, begun if there is none."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    return messages[-1]


def _content(content: str | Sequence[Part], place: int) -> str | list[dict[str, Any]]:
    """Text, or chunks where there are files among it."""
    if isinstance(content, str) or not any(isinstance(part, FilePart) for part in content):
        return _text(content, place)
    return [_file(part) if isinstance(part, FilePart) else {"text": _text([part], place)} for part in content]


def _file(part: FilePart) -> dict[str, Any]:
    if part.file_url is not None and part.file_id is None and part.file_data is None:
        return {"type": "document_url", "document_url": part.file_url, "document_name": part.filename}
    return {"type": "file", "file": part.model_dump(include={"file_id", "file_data", "filename"})}


def _text(content: str | Sequence[Part], place: int) -> str:
    if isinstance(content, str):
        return content
    for part in content:
        if not isinstance(part, TextPart):
            raise ApiError(
                400, f"input.{place}: content of type {part.type} cannot be read by the models here", param="input"
            )
    return "".join(part.text for part in content if isinstance(part, TextPart))


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _format(wanted: TextFormat) -> dict[str, Any]:
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    if wanted.schema_ is None:
        raise ApiError(400, "text.format.schema is missing", param="text")
    schema = {"name": wanted.name or "answer", "schema": wanted.schema_, "strict": bool(wanted.strict)}
    return {"type": "json_schema", "json_schema": schema}
