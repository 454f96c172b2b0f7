"""The messages of a request as the tokenizer takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tramontane.server.chat.turn_order import in_order, is_empty
from tramontane.server.endpoint import Call
from tramontane.server.errors import ApiError
from tramontane.server.models import ServedModel
from tramontane.server.schema.chat import AssistantMessage, ChatRequest, Chunk, Message, TextChunk, ThinkChunk

SAFE_PROMPT = (
    "Always assist with care, respect, and truth. Respond with utmost utility yet securely. Avoid harmful, unethical, "
    "prejudiced, or negative content. Ensure replies promote fairness and positivity."
)
"""The system text that Mistral's API documents for `safe_prompt`."""

REASONING_PROMPT: list[dict[str, Any]] = [
    {
        "type": "text",
        "text": "First draft your thinking process (inner monologue) until you arrive at a response. Format your "
        "response using Markdown, and use LaTeX for any mathematical equations. Write both your thoughts and the "
        "response in the same language as the input.\n\nYour thinking process must follow the template below:",
    },
    {
        "type": "thinking",
        "thinking": "Your thoughts or/and draft, like working through an exercise on scratch paper. Be as casual and "
        "as long as you want until you are confident to generate the response. Use the same language as the input.",
        "closed": True,
    },
    {"type": "text", "text": "Here, provide a self-contained response."},
]
"""The system message that Mistral's reasoning models were trained with."""

REASONING_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def conversation(call: Call, request: ChatRequest, model: ServedModel) -> list[dict[str, Any]]:
    """In an order that the model's format takes, unless the call is strict. Raises ApiError 400 for content the model
    cannot read and, where the server is strict, for reasoning that it was not trained for; elsewhere that is a hint
    without effect."""
    messages = chat_messages(request.messages)
    ours: list[dict[str, Any]] = []
    if request.prompt_mode == "reasoning" or request.reasoning_effort in REASONING_EFFORTS:
        asked = {name for name in ("prompt_mode", "reasoning_effort") if getattr(request, name)}
        if model.capabilities.reasoning:
            ours.insert(0, {"role": "system", "content": REASONING_PROMPT})
        elif call.services.settings.strict:
            name = min(asked)
            raise ApiError(400, f"the model {model.name} does not reason; leave {name} out", param=name)
        else:
            call.notes.ignored |= asked
    if request.safe_prompt:
        ours.insert(0, {"role": "system", "content": SAFE_PROMPT})
    if not call.is_strict:
        return in_order([*ours, *messages], model.llm.tokenizer.chat, call.notes, num_ours=len(ours))
    empty = {place for place, message in enumerate(messages) if is_empty(message)}  # such as we answer ourselves
    call.notes.ignored |= {f"messages.{place}" for place in empty}
    return [*ours, *(message for place, message in enumerate(messages) if place not in empty)]


def prefix_of(messages: Sequence[dict[str, Any]]) -> str:
    """Text of the answer that the request has begun; empty where it has not."""
    last = messages[-1] if messages else {"role": None}
    if last["role"] != "assistant" or not last.get("prefix"):
        return ""
    content = last["content"] or ""
    text = content if isinstance(content, str) else "".join(c["text"] for c in content if c["type"] == "text")
    return str(text).rstrip(" ")  # as the prompt has it


def chat_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """As they are. Raises ApiError 400 for content that no model here can read."""
    return [_message(message, place) for place, message in enumerate(messages)]


def _message(message: Message, place: int) -> dict[str, Any]:
    role = "system" if message.role == "developer" else message.role
    content = _content(message.content, place)
    if not isinstance(message, AssistantMessage):
        read: dict[str, Any] = {"role": role, "content": "" if content is None else content}
        if message.role == "tool":
            read |= {"tool_call_id": message.tool_call_id, "name": message.name}
        return read
    if message.reasoning_content:
        text = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        content = [{"type": "thinking", "thinking": message.reasoning_content, "closed": True}, *text]
    calls = [call.model_dump(exclude_none=True) for call in message.tool_calls or ()]
    return {"role": role, "content": content, "tool_calls": calls, "prefix": message.prefix}


def _content(content: str | list[Chunk] | None, place: int) -> str | list[dict[str, Any]] | None:
    if content is None or isinstance(content, str):
        return content
    chunks = []
    for chunk in content:
        if not isinstance(chunk, TextChunk | ThinkChunk):
            name = f"messages.{place}.content"
            raise ApiError(400, f"{name}: content of type {chunk.type} cannot be read by the models here", param=name)
        chunks.append(chunk.model_dump(exclude={"signature"} if isinstance(chunk, ThinkChunk) else None))
    return chunks
