"""The rules of a conversation: who may follow whom, and that every tool call has its result.

They are mistral-common's of mode `serving` (prompts) and `finetuning` (samples), with one difference: tool-call ids
of another form than Mistral's are not refused but replaced when they are encoded.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from tramontane.errors import TokenizerError
from tramontane.tokenizer.messages import Message, Thinking

if TYPE_CHECKING:
    from tramontane.tokenizer.chat import Features

_MAY_FOLLOW = {
    "system": ("user", "assistant", "system"),
    "user": ("assistant", "system", "user"),
    "assistant": ("assistant", "user", "tool"),
    "tool": ("assistant", "tool", "user"),
}


def check_conversation(messages: list[Message], features: Features, *, name: str, sample: bool) -> None:
    """Raises TokenizerError naming the first message that breaks a rule of the format called `name`."""
    if not messages:
        raise TokenizerError("a conversation needs at least one message")
    for place, (before, after) in enumerate(itertools.pairwise(messages)):
        if after.role not in _MAY_FOLLOW[before.role]:
            raise TokenizerError(f"messages[{place + 1}]: role {after.role} cannot follow role {before.role}")
    _check_ends(messages, sample=sample)
    for place, message in enumerate(messages):
        source = f"messages[{place}]"
        if any(isinstance(chunk, Thinking) for chunk in message.chunks) and not features.thinks:
            raise TokenizerError(f"{source}: models of format {name} have no thinking chunks")
        if message.role == "assistant":
            _check_assistant(message, features, source, name, is_last=place == len(messages) - 1, sample=sample)
        elif message.role == "tool":
            if features.tools_before is None:
                raise TokenizerError(f"{source}: models of format {name} know no tools")
            if features.call_form != "list" and not message.tool_call_id:
                raise TokenizerError(f"{source}.tool_call_id is missing; name the call this answers")
    if features.pairs_by_id:
        _check_pairs(messages, sample=sample)
    else:
        _check_counts(messages, sample=sample)


def _check_ends(messages: list[Message], *, sample: bool) -> None:
    last = messages[-1]
    if sample:
        if last.role != "assistant" or last.prefix:
            raise TokenizerError("a conversation to learn from must end with a whole message of the assistant")
    elif len(messages) == 1 and last.role not in ("user", "system"):
        raise TokenizerError("messages[0]: a conversation starts with a user or system message")
    elif last.role == "assistant" and not last.prefix:
        raise TokenizerError(
            "the last message is the assistant's: nothing is left to answer; add a user message, or set prefix to "
            "have it continued"
        )


def _check_assistant(
    message: Message, features: Features, source: str, name: str, *, is_last: bool, sample: bool
) -> None:
    if message.tool_calls and features.tools_before is None:
        raise TokenizerError(f"{source}: models of format {name} know no tools")
    if not features.mixes_content_and_calls:
        check_answer(message, features, source=source, name=name)
    if message.prefix and not is_last:
        raise TokenizerError(f"{source}.prefix is only possible in the last message")
    if features.call_form != "list" and any(not call.id for call in message.tool_calls):
        raise TokenizerError(f"{source}: every tool call needs an id")


def check_answer(message: Message, features: Features, *, source: str, name: str) -> None:
    """Raises TokenizerError when an assistant says nothing, or more kinds of things at once than the format can."""
    if not message.has_content and not message.tool_calls:
        raise TokenizerError(f"{source} needs content or tool_calls")
    if message.has_content and message.tool_calls and not features.mixes_content_and_calls:
        raise TokenizerError(f"{source} has content and tool_calls; models of format {name} take one of them")


def _check_counts(messages: list[Message], *, sample: bool) -> None:
    """Each assistant's calls have as many results before the next assistant message."""
    open_calls = 0
    for place, message in enumerate(messages):
        if place == 0:
            continue
        if message.role == "tool":
            open_calls -= 1
        elif message.role == "assistant":
            if open_calls:
                raise TokenizerError(
                    f"messages[{place}]: the calls before it have {_more_or_fewer(open_calls)} results"
                )
            open_calls = len(message.tool_calls)
    if open_calls < 0 or (open_calls > 0 and not sample):
        raise TokenizerError(f"the last tool calls have {_more_or_fewer(open_calls)} results")


def _more_or_fewer(open_calls: int) -> str:
    return "too few" if open_calls > 0 else "too many"


def _check_pairs(messages: list[Message], *, sample: bool) -> None:
    """Each result names a call of the last assistant message, each call has one result."""
    expected: set[str] = set()
    observed: set[str] = set()
    for place, message in enumerate(messages):
        if place == 0:
            continue
        call_id = message.tool_call_id or ""
        if message.role == "tool":
            if call_id in observed or call_id not in expected:
                reason = "was already answered" if call_id in observed else "is not a call of the assistant before it"
                raise TokenizerError(f"messages[{place}].tool_call_id={call_id!r} {reason}")
            observed.add(call_id)
        elif message.role == "assistant":
            if expected != observed:
                raise TokenizerError(f"messages[{place}]: the calls before it have too few results")
            expected, observed = set(), set()
            for call in message.tool_calls:
                if call.id in expected:
                    raise TokenizerError(f"messages[{place}]: two tool calls have the id {call.id!r}")
                expected.add(call.id)
    if expected != observed and not sample:
        raise TokenizerError("the last tool calls have too few results")
