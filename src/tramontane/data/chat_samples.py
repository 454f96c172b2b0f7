"""Training samples of conversations, in the JSON of Mistral's fine-tuning API.

    {"messages": [{"role": "system" | "user" | "assistant" | "tool", "content": ..., ...}], "tools": [...]}

Messages are those of serving, read by the same reader under mistral-common's rules of mode `finetuning`; a sample adds
what of them is learned: every assistant message but those with `"weight": 0`. Keys that mean nothing to training are
passed over and counted. Here is what does not depend on a chat format; what a format cannot write, its encoder tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from tramontane.data.sample_notes import SampleNotes
from tramontane.errors import DataError, TokenizerError
from tramontane.tokenizer.chat import Features
from tramontane.tokenizer.conversation import check_conversation
from tramontane.tokenizer.messages import (
    Message,
    Tool,
    ToolCall,
    from_json,
    mistral_tool_call_id,
    normal_json,
    read_messages,
    read_tools,
    to_json,
)

_ANY_FORMAT = Features(mixes_content_and_calls=True, thinks=True)
_REASONING = ("reasoning", "thinking")  # other programs' names of reasoning_content
_MEDIA = ("audio", "image", "images", "video", "videos")


@dataclass(frozen=True, slots=True)
class ChatSample:
    """A checked conversation; `is_learned[k]` is for the k-th assistant message."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    is_learned: tuple[bool, ...]

    def as_row(self) -> dict[str, Any]:
        """The sample as `parse_chat` takes it."""
        flags = iter(self.is_learned)
        messages = [
            message.as_dict() | ({"weight": 0} if message.role == "assistant" and not next(flags) else {})
            for message in self.messages
        ]
        return {"messages": messages} | ({"tools": [tool.as_dict() for tool in self.tools]} if self.tools else {})


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one conversation, the first preferred."""

    chosen: ChatSample
    rejected: ChatSample


@dataclass(frozen=True, slots=True)
class ClassifierSample:
    """A text or conversation with its labels: target name -> the labels that hold."""

    text: str | None
    messages: tuple[Message, ...]
    labels: Mapping[str, tuple[str, ...]]


def parse_chat(value: Mapping[str, Any], notes: SampleNotes | None = None, *, thinks: bool = True) -> ChatSample:
    """`thinks`: whether the model can write `reasoning_content`, which else is left out. Raises DataError saying which
    message is wrong and how to mend it."""
    notes = SampleNotes() if notes is None else notes
    _pass_over(value, {"messages", "tools", "functions"}, notes)
    tools = _tools(value, notes)
    messages, weights = _messages(value.get("messages"), notes, thinks=thinks)
    try:
        check_conversation(list(messages), _ANY_FORMAT, name="any", sample=True)
    except TokenizerError as error:
        raise DataError(str(error)) from None
    if not any(weights):
        raise DataError("every assistant message has weight 0, so there is nothing to learn; give one weight 1")
    _check_neighbours(messages, weights)
    reasons = [
        reason
        for role, group in groupby(messages, key=lambda message: message.role)
        if role == "assistant"
        for reason in _why_not_learned(list(group), tools)
    ]
    is_learned = tuple(bool(w) and reason is None for w, reason in zip(weights, reasons, strict=True))
    unlearned = [reason for w, reason in zip(weights, reasons, strict=True) if w and reason is not None]
    if not any(is_learned):
        raise DataError(f"nothing is left to learn: {unlearned[0]}")
    for reason in unlearned:
        notes.tell(f"seen but not learned: {reason}")
    return ChatSample(messages, tools, is_learned)


def parse_preference(
    value: Mapping[str, Any], notes: SampleNotes | None = None, *, thinks: bool = True
) -> PreferencePair:
    """`{"messages": [..., user], "chosen": answer, "rejected": answer, "tools"?}`; an answer is text, an assistant
    message, or several messages that end with one. Only the answers are learned from. Raises DataError."""
    notes = SampleNotes() if notes is None else notes
    _pass_over(value, {"messages", "tools", "functions", "chosen", "rejected"}, notes)
    context = value.get("messages")
    if not isinstance(context, list) or not context:
        raise DataError("messages must be a list with at least one message")
    if _is_assistant(context[-1]):
        raise DataError("messages ends with the assistant's; a pair needs a question that both answers follow")
    shared = {key: value[key] for key in ("tools", "functions") if key in value}
    answers = []
    for key in ("chosen", "rejected"):
        messages = _answer(value.get(key), key)
        silent = [{**each, "weight": 0} if _is_assistant(each) else each for each in context]
        # what there is to note of the conversation, both answers share
        seen = notes if key == "chosen" else SampleNotes()
        try:
            sample = parse_chat({"messages": [*silent, *messages], **shared}, seen, thinks=thinks)
        except DataError as error:
            raise DataError(f"{key}: {error}") from None
        answers.append(sample)
    if answers[0].messages == answers[1].messages:
        raise DataError("chosen and rejected are the same answer; a pair must differ")
    return PreferencePair(*answers)


def parse_classifier(value: Mapping[str, Any], notes: SampleNotes | None = None) -> ClassifierSample:
    """`{"text" | "messages": ..., "labels": {target: label | [labels]}}`. Raises DataError."""
    notes = SampleNotes() if notes is None else notes
    _pass_over(value, {"text", "messages", "labels"}, notes)
    if ("text" in value) == ("messages" in value):
        raise DataError("give either text or messages")
    labels = value.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise DataError('labels must be an object such as {"sentiment": "joy"}')
    read = {}
    for target, label in labels.items():
        several = label if isinstance(label, list) else [label]
        if not all(isinstance(each, str) and each for each in several):
            raise DataError(f"labels[{target!r}]={label!r} must be a text or a list of texts")
        if len(set(several)) != len(several):
            raise DataError(f"labels[{target!r}] names a label twice")
        read[target] = tuple(several)
    if "text" in value:
        return ClassifierSample(parse_text({"text": value["text"]}, notes), (), read)
    messages, _ = _messages(value["messages"], notes, thinks=True)
    return ClassifierSample(None, messages, read)


def parse_text(value: Mapping[str, Any], notes: SampleNotes | None = None) -> str:
    """`{"text": ...}`, to be learned whole. Raises DataError."""
    _pass_over(value, {"text"}, SampleNotes() if notes is None else notes)
    text = value.get("text")
    if not isinstance(text, str):
        raise DataError(f"text must be text, not {type(text).__name__}")
    if not text.strip():
        raise DataError("text is empty; write something or remove the line")
    _check_unicode(text, "text")
    return text


def _pass_over(value: Mapping[str, Any], known: set[str], notes: SampleNotes) -> None:
    """Note the keys of a sample that mean nothing here. Raises DataError for content that cannot be learned from."""
    for key, item in value.items():
        if key not in known and item not in (None, [], {}, ""):
            if key in _MEDIA:
                raise DataError(f"{key}: only text can be learned from")
            notes.ignore(key)


def _is_assistant(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant"


def _answer(answer: object, key: str) -> list[Any]:
    """The messages of a preferred or rejected answer."""
    if isinstance(answer, str):
        return [{"role": "assistant", "content": answer}]
    messages = answer if isinstance(answer, list) else [answer]
    if not messages or not _is_assistant(messages[-1]):
        raise DataError(f"{key} must be the text of an answer or a message of role 'assistant'")
    return messages


def _tools(value: Mapping[str, Any], notes: SampleNotes) -> tuple[Tool, ...]:
    """`tools`, or OpenAI's older `functions`."""
    tools, functions = value.get("tools"), value.get("functions")
    if tools is None and isinstance(functions, list):
        tools = [{"type": "function", "function": function} for function in functions]
    try:
        return tuple(read_tools(tools, unknown=lambda source, key, known: notes.ignore(f"{key} in tools")))
    except TokenizerError as error:
        raise DataError(str(error)) from None


