"""Messages of a conversation: the mappings that callers pass, checked and put in one shape.

A message is a mapping in the form of Mistral's and OpenAI's chat APIs: `role` and `content` (text, or a list of
`{"type": "text", "text": ...}` and `{"type": "thinking", "thinking": ..., "closed": ...}` chunks), `tool_calls`,
`reasoning_content` and `prefix` of assistants, `tool_call_id` and `name` of tools. Role `developer` is OpenAI's word
for `system`. Prompts and samples to learn from are read here alike; what a key that is not known means is the
caller's to say (`Unknown`), and an error where nothing is said.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tramontane.errors import TokenizerError

Role = Literal["system", "user", "assistant", "tool"]

_KEYS: Mapping[str, frozenset[str]] = {
    "system": frozenset(("role", "content")),
    "user": frozenset(("role", "content")),
    "assistant": frozenset(("role", "content", "reasoning_content", "tool_calls", "prefix")),
    "tool": frozenset(("role", "content", "tool_call_id", "name")),
}
_SAME_ROLE = {"developer": "system"}
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TOOL_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

Unknown = Callable[[str, str, frozenset[str]], None]
"""Told of each key that is not known: where it stands, its name, and the keys that are known there."""


def refuse_unknown(source: str, key: str, known: frozenset[str]) -> None:
    """Raises TokenizerError naming the key."""
    raise TokenizerError(f"{source} has the key {key!r}, which is not honoured; known are {', '.join(sorted(known))}")


@dataclass(frozen=True, slots=True)
class Thinking:
    """A stretch of reasoning inside a message; `closed` when the model has ended it."""

    text: str
    closed: bool = True


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant makes. `arguments_json` is JSON text, an object when the model behaves and nothing cut it
    (`is_whole`)."""

    id: str
    name: str
    arguments_json: str
    is_whole: bool = True

    def as_dict(self) -> dict[str, Any]:
        """The call as an entry of `tool_calls` in a message."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments_json},
        }


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The tool as it enters a prompt, keys in this order."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """What a model answered. `thinking` is None when there was none, not `thinking_closed` when it was cut."""

    content: str
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    thinking_closed: bool = True

    def as_message(self) -> dict[str, Any]:
        """The answer as a message that can be put back into the conversation."""
        content: str | list[dict[str, Any]] = self.content
        if self.thinking is not None:
            content = [{"type": "thinking", "thinking": self.thinking}, {"type": "text", "text": self.content}]
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if self.tool_calls:
            message["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        return message


@dataclass(frozen=True, slots=True)
class Message:
    """One message in the shape the chat formats work on; neighbouring texts of `chunks` are not merged yet."""

    role: Role
    chunks: tuple[str | Thinking, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    prefix: bool = False

    @property
    def has_content(self) -> bool:
        return any(not isinstance(chunk, str) or chunk for chunk in self.chunks)

    def as_dict(self) -> dict[str, Any]:
        """The message as `read_messages` takes it."""
        chunks = [
            {"type": "text", "text": chunk}
            if isinstance(chunk, str)
            else {"type": "thinking", "thinking": chunk.text, "closed": chunk.closed}
            for chunk in self.chunks
        ]
        is_text = len(self.chunks) <= 1 and all(isinstance(chunk, str) for chunk in self.chunks)
        message: dict[str, Any] = {"role": self.role, "content": "".join(map(str, self.chunks)) if is_text else chunks}
        if self.tool_calls:
            message["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        given = {"tool_call_id": self.tool_call_id, "name": self.name, "prefix": self.prefix or None}
        return message | {key: item for key, item in given.items() if item is not None}


Messages = Sequence[Mapping[str, Any] | Message]
Tools = Sequence[Mapping[str, Any] | Tool]


def read_messages(messages: Messages, *, unknown: Unknown = refuse_unknown) -> list[Message]:
    """Messages that were read before stay as they are. Raises TokenizerError naming the message and the key that cannot
    be understood."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise TokenizerError("messages must be a list of messages")
    return [
        message if isinstance(message, Message) else _read_message(message, f"messages[{place}]", unknown)
        for place, message in enumerate(messages)
    ]


