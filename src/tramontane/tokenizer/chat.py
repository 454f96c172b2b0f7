"""Chat formats: conversations to token ids and back.

One encoder serves every version of Mistral's instruct formats, driven by a row of features per version, on whatever
vocabulary carries the control tokens (tekken.json, tokenizer.model, tokenizer.json, GGUF). mistral-common is the
judge: the tests hold the ids of both equal over generated conversations, tools, results and reasoning included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tramontane.errors import TokenizerError
from tramontane.tokenizer.conversation import check_answer, check_conversation
from tramontane.tokenizer.messages import (
    AssistantMessage,
    Message,
    Messages,
    Thinking,
    Tool,
    Tools,
    from_json,
    mistral_tool_call_id,
    normal_json,
    read_messages,
    read_tools,
    to_json,
)
from tramontane.tokenizer.parse import parse_answer

if TYPE_CHECKING:
    from tramontane.tokenizer.base import Tokenizer

MistralVersion = Literal["v1", "v2", "v3", "v7", "v11", "v13"]
_JOIN = "\n\n"


@dataclass(frozen=True, slots=True)
class Turn:
    """The ids of one message. Concatenated, the turns of a conversation are its prompt; `role` tells a trainer
    which of them the model is to learn. The first turn of Mistral's formats, `start`, is the beginning of sequence.

    `shows_tools`: the definitions of the tools stand in it, so that no turn before it can know them. `call_id_places`
    are places in `token_ids` that spell the id of a tool call, which is drawn at random and cannot be learned.
    """

    role: str
    token_ids: tuple[int, ...]
    shows_tools: bool = False
    call_id_places: tuple[int, ...] = ()


class ChatFormat(Protocol):
    """How one family of models writes conversations. All methods raise TokenizerError for what it cannot write."""

    name: str

    def encode_chat(self, messages: Messages, *, tools: Tools | None = None) -> list[int]:
        """Prompt that the model answers: the last message is of a user or tool, or an assistant's `prefix`."""
        ...

    def encode_turns(self, messages: Messages, *, tools: Tools | None = None) -> list[Turn]:
        """A whole conversation to learn from; the last message is the assistant's.

        Neighbouring messages of users, and of assistants, share one turn, as they share one in the prompt.
        """
        ...

    def encode_fim(self, prompt: str, suffix: str | None) -> list[int]:
        """Prompt for the text between `prompt` and `suffix`."""
        ...

    def parse(self, token_ids: Sequence[int], *, final: bool = True) -> AssistantMessage:
        """Generated ids as a message. Never raises: what is no well-formed tool call is returned as text.

        With `final=False` more ids may follow: an unfinished character or tool call is held back, and what is
        returned only ever grows as ids are added.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What sets one version apart. Placements are of user messages; None: not possible."""

    inst_is_control: bool = True  # v1 spells [INST] as text
    system_in: Literal["first", "last", "place"] = "last"  # user message it opens, or its own place in brackets
    tools_before: Literal["first", "last"] | None = "last"
    call_form: Literal["list", "list_with_id", "name_id_args", "name_args"] = "list"
    result_form: Literal["list", "object", "id_content", "content"] = "list"
    keeps_old_calls: bool = True  # v2 drops calls and results before the last user message
    mixes_content_and_calls: bool = False
    pairs_by_id: bool = False  # results are matched to calls, and sorted like them, by id
    thinks: bool = False


_V3 = Features(call_form="list_with_id", result_form="object")
_V7 = replace(_V3, system_in="place", result_form="id_content", mixes_content_and_calls=True)
_V11 = replace(_V7, call_form="name_id_args", pairs_by_id=True)

FEATURES: Mapping[MistralVersion, Features] = {
    "v1": Features(inst_is_control=False, system_in="first", tools_before=None),
    "v2": Features(keeps_old_calls=False),
    "v3": _V3,
    "v7": _V7,
    "v11": _V11,
    "v13": replace(_V11, tools_before="first", call_form="name_args", result_form="content", thinks=True),
}


