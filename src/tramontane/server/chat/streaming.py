"""A chat answer as it comes: the chunks of one stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from tramontane.llm import Delta
from tramontane.llm.async_llm import Stream
from tramontane.server.chat.answer import thinking_json, tool_call_json
from tramontane.server.chat.finish import finish_reason, require_sound
from tramontane.server.chat.logprobs import logprobs_json
from tramontane.server.chat.plan import AnswerPlan
from tramontane.server.endpoint import Call
from tramontane.server.stream import DONE, event
from tramontane.tokenizer import AnswerDelta, ToolCallDelta, joined_message


async def chat_events(call: Call, plan: AnswerPlan, stream: Stream) -> AsyncGenerator[bytes]:
    """Chunks, then `[DONE]`. A failure ends the stream with a chunk that has both a finish_reason and an error:
    Mistral's client reads the first, OpenAI's raises the second."""
    chunks = ChatChunks(call, plan)
    async with stream:
        try:
            for opening in chunks.opening():
                yield event(chunks.chunk(opening))
            async for delta in stream:
                call.saw_token()
                choice = chunks.choice(delta, stream)
                if choice is not None:
                    yield event(chunks.chunk(choice))
            if plan.include_usage:
                yield event({**chunks.chunk(None), "usage": call.usage})
        except Exception as error:
            failure = call.fail(error)
            ending = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
            yield event(chunks.chunk(ending) | {"error": failure.error})
    yield DONE


class ChatChunks:
    """Deltas to chunks. Reasoning is a list of chunks for Mistral's clients until it ends, a field of its own for
    others. A tool call grows with each chunk, but for Mistral's clients, which take each chunk's for a call of its own:
    to them it comes in one, when it is whole or the answer has ended."""

    def __init__(self, call: Call, plan: AnswerPlan) -> None:
        self.call = call
        self.plan = plan
        num_answers = plan.params.n
        self._is_thinking = [False] * num_answers
        self._calls: list[list[ToolCallDelta]] = [[] for _ in range(num_answers)]
        self._num_calls = [0] * num_answers  # that were shown
        self._num_tokens = [0] * num_answers
        self._num_open = num_answers
        self._head = {
            "id": call.request_id,
            "object": "chat.completion.chunk",
            "created": call.created,
            "model": plan.name,
        }

    def chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        """Around a choice; the last of all carries the usage, unless that was asked for apart."""
        chunk: dict[str, Any] = {**self._head, "choices": [] if choice is None else [choice]}
        if self._num_open == 0 and not self.plan.include_usage:
            chunk["usage"] = self.call.usage
        return chunk

    def opening(self) -> list[dict[str, Any]]:
        prefix = self.plan.prefix
        return [
            {"index": i, "delta": {"role": "assistant", "content": prefix}, "finish_reason": None}
            for i in range(self.plan.params.n)
        ]

    def choice(self, delta: Delta, stream: Stream) -> dict[str, Any] | None:
        """What a Delta adds; None where that is nothing yet. Raises ApiError for an answer that came to nothing."""
        call, index = self.call, delta.index
        call.completion_tokens += len(delta.token_ids)
        self._num_tokens[index] += len(delta.token_ids)
        choice: dict[str, Any] = {"index": index, "delta": self._delta(delta), "finish_reason": None}
        self._add_logprobs(choice, delta, stream)
        if delta.finish_reason is not None:
            require_sound(call, delta.finish_reason, delta.error)
            self._num_open -= 1
            if self._num_open == 0:
                call.count_prompt(stream)
            choice["finish_reason"] = finish_reason(
                delta.finish_reason,
                dialect=call.dialect,
                has_calls=self._num_calls[index] > 0,
                is_cut_by_limit=self._num_tokens[index] == self.plan.params.max_tokens,
            )
            choice["delta"].setdefault("content", "")
        return choice if choice["delta"] or len(choice) > 3 else None

    def _delta(self, delta: Delta) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        if self.call.dialect == "openai":
            if delta.thinking:
                shown["reasoning_content"] = delta.thinking
            if delta.text:
                shown["content"] = delta.text
            if delta.tool_calls:
                shown["tool_calls"] = [_grown(call) for call in delta.tool_calls]
                self._num_calls[delta.index] = delta.tool_calls[-1].index + 1
            return shown
        content: list[dict[str, Any]] = []
        if delta.thinking:
            content.append(thinking_json(delta.thinking, closed=False))
            self._is_thinking[delta.index] = True
        if delta.ends_thinking and self._is_thinking[delta.index]:
            content.append(thinking_json("", closed=True))
            self._is_thinking[delta.index] = False
        if content and delta.text:
            content.append({"type": "text", "text": delta.text})
        if content or delta.text:
            shown["content"] = content or delta.text
        if calls := self._whole_calls(delta):
            shown["tool_calls"] = calls
        return shown

    def _whole_calls(self, delta: Delta) -> list[dict[str, Any]]:
        """Calls that have not been shown and have nothing more to come."""
        seen, first = self._calls[delta.index], self._num_calls[delta.index]
        seen += delta.tool_calls
        if delta.finish_reason is None and not any(call.ends for call in delta.tool_calls):
            return []
        calls = joined_message([AnswerDelta(tool_calls=tuple(seen))]).tool_calls
        ended = calls if delta.finish_reason is not None else [call for call in calls if call.is_whole]
        self._num_calls[delta.index] = max(first, len(ended))
        return [tool_call_json(call, first + place) for place, call in enumerate(ended[first:])]

    def _add_logprobs(self, choice: dict[str, Any], delta: Delta, stream: Stream) -> None:
        params, tokenizer = self.plan.params, self.plan.model.llm.tokenizer
        if params.logprobs is not None and delta.logprobs:
            choice["logprobs"] = logprobs_json(tokenizer, delta.logprobs)
        is_first = self._num_tokens[delta.index] == len(delta.token_ids)
        if params.prompt_logprobs is not None and is_first and stream.prompt_logprobs is not None:
            choice["prompt_logprobs"] = logprobs_json(tokenizer, stream.prompt_logprobs)


def _grown(call: ToolCallDelta) -> dict[str, Any]:
    """The part of a call as OpenAI's clients add it up by `index`."""
    if not call.id:
        return {"index": call.index, "function": {"arguments": call.arguments_json}}
    function = {"name": call.name, "arguments": call.arguments_json}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}