def read_tools(tools: Tools | None, *, unknown: Unknown = refuse_unknown) -> list[Tool]:
    """Tool definitions. `strict` concerns the decoding of arguments and is no part of a prompt. Raises TokenizerError
    naming the tool."""
    if tools is not None and (isinstance(tools, str | Mapping) or not isinstance(tools, Sequence)):
        raise TokenizerError("tools must be a list of tools")
    return [
        tool if isinstance(tool, Tool) else _read_tool(tool, f"tools[{place}]", unknown)
        for place, tool in enumerate(tools or ())
    ]


def to_json(value: Any) -> str:
    """JSON text as Mistral's formats spell it. Raises TokenizerError for what JSON cannot hold."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise TokenizerError(f"a value cannot be written as JSON: {error}") from None
    except RecursionError:
        raise TokenizerError("a value is nested too deeply to be written as JSON") from None


def from_json(text: str) -> Any:
    """The value of JSON text, or the text itself when it is not JSON (Mistral's rule for arguments and results)."""
    try:
        return json.loads(text)
    except RecursionError:
        raise TokenizerError("JSON is nested too deeply") from None
    except ValueError:
        return text


def normal_json(text: str) -> str:
    """JSON text in Mistral's spacing; text that is not JSON stays, empty text becomes `{}`."""
    if not text:
        return "{}"
    value = from_json(text)
    return text if value is text else to_json(value)


def mistral_tool_call_id(call_id: str) -> str:
    """`call_id` where it is the nine letters and digits Mistral's formats ask for, else nine derived from it."""
    if _TOOL_CALL_ID.fullmatch(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", errors="surrogatepass")).digest())
    characters = []
    for _ in range(9):
        number, digit = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[digit])
    return "".join(characters)


@dataclass(slots=True)
class ToolCallIds:
    """Foreign tool-call ids (`call_…`) to Mistral's nine characters and back, for one conversation."""

    _foreign: dict[str, str] = field(default_factory=dict)

    def to_mistral(self, call_id: str) -> str:
        short = mistral_tool_call_id(call_id)
        self._foreign[short] = call_id
        return short

    def to_foreign(self, call_id: str) -> str:
        """The id that `to_mistral` was given; an id never seen is returned as it is."""
        return self._foreign.get(call_id, call_id)


def _read_tool(tool: Any, source: str, unknown: Unknown) -> Tool:
    _check_keys(tool, frozenset(("type", "function")), source, unknown)
    if (tool.get("type") or "function") != "function":
        raise TokenizerError(f"{source}.type={tool['type']!r} is not supported; use 'function'")
    function: Any = tool.get("function")
    _check_keys(function, frozenset(("name", "description", "parameters", "strict")), f"{source}.function", unknown)
    parameters = function.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise TokenizerError(f"{source}.function.parameters must be a JSON schema")
    return Tool(
        name=_function_name(function.get("name"), source),
        description=_text(function.get("description") or "", f"{source}.function.description"),
        parameters=dict(parameters or {}),
    )


def _read_message(message: Any, source: str, unknown: Unknown) -> Message:
    if not isinstance(message, Mapping):
        raise TokenizerError(f"{source} must be a mapping with role and content")
    role = message.get("role")
    if isinstance(role, str):
        role = _SAME_ROLE.get(role, role)
    if not isinstance(role, str) or role not in _KEYS:
        raise TokenizerError(f"{source}.role={role!r} is not known; use one of {', '.join(_KEYS)}")
    _check_keys(message, _KEYS[role], source, unknown)
    content = message.get("content")
    if content is None and role != "assistant":
        raise TokenizerError(f"{source}.content is missing")
    prefix = message.get("prefix") or False
    if not isinstance(prefix, bool):
        raise TokenizerError(f"{source}.prefix={prefix!r} must be true or false")
    calls = message.get("tool_calls") or ()
    if isinstance(calls, str | Mapping) or not isinstance(calls, Sequence):
        raise TokenizerError(f"{source}.tool_calls must be a list of calls")
    is_tool = role == "tool"
    call_id, name = message.get("tool_call_id") if is_tool else None, message.get("name") if is_tool else None
    chunks = _chunks(content, role, source, unknown)
    if role == "assistant" and message.get("reasoning_content"):
        chunks = (Thinking(_text(message["reasoning_content"], f"{source}.reasoning_content")), *chunks)
    return Message(
        role=role,  # type: ignore[arg-type]  # proved by _KEYS
        chunks=chunks,
        tool_calls=tuple(
            _tool_call(call, f"{source}.tool_calls[{place}]", unknown)
            for place, call in enumerate(calls if role == "assistant" else ())
        ),
        tool_call_id=None if call_id is None else _text(call_id, f"{source}.tool_call_id"),
        name=None if name is None else _function_name(name, source),
        prefix=prefix and role == "assistant",
    )


def _chunks(content: Any, role: str, source: str, unknown: Unknown) -> tuple[str | Thinking, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,)
    if isinstance(content, Mapping) or not isinstance(content, Sequence):
        raise TokenizerError(f"{source}.content must be text or a list of chunks")
    chunks: list[str | Thinking] = []
    for place, chunk in enumerate(content):
        where = f"{source}.content[{place}]"
        kind = chunk.get("type") if isinstance(chunk, Mapping) else None
        if kind == "text":
            _check_keys(chunk, frozenset(("type", "text")), where, unknown)
            chunks.append(_text(chunk.get("text"), f"{where}.text"))
        elif kind == "thinking" and role in ("assistant", "system"):
            _check_keys(chunk, frozenset(("type", "thinking", "closed")), where, unknown)
            closed = chunk.get("closed")
            text = _thinking_text(chunk.get("thinking"), where, unknown)
            chunks.append(Thinking(text, closed is None or bool(closed)))
        else:
            raise TokenizerError(f"{where} of type {kind!r} is not supported in a message of role {role}")
    return tuple(chunks)


def _thinking_text(value: Any, source: str, unknown: Unknown) -> str:
    """Mistral's API gives thinking as a list of text chunks, mistral-common as text."""
    if isinstance(value, list):
        parts = []
        for part in value:
            _check_keys(part, frozenset(("type", "text")), f"{source}.thinking", unknown)
            parts.append(_text(part.get("text"), f"{source}.thinking"))
        return "".join(parts)
    return _text(value, f"{source}.thinking")


def _tool_call(call: Any, source: str, unknown: Unknown) -> ToolCall:
    _check_keys(call, frozenset(("id", "type", "function", "index")), source, unknown)
    if (call.get("type") or "function") != "function":
        raise TokenizerError(f"{source}.type={call['type']!r} is not supported; use 'function'")
    function = call.get("function")
    _check_keys(function, frozenset(("name", "arguments")), f"{source}.function", unknown)
    arguments = function.get("arguments")
    if arguments is None:
        arguments = "{}"
    elif isinstance(arguments, Mapping):
        arguments = to_json(dict(arguments))
    call_id = call.get("id")
    return ToolCall(
        id="" if call_id is None or call_id == "null" else _text(call_id, f"{source}.id"),
        name=_function_name(function.get("name"), source),
        arguments_json=_text(arguments, f"{source}.function.arguments"),
    )


def _function_name(name: Any, source: str) -> str:
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise TokenizerError(f"{source}: function name {name!r} must be 1 to 64 of a-z, A-Z, 0-9, _ and -")
    return name


def _text(value: Any, source: str) -> str:
    if not isinstance(value, str):
        raise TokenizerError(f"{source} must be text, not {type(value).__name__}")
    return value


def _check_keys(value: Any, known: frozenset[str], source: str, unknown: Unknown) -> None:
    if not isinstance(value, Mapping):
        raise TokenizerError(f"{source} must be a mapping")
    for key in value:
        if key not in known:
            unknown(source, key, known)