class MistralChat:
    """The instruct format of one version on one vocabulary.

    Raises TokenizerError when the vocabulary lacks a control token that the version cannot do without.
    """

    def __init__(self, tokenizer: Tokenizer, version: MistralVersion) -> None:
        self.name: str = version
        self.features = FEATURES[version]
        self._tokenizer = tokenizer
        if self.features.inst_is_control:
            for name in _required_controls(self.features):
                tokenizer.control_id(name)

    def encode_chat(self, messages: Messages, *, tools: Tools | None = None) -> list[int]:
        turns = self._encode(read_messages(messages), read_tools(tools), sample=False)
        return [token_id for turn in turns for token_id in turn.token_ids]

    def encode_turns(self, messages: Messages, *, tools: Tools | None = None) -> list[Turn]:
        return self._encode(read_messages(messages), read_tools(tools), sample=True)

    def encode_fim(self, prompt: str, suffix: str | None) -> list[int]:
        if "[SUFFIX]" not in self._tokenizer.control_names:
            raise TokenizerError(f"models of format {self.name} cannot fill in the middle; use plain generation")
        suffix_ids = encode_infilling(self._tokenizer, suffix) if suffix else []
        prompt_ids = self._tokenizer.encode(prompt)
        return [
            *self._tokenizer.prefix_ids,
            *self._control("[SUFFIX]"),
            *suffix_ids,
            *self._control("[PREFIX]"),
            *prompt_ids,
        ]

    def parse(self, token_ids: Sequence[int], *, final: bool = True) -> AssistantMessage:
        return parse_answer(self._tokenizer, token_ids, final=final)

    def _encode(self, messages: list[Message], tools: list[Tool], *, sample: bool) -> list[Turn]:
        features = self.features
        check_conversation(messages, features, name=self.name, sample=sample)
        if tools and features.tools_before is None:
            raise TokenizerError(f"models of format {self.name} know no tools")
        system = None
        if features.system_in != "place":
            texts = [_joined_text(message) for message in messages if message.role == "system" and message.has_content]
            system = _JOIN.join(texts)
        messages = _merged(messages, features)
        for message in messages:
            if message.role == "assistant":
                check_answer(message, features, source="an assistant's turn", name=self.name)
        users = [place for place, message in enumerate(messages) if message.role == "user"]
        last_user = users[-1] if users else 0
        if not features.keeps_old_calls:
            _check_single_results(messages[last_user:])
        turns = [Turn("start", (self._tokenizer.bos_id,))]
        for place, message in enumerate(messages):
            is_old = place < last_user and not features.keeps_old_calls
            match message.role:
                case "user":
                    turns.append(self._user(message, tools, system, first=place == users[0], last=place == last_user))
                case "system":
                    turns.append(Turn("system", tuple(self._bracketed("SYSTEM_PROMPT", self._content(message)))))
                case "assistant":
                    turns.append(Turn("assistant", ()) if is_old and message.tool_calls else self._assistant(message))
                case "tool":
                    token_ids = [] if is_old else self._bracketed("TOOL_RESULTS", self._result(message))
                    turns.append(Turn("tool", tuple(token_ids)))
        return turns

    def _user(self, message: Message, tools: list[Tool], system: str | None, *, first: bool, last: bool) -> Turn:
        features = self.features
        text = _joined_text(message)
        if system and (first if features.system_in == "first" else last):
            text = system + _JOIN + text
        if not features.inst_is_control:
            return Turn("user", tuple(self._text(f"[INST] {text} [/INST]")))
        token_ids: list[int] = []
        shows_tools = bool(tools) and (first if features.tools_before == "first" else last)
        if shows_tools:
            token_ids = self._bracketed("AVAILABLE_TOOLS", self._text(to_json([tool.as_dict() for tool in tools])))
        token_ids += self._bracketed("INST", self._text(text))
        return Turn("user", tuple(token_ids), shows_tools=shows_tools)

    def _assistant(self, message: Message) -> Turn:
        token_ids = self._content(message) if message.has_content else []
        places: list[int] = []
        if message.tool_calls:
            calls, ids = self._calls(message)
            places = [len(token_ids) + place for place in ids]
            token_ids += calls
        if not message.prefix:
            token_ids.append(self._tokenizer.eos_id)
        return Turn("assistant", tuple(token_ids), call_id_places=tuple(places))

    def _content(self, message: Message) -> list[int]:
        """Text and thinking in order. Pure text of an assistant loses trailing spaces (all versions but v1)."""
        token_ids: list[int] = []
        is_text = all(isinstance(chunk, str) for chunk in message.chunks)
        for chunk in message.chunks:
            if isinstance(chunk, Thinking):
                token_ids += [*self._control("[THINK]"), *self._text(chunk.text)]
                token_ids += self._control("[/THINK]") if chunk.closed else []
            else:
                strip = is_text and message.role == "assistant" and self.features.inst_is_control
                token_ids += self._text(chunk.rstrip(" ") if strip else chunk)
        return token_ids

    def _calls(self, message: Message) -> tuple[list[int], list[int]]:
        """Ids of all calls of a message, and the places among them that spell the calls' ids."""
        form = self.features.call_form
        calls = [
            {"name": call.name, "arguments": from_json(normal_json(call.arguments_json))}
            | ({"id": self._call_id(call.id)} if form != "list" else {})
            for call in message.tool_calls
        ]
        if form in ("list", "list_with_id"):
            text = to_json(calls)
            token_ids = self._text(text)
            places = _places_of_ids(self._tokenizer, text, token_ids, calls) if form == "list_with_id" else []
            return [*self._control("[TOOL_CALLS]"), *token_ids], [place + 1 for place in places]
        token_ids, places = [], []
        for call in calls:
            token_ids += [*self._control("[TOOL_CALLS]"), *self._text(call["name"])]
            if form == "name_id_args":
                call_id = self._text(call["id"])
                token_ids += self._control("[CALL_ID]")
                places += range(len(token_ids), len(token_ids) + len(call_id))
                token_ids += call_id
            token_ids += [*self._control("[ARGS]"), *self._text(to_json(call["arguments"]))]
        return token_ids, places

    def _result(self, message: Message) -> list[int]:
        text = _joined_text(message)
        call_id = self._call_id(message.tool_call_id or "")
        match self.features.result_form:
            case "list":
                return self._text(to_json([{"name": message.name, "content": from_json(normal_json(text))}]))
            case "object":
                return self._text(to_json({"content": from_json(normal_json(text)), "call_id": call_id}))
            case "id_content":
                return [*self._text(call_id), *self._control("[TOOL_CONTENT]"), *self._text(text)]
            case "content":
                return self._text(text)

    def _call_id(self, call_id: str) -> str:
        return call_id if self.features.call_form == "name_args" else mistral_tool_call_id(call_id)

    def _bracketed(self, name: str, token_ids: list[int]) -> list[int]:
        return [*self._control(f"[{name}]"), *token_ids, *self._control(f"[/{name}]")]

    def _control(self, name: str) -> list[int]:
        return [self._tokenizer.control_id(name)]

    def _text(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def encode_infilling(tokenizer: Tokenizer, text: str) -> list[int]:
    """`text` without the space that sentencepiece puts before it: encoded after a sign that is then cut off.

    Mistral and Meta both use this sign, and with tekken too, where it keeps line breaks from joining punctuation.
    """
    sign = tokenizer.encode("☺")
    token_ids = tokenizer.encode("☺" + text)
    return token_ids[len(sign) :] if token_ids[: len(sign)] == sign else tokenizer.encode(text)


def _places_of_ids(
    tokenizer: Tokenizer, text: str, token_ids: Sequence[int], calls: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Places in `token_ids` of `text`, the JSON of `calls`, that belong to a call's id; each id ends its call."""
    spans = []
    start = 1
    for call in calls:
        end = start + len(to_json(call).encode())
        spans.append((end - 2 - len(call["id"].encode()), end - 2))  # the id, before its quote and the brace
        start = end + 2
    ends = list(accumulate(len(tokenizer.token_bytes(token_id)) for token_id in token_ids))
    offset = ends[-1] - len(text.encode())  # of the space before the text
    starts = [0, *ends[:-1]]
    return [
        place
        for place, (start, end) in enumerate(zip(starts, ends, strict=True))
        if any(start < last + offset and end > first + offset for first, last in spans)
    ]


def _required_controls(features: Features) -> list[str]:
    names = ["[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
    names.append("[TOOL_CALLS]")
    if features.system_in == "place":
        names += ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    if features.result_form == "id_content":
        names.append("[TOOL_CONTENT]")
    if features.call_form in ("name_id_args", "name_args"):
        names.append("[ARGS]")
    if features.call_form == "name_id_args":
        names.append("[CALL_ID]")
    return names


def _merged(messages: list[Message], features: Features) -> list[Message]:
    """Neighbouring messages of users, and of assistants, become one; results follow the order of their calls."""
    merged: list[Message] = []
    call_ids: list[str] = []
    for role, group in groupby(messages, key=lambda message: message.role):
        members = list(group)
        if role == "system":
            merged += [replace(message, chunks=_joined(message.chunks)) for message in members]
        elif role == "tool":
            merged += sorted(members, key=_order(call_ids)) if features.pairs_by_id else members
        else:
            calls = tuple(call for message in members for call in message.tool_calls)
            chunks = _joined(chunk for message in members for chunk in message.chunks)
            merged.append(replace(members[0], chunks=chunks, tool_calls=calls, prefix=any(m.prefix for m in members)))
        call_ids = [call.id for call in merged[-1].tool_calls] if role == "assistant" else []
    if features.system_in != "place":
        merged = [message for message in merged if message.role != "system"]
    if not merged or (features.system_in != "place" and merged[0].role != "user"):
        merged.insert(0, Message("user", ("",)))
    return merged


def _order(call_ids: list[str]) -> Any:
    places = {call_id: place for place, call_id in enumerate(call_ids)}
    return lambda message: places.get(message.tool_call_id, len(places))


def _joined(chunks: Any) -> tuple[str | Thinking, ...]:
    """Chunks with neighbouring texts joined by an empty line and empty ones dropped."""
    joined: list[str | Thinking] = []
    for chunk in chunks:
        if not chunk:
            continue
        if joined and isinstance(chunk, str) and isinstance(joined[-1], str):
            joined[-1] += _JOIN + chunk
        else:
            joined.append(chunk)
    return tuple(joined)


def _joined_text(message: Message) -> str:
    chunks = _joined(message.chunks)
    if any(isinstance(chunk, Thinking) for chunk in chunks):
        raise TokenizerError(f"thinking is not possible in a message of role {message.role}")
    return "".join(chunk for chunk in chunks if isinstance(chunk, str))


def _check_single_results(messages: list[Message]) -> None:
    for before, after in pairwise(messages):
        if before.role == after.role == "tool":
            raise TokenizerError("models of format v2 take one tool result per answer; make one call at a time")