def _messages(value: object, notes: SampleNotes, *, thinks: bool) -> tuple[tuple[Message, ...], list[int]]:
    """Messages, and the weight of each of the assistant's."""
    if not isinstance(value, list) or not value:
        raise DataError("messages must be a list with at least one message")
    plain = [_plain(message, f"messages[{place}]", notes, thinks=thinks) for place, message in enumerate(value)]
    weights = [_weight(message, f"messages[{place}]") for place, message in enumerate(plain) if _is_assistant(message)]

    def unknown(source: str, key: str, known: frozenset[str]) -> None:
        if key != "weight":
            notes.ignore(f"{key} in messages")

    try:
        messages = read_messages(plain, unknown=unknown)
    except TokenizerError as error:
        raise DataError(str(error)) from None
    for place, message in enumerate(messages):
        _check_text(message, f"messages[{place}]")
    return _with_call_ids(messages), weights


def _plain(message: Any, source: str, notes: SampleNotes, *, thinks: bool) -> Any:
    """A message without keys that say nothing, its older or other spellings written as those of today."""
    if not isinstance(message, Mapping):
        return message
    plain = {key: item for key, item in message.items() if item is not None or key == "content"}
    for key in _MEDIA:
        if plain.get(key):
            raise DataError(f"{source}.{key}: only text can be learned from")
    if plain.get("role") == "function":
        plain["role"] = "tool"
    if plain.get("role") == "tool":
        content = plain.get("content")
        plain["content"] = content if isinstance(content, str) or _is_chunks(content) else _as_json(content, source)
    if plain.get("role") != "assistant":
        return plain
    for key in _REASONING:
        if isinstance(plain.get(key), str):
            plain.setdefault("reasoning_content", plain.pop(key))
    if "function_call" in plain:
        plain["tool_calls"] = [{"function": plain.pop("function_call")}]
    if isinstance(plain.get("refusal"), str) and not plain.get("content"):
        plain["content"] = plain.pop("refusal")
    if not thinks and plain.pop("reasoning_content", None):
        notes.tell("reasoning_content left out, which models of this chat format cannot write")
    return plain


