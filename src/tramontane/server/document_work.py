"""DocumentWork: what reading documents takes of a server, shared out between its tenants.

Three things are given out, each in turns of the owners who wait: processes that parse foreign formats, threads that cut
long texts and count their tokens, and places for work that asks a model again and again. Waiting for a model holds
neither of the first two, and a text file needs none of them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar

import torch

from tramontane.documents import Document
from tramontane.documents.document import kind_of, parse_document_async, text_document
from tramontane.documents.steps import Ask, End, Steps, advance
from tramontane.errors import CapacityError, DataError
from tramontane.llm import Completion
from tramontane.loading.memory import available_bytes
from tramontane.server.fair_slots import FairSlots
from tramontane.server.schema.documents import MAX_CHARS
from tramontane.server.threads import FairThreads

Result = TypeVar("Result")

MAX_FILE_BYTES = 32 << 20
MAX_NAME_CHARS = 200
SHORT_BYTES = 256 << 10  # a text that is decoded faster than a thread is woken

PARSERS_SHARE = 0.25  # of the memory that is free at the start, for all parsers together
MIN_PARSER_BYTES, MAX_PARSER_BYTES = 256 << 20, 1 << 30
COST_BYTES = 1 << 20  # a document of this size costs its owner two turns, a small one one
MAX_FILES_WAITING = 32  # of an owner

NUM_THREADS = 2  # a step holds the interpreter most of its time: more would not do more
MAX_TASKS = 64
TASKS_PER_OWNER = 2
MAX_TASKS_WAITING = 14  # of an owner; each keeps its text


class DocumentWork:
    """Used from one event loop. CapacityError, from every method: the owner has too much waiting already."""

    def __init__(self) -> None:
        num_cores = os.cpu_count() or 2
        num_parsers = max(2, num_cores // 2)
        memory_bytes = available_bytes(torch.device("cpu")) or num_parsers * 4 * MAX_PARSER_BYTES
        while num_parsers > 2 and PARSERS_SHARE * memory_bytes / num_parsers < MIN_PARSER_BYTES:
            num_parsers -= 1
        share_bytes = int(PARSERS_SHARE * memory_bytes / num_parsers)
        self.parser_bytes = min(MAX_PARSER_BYTES, max(MIN_PARSER_BYTES, share_bytes))
        # nobody holds all, so that there is a place for others at once
        self.parsers = FairSlots(num_parsers, per_owner=num_parsers // 2)
        self.threads = FairThreads(NUM_THREADS, "documents", per_owner=1)
        self.tasks = FairSlots(MAX_TASKS, per_owner=TASKS_PER_OWNER)

    async def read(self, owner: str, data: bytes, name: str | None) -> Document:
        """A document that `owner` has sent. Raises DataError naming it."""
        shown = display_name(name)
        if len(data) > MAX_FILE_BYTES:
            raise DataError(f"{shown}: larger than {MAX_FILE_BYTES >> 20} MiB; split it first")
        if kind_of(data, shown) == "text":
            if len(data) <= SHORT_BYTES:
                return text_document(data, shown, MAX_CHARS)
            return await self.compute(owner, lambda: text_document(data, shown, MAX_CHARS))
        require_turn(self.parsers, owner, MAX_FILES_WAITING, "documents wait to be read")
        async with self.parsers.slot(owner, 1 + len(data) / COST_BYTES):
            return await parse_document_async(data, shown, memory_bytes=self.parser_bytes, max_chars=MAX_CHARS)

    async def compute(self, owner: str, work: Callable[[], Result]) -> Result:
        """The result of some tenths of a second's work, in a thread."""
        return await self.threads.run(owner, work)

    async def run(
        self, owner: str, steps: Steps[Result], answer: Callable[[Ask], Awaitable[list[Completion]]]
    ) -> Result:
        """The result of `steps`, whose questions `answer` puts to a model."""
        self.require_task(owner)
        async with self.tasks.slot(owner):
            completions: list[Completion] | None = None
            while True:
                step = await self.compute(owner, partial(advance, steps, completions))
                if isinstance(step, End):
                    return step.result
                completions = await answer(step) if step.prompts else []

    def require_task(self, owner: str) -> None:
        """That `run` would take one more."""
        require_turn(self.tasks, owner, MAX_TASKS_WAITING, "summaries and answers wait their turn")


def require_turn(slots: FairSlots, owner: str, max_waiting: int, what: str) -> None:
    if slots.num_waiting(owner) >= max_waiting:
        raise CapacityError(f"{max_waiting} of your {what}; send more when some are done")


def display_name(name: str | None) -> str:
    """What users know the file by; it is shown and never opened."""
    last = PurePosixPath((name or "").replace("\\", "/")).name
    return "".join(char for char in last if char.isprintable())[:MAX_NAME_CHARS] or "document"
