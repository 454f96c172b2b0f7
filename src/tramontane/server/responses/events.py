"""A response as it comes: items opened, filled and closed one after the other, each event with its number."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from tramontane.llm import Delta
from tramontane.llm.async_llm import Stream
from tramontane.server.chat.finish import require_sound
from tramontane.server.endpoint import Call
from tramontane.server.errors import ApiError
from tramontane.server.responses.conversation import Conversation
from tramontane.server.responses.items import (
    call_item,
    ending,
    message_item,
    reasoning_item,
    response_json,
    text_logprobs,
    text_part,
    usage_json,
)
from tramontane.server.schema.response_request import ResponseRequest
from tramontane.server.stream import typed_event
from tramontane.tokenizer import ToolCall, ToolCallDelta

Event = dict[str, Any]


async def response_events(builder: ResponseBuilder, stream: Stream) -> AsyncGenerator[bytes]:
    """Ends with `response.completed` or `.incomplete`, when the response has been kept; a failure ends it with
    `response.failed`, and nothing is kept."""
    call = builder.call
    async with stream:
        try:
            for entry in builder.open():
                yield typed_event(entry)
            async for delta in stream:
                call.saw_token()
                for entry in builder.take(delta):
                    yield typed_event(entry)
            call.count_prompt(stream)
            last = list(builder.close())
            await builder.keep()
            for entry in last:
                yield typed_event(entry)
        except Exception as error:
            failure = call.fail(error)
            yield typed_event(builder.fail(failure))


async def kept_events(response: dict[str, Any]) -> AsyncGenerator[bytes]:
    """Of a response that was made before, and whose events are lost: its beginning and its end."""
    begun = response | {"status": "in_progress", "output": [], "usage": None}
    yield typed_event({"type": "response.created", "sequence_number": 0, "response": begun})
    yield typed_event({"type": f"response.{response['status']}", "sequence_number": 1, "response": response})


class ResponseBuilder:
    """The output items of one answer, and the events that tell of them."""

    def __init__(self, call: Call, request: ResponseRequest, conversation: Conversation) -> None:
        self.call = call
        self.request = request
        self.conversation = conversation
        self.plan = conversation.plan
        self.response: dict[str, Any] = {}  # the whole answer, once it is closed
        self.output: list[dict[str, Any]] = []  # items that are whole
        self.finish_reason = "stop"
        self.reasoning_tokens = 0
        self._text: str | None = None  # of the message that is open
        self._thinking: str | None = None  # of the reasoning that is open
        self._tool_call: ToolCall | None = None  # that is open
        self._logprobs: list[dict[str, Any]] = []
        self._num_events = 0

    def open(self) -> Iterator[Event]:
        response = response_json(self.call, self.request, "in_progress")
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)
        if self.plan.prefix:
            yield from self._add_text(self.plan.prefix, [])

    def take(self, delta: Delta) -> Iterator[Event]:
        """Raises ApiError for an answer that came to nothing."""
        self.call.completion_tokens += len(delta.token_ids)
        if delta.thinking:
            self.reasoning_tokens += len(delta.token_ids)
            yield from self._add_thinking(delta.thinking)
        if delta.ends_thinking:
            yield from self._close_item()
        if delta.text:
            tokenizer = self.plan.model.llm.tokenizer
            yield from self._add_text(delta.text, text_logprobs(tokenizer, delta.logprobs))
        for tool_call in delta.tool_calls:
            yield from self._add_call(tool_call)
        if delta.finish_reason is not None:
            require_sound(self.call, delta.finish_reason, delta.error)
            self.finish_reason = delta.finish_reason

    def close(self) -> Iterator[Event]:
        """The last events; `response` is then the whole answer."""
        yield from self._close_item("incomplete" if self.finish_reason == "length" else "completed")
        usage = usage_json(self.call, self.reasoning_tokens)
        changes = {
            "output": self.output,
            "usage": usage,
            "completed_at": int(time.time()),
            **ending(self.finish_reason),
        }
        self.response = response_json(self.call, self.request, **changes)
        yield self._event(f"response.{self.response['status']}", response=self.response)

    async def keep(self) -> None:
        """Store the answer, unless it is not wanted. Raises StoreError and DiskFullError, and
        ApiError beyond a quota."""
        if self.request.store is not False:
            items = self.conversation.as_json(self.call)
            stored = self.call.services.stored_responses
            await asyncio.to_thread(stored.add, self.call.caller, items, self.response, self.call.mark)

    def fail(self, failure: ApiError) -> Event:
        code = "rate_limit_exceeded" if failure.status == 429 else "server_error"
        error = {"code": code, "message": failure.message}
        return self._event("response.failed", response=response_json(self.call, self.request, "failed", error=error))

    def _add_text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        if self._text is None:
            yield from self._close_item()
            self._text, self._logprobs = "", []
            item = message_item(self.call, len(self.output), "", [], "in_progress")
            yield self._item_event("response.output_item.added", item=item)
            yield self._item_event("response.content_part.added", **self._part_of(item), part=text_part("", []))
        self._text += text
        self._logprobs += logprobs
        item = message_item(self.call, len(self.output), "", [], "in_progress")
        yield self._item_event("response.output_text.delta", **self._part_of(item), delta=text, logprobs=logprobs)

    def _add_thinking(self, text: str) -> Iterator[Event]:
        if self._thinking is None:
            yield from self._close_item()
            self._thinking = ""
            item = reasoning_item(self.call, len(self.output), "", "in_progress")
            yield self._item_event("response.output_item.added", item=item)
        self._thinking += text
        item = reasoning_item(self.call, len(self.output), "", "in_progress")
        yield self._item_event("response.reasoning_text.delta", **self._part_of(item), delta=text)

    def _add_call(self, delta: ToolCallDelta) -> Iterator[Event]:
        if delta.id:
            yield from self._close_item()
            self._tool_call = ToolCall(delta.id, delta.name, "")
            opened = call_item(self.call, len(self.output), self._tool_call, "in_progress")
            yield self._item_event("response.output_item.added", item=opened)
        if self._tool_call is None:
            return
        grown = self._tool_call.arguments_json + delta.arguments_json
        self._tool_call = dataclasses.replace(self._tool_call, arguments_json=grown)
        item = call_item(self.call, len(self.output), self._tool_call, "in_progress")
        if delta.arguments_json:
            more = {"item_id": item["id"], "delta": delta.arguments_json}
            yield self._item_event("response.function_call_arguments.delta", **more)
        if delta.ends:
            yield from self._close_item()

    def _close_item(self, status: str = "completed") -> Iterator[Event]:
        """End the open message, reasoning or call, if there is one."""
        place = len(self.output)
        if self._text is not None:
            item = message_item(self.call, place, self._text, self._logprobs, status)
            where = self._part_of(item)
            yield self._item_event("response.output_text.done", **where, text=self._text, logprobs=self._logprobs)
            yield self._item_event("response.content_part.done", **where, part=item["content"][0])
        elif self._thinking is not None:
            item = reasoning_item(self.call, place, self._thinking, status)
            yield self._item_event("response.reasoning_text.done", **self._part_of(item), text=self._thinking)
        elif self._tool_call is not None:
            item = call_item(self.call, place, self._tool_call, status)
            done = {"item_id": item["id"], "name": self._tool_call.name, "arguments": item["arguments"]}
            yield self._item_event("response.function_call_arguments.done", **done)
        else:
            return
        yield self._item_event("response.output_item.done", item=item)
        self.output.append(item)
        self._text = self._thinking = self._tool_call = None

    def _part_of(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "content_index": 0}

    def _item_event(self, kind: str, **data: Any) -> Event:
        return self._event(kind, output_index=len(self.output), **data)

    def _event(self, kind: str, **data: Any) -> Event:
        self._num_events += 1
        return {"type": kind, "sequence_number": self._num_events - 1, **data}