def _is_chunks(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(chunk, dict) and "type" in chunk for chunk in content)


def _as_json(result: object, source: str) -> str:
    """The result of a tool that is a value, not text; nothing where there is none."""
    try:
        return "" if result is None else to_json(result)
    except TokenizerError as error:
        raise DataError(f"{source}.content: {error}") from None


def _weight(message: Mapping[str, Any], source: str) -> int:
    weight = message.get("weight", 1)
    if not isinstance(weight, int | float) or weight not in (0, 1):
        raise DataError(f"{source}: weight {weight!r} must be 0 (do not learn) or 1")
    return int(weight)


def _check_text(message: Message, source: str) -> None:
    for chunk in message.chunks:
        _check_unicode(chunk if isinstance(chunk, str) else chunk.text, f"{source}: content")
    for call in message.tool_calls:
        _check_unicode(call.arguments_json, f"{source}: arguments of a tool call")
    if message.role == "assistant" and not message.has_content and not message.tool_calls:
        raise DataError(f"{source}: content is empty; write an answer or remove the message")


def _check_unicode(text: str, source: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{source} holds half of a character (a lone surrogate); encode the text properly") from None


def _with_call_ids(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Calls and results without an id (Hugging Face's form has none) get one; ids are never learned."""
    completed: list[Message] = []
    open_calls: list[ToolCall] = []
    for place, message in enumerate(messages):
        if message.role == "tool":
            if not message.tool_call_id and open_calls:
                named = [call for call in open_calls if call.name == message.name]
                message = replace(message, tool_call_id=(named or open_calls)[0].id)
            open_calls = [call for call in open_calls if call.id != message.tool_call_id]
        elif message.tool_calls:
            results = messages[place + 1 : place + 1 + len(message.tool_calls)]
            given = [result.tool_call_id if result.role == "tool" else None for result in results]
            given += [None] * (len(message.tool_calls) - len(given))
            message = replace(
                message,
                tool_calls=tuple(
                    call if call.id else replace(call, id=given[k] or mistral_tool_call_id(f"{place}/{k}/{call.name}"))
                    for k, call in enumerate(message.tool_calls)
                ),
            )
            open_calls = list(message.tool_calls)
        completed.append(message)
    return tuple(completed)


def _check_neighbours(messages: Sequence[Message], weights: Sequence[int]) -> None:
    """Messages of the assistant in a row are one turn, which is learned or not."""
    before = None
    weight_of = iter(weights)
    for place, message in enumerate(messages):
        weight = next(weight_of) if message.role == "assistant" else None
        if weight is not None and before is not None and weight != before:
            raise DataError(f"messages[{place}]: follows an assistant message of another weight; give both the same")
        before = weight


def _why_not_learned(turn: Sequence[Message], tools: Sequence[Tool]) -> list[str | None]:
    """For each message of one turn what makes the turn one that a model must not learn: silence, tools it cannot see,
    arguments nobody can read. None where nothing does."""
    calls = [call for message in turn for call in message.tool_calls]
    chunks = [chunk for message in turn for chunk in message.chunks]
    reason = None
    if not calls and all(isinstance(chunk, str) and not chunk.strip() for chunk in chunks):
        reason = "answers of nothing but blank space"
    elif not {call.name for call in calls} <= {tool.name for tool in tools}:
        reason = "calls of functions that are not declared; add them to tools"
    elif not all(_has_object(call) for call in calls):
        reason = "calls whose arguments are no JSON object"
    return [reason] * len(turn)


def _has_object(call: ToolCall) -> bool:
    try:
        return isinstance(from_json(normal_json(call.arguments_json)), dict)
    except TokenizerError:
        return False
