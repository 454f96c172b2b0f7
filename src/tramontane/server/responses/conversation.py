"""The conversation a response answers: what went before it and its own input, as much as the model can hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from tramontane.errors import ContextLengthError
from tramontane.llm.async_llm import Stream
from tramontane.server.chat.plan import AnswerPlan, plan_chat
from tramontane.server.endpoint import Call
from tramontane.server.notes import Notes
from tramontane.server.responses.chat_request import as_sent, chat_request, require_possible
from tramontane.server.schema.response_request import Item, ItemReference, MessageItem, ResponseInput, TextPart

ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])
ANSWER_TOKENS = 512
"""With `truncation: auto` and no max_output_tokens, room for the answer; at most a quarter of the context."""


@dataclass(frozen=True, slots=True)
class Conversation:
    items: list[Item]
    plan: AnswerPlan

    async def start(self, call: Call) -> Stream:
        with _noted_as_sent(call.notes):
            return await self.plan.start(call)

    def as_json(self, call: Call) -> list[dict[str, Any]]:
        """The items as they are kept and listed, each with an id."""
        prefixes = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
        kept = []
        for place, item in enumerate(self.items):
            data = item.model_dump(exclude_none=True)
            data["id"] = data.get("id") or f"{prefixes.get(item.type, 'item')}_{call.request_id}_in{place}"
            kept.append(data)
        return kept


async def read_conversation(call: Call, request: ResponseInput) -> Conversation:
    """Raises ApiError 400 for what is not possible, 404 for what is not kept, and as `plan_chat` does."""
    require_possible(request)
    items = await asyncio.to_thread(_items, call, request)
    notes = None if call.is_strict else call.notes

    async def plan_of(some: Sequence[Item]) -> AnswerPlan:
        chat = chat_request(request, some, notes)
        with _noted_as_sent(call.notes):
            return await plan_chat(call, chat)

    if request.truncation != "auto":
        return Conversation(items, await plan_of(items))
    # the fewest of the oldest turns go; what is said to the model by its developers, and the last turn, stay
    starts = [place for place, item in enumerate(items) if isinstance(item, MessageItem) and item.role == "user"]
    candidates = [0, *starts[1:]]
    low, high = 0, len(candidates) - 1
    plans: dict[int, AnswerPlan | None] = {}
    while low < high:
        middle = (low + high) // 2 if plans else 0  # most conversations fit whole
        plan = None
        with contextlib.suppress(ContextLengthError):
            plan = await plan_of(_without(items, candidates[middle]))
        plans[middle] = plan
        if plan is not None and _fits(request, plan):
            high = middle
        else:
            low = middle + 1
    kept = _without(items, candidates[low])
    if low:
        call.notes.changed.add("input")
    return Conversation(kept, plans.get(low) or await plan_of(kept))


@contextlib.contextmanager
def _noted_as_sent(notes: Notes) -> Iterator[None]:
    """What is noted meanwhile of a chat request gets the names that the client knows."""
    ignored, changed = set(notes.ignored), set(notes.changed)
    yield
    notes.ignored = ignored | set(map(as_sent, notes.ignored - ignored))
    notes.changed = changed | set(map(as_sent, notes.changed - changed))


def _items(call: Call, request: ResponseInput) -> list[Item]:
    stored, owner = call.services.stored_responses, call.caller.owner
    items: list[Item] = []
    if request.previous_response_id is not None:
        before = stored.get(request.previous_response_id, owner, param="previous_response_id")
        items += _read([*before.input, *before.body["output"]])
    if isinstance(request.input, str):
        return [*items, MessageItem(role="user", content=[TextPart(type="input_text", text=request.input)])]
    for item in request.input:
        items += _read([stored.item(item.id, owner)]) if isinstance(item, ItemReference) else [item]
    return items


def _read(items: list[dict[str, Any]]) -> list[Item]:
    return ITEMS.validate_python(items, extra="ignore")


def _without(items: list[Item], start: int) -> list[Item]:
    said = [item for item in items[:start] if isinstance(item, MessageItem) and item.role in ("system", "developer")]
    return [*said, *items[start:]]


def _fits(request: ResponseInput, plan: AnswerPlan) -> bool:
    context = plan.model.llm.max_seq_len
    wanted = getattr(request, "max_output_tokens", None) or ANSWER_TOKENS
    return len(plan.prompt.token_ids) + min(wanted, context // 4) <= context
