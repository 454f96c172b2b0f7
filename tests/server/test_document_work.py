"""What reading documents takes of a server is shared out: nobody's work keeps another's small file waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.documents.fake_llm import FakeLLM, as_llm
from tests.documents.sample_files import pdf_of
from tramontane.documents import Document
from tramontane.documents.steps import PAUSE, Ask, Steps
from tramontane.documents.summary import summary_steps
from tramontane.errors import CapacityError, DataError
from tramontane.llm import Completion
from tramontane.server import document_work
from tramontane.server.document_work import (
    MAX_FILE_BYTES,
    MAX_FILES_WAITING,
    MAX_TASKS_WAITING,
    TASKS_PER_OWNER,
    DocumentWork,
)
from tramontane.server.routes import documents

SMALL = b"Eleven byte"
LONG = "Some words about a wind.\n\n" * 40_000


@asynccontextmanager
async def all_ended(tasks: list[asyncio.Task[object]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def never(_: Ask) -> list[Completion]:
    """A model that is busy for hours."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def test_summaries_that_wait_for_a_model_keep_nobody_waiting() -> None:
    """Four of them once held every thread that documents had."""

    async def scenario() -> tuple[Document, Document, int]:
        work = DocumentWork()
        llm = as_llm(FakeLLM(lambda prompt: "x"))
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(work.run("alice", summary_steps(llm, LONG), never)) for _ in range(12)
        ]
        async with all_ended(tasks):
            while work.tasks.num_waiting("alice") != 12 - TASKS_PER_OWNER or work.threads.num_waiting("alice"):
                await asyncio.sleep(0.01)
            small = await work.read("bob", SMALL, "a.txt")
            pdf = await work.read("bob", pdf_of("The contract ends."), "a.pdf")
            counted = await work.compute("bob", lambda: len(SMALL))
            return small, pdf, counted

    small, pdf, counted = asyncio.run(asyncio.wait_for(scenario(), 300))
    assert (small.text, pdf.text, counted) == ("Eleven byte", "The contract ends.", 11)


def test_a_long_text_is_cut_in_turns_with_others() -> None:
    """One step of work each: whoever came later does not wait for the end of the text."""

    async def scenario() -> list[str]:
        work, order = DocumentWork(), list[str]()
        work.threads.num_slots = 1

        def steps(owner: str, count: int) -> Steps[None]:
            for _ in range(count):
                order.append(owner)
                yield PAUSE

        await asyncio.gather(work.run("alice", steps("alice", 100), never), work.run("bob", steps("bob", 3), never))
        return order

    order = asyncio.run(scenario())
    assert order.count("alice") == 100
    assert [place for place, owner in enumerate(order) if owner == "bob"][-1] <= 8


def test_text_needs_neither_a_process_nor_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> Document:
        work = DocumentWork()
        work.parsers.num_slots = work.threads.num_slots = 0
        return await work.read("bob", SMALL, "a.txt")

    assert asyncio.run(scenario()).text == "Eleven byte"


def test_parsers_are_given_out_in_turns_and_nobody_holds_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        work = DocumentWork()
        let_go, begun = asyncio.Event(), list[str]()

        async def parse(data: bytes, name: str, **_: object) -> Document:
            begun.append(name)
            await let_go.wait()
            return Document(name, "text")

        monkeypatch.setattr(document_work, "parse_document_async", parse)
        names = [f"alice{number}" for number in range(20)]
        tasks: list[asyncio.Task[object]] = [
            asyncio.create_task(work.read("alice", pdf_of("x"), name)) for name in names
        ]
        async with all_ended(tasks):
            await asyncio.sleep(0)
            assert begun == names[: work.parsers.per_owner]
            assert work.parsers.per_owner < work.parsers.num_slots
            tasks += [asyncio.create_task(work.read(name, pdf_of("x"), name)) for name in ("bob", "carol")]
            await asyncio.sleep(0)
            assert "bob" in begun  # at once
            let_go.set()
            await asyncio.gather(*tasks)
            assert begun.index("carol") <= work.parsers.num_slots + 2

    asyncio.run(scenario())


def test_too_much_waiting_is_refused_to_its_owner_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        work = DocumentWork()
        work.parsers.num_slots = work.tasks.num_slots = 0

        def steps() -> Steps[None]:
            yield PAUSE

        tasks: list[asyncio.Task[object]] = [
            *(asyncio.create_task(work.read("alice", pdf_of("x"), "a.pdf")) for _ in range(MAX_FILES_WAITING)),
            *(asyncio.create_task(work.run("alice", steps(), never)) for _ in range(MAX_TASKS_WAITING)),
        ]
        async with all_ended(tasks):
            await asyncio.sleep(0)
            with pytest.raises(CapacityError, match=f"{MAX_FILES_WAITING} of your documents wait"):
                await work.read("alice", pdf_of("x"), "a.pdf")
            with pytest.raises(CapacityError, match=f"{MAX_TASKS_WAITING} of your summaries and answers wait"):
                await work.run("alice", steps(), never)
            work.require_task("bob")
            assert (await work.read("alice", SMALL, None)).text == "Eleven byte"
        assert work.parsers.num_waiting("alice") == work.tasks.num_waiting("alice") == 0

    asyncio.run(scenario())


def test_work_in_a_thread_keeps_its_place_until_it_ends() -> None:
    """A thread cannot be stopped: whoever leaves must not make room for one more."""

    async def scenario() -> None:
        work = DocumentWork()
        begun, let_go = threading.Event(), threading.Event()

        def busy() -> None:
            begun.set()
            let_go.wait()

        first = asyncio.create_task(work.compute("alice", busy))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        first.cancel()
        second = asyncio.create_task(work.compute("alice", lambda: "next"))
        await asyncio.sleep(0.05)
        assert not second.done()
        let_go.set()
        assert await second == "next"
        assert first.cancelled()

    asyncio.run(asyncio.wait_for(scenario(), 300))


def test_what_all_parsers_may_take_is_a_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory_gib, num_cores, expected in ((64, 32, 16), (4, 32, 4), (1, 1, 2)):
        monkeypatch.setattr(document_work, "available_bytes", lambda _, size=memory_gib << 30: size)
        monkeypatch.setattr("os.cpu_count", lambda count=num_cores: count)
        work = DocumentWork()
        assert work.parsers.num_slots == expected
        least = 2 * document_work.MIN_PARSER_BYTES
        assert expected * work.parser_bytes <= max(least, document_work.PARSERS_SHARE * (memory_gib << 30))


def test_prompts_of_a_summary_are_their_owner_s_and_patient(
    app_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that is full for the moment does not end the work of hours."""
    model = app_client.app.state.services.registry.find("chat")  # type: ignore[attr-defined]
    generate, asked = model.llm.generate, list[str]()

    async def sometimes_full(*arguments: Any, **options: Any) -> Completion:
        asked.append(options["owner"])
        if len(asked) % 2:
            raise CapacityError("full")
        completion: Completion = await generate(*arguments, **options)
        return completion

    monkeypatch.setattr(model.llm, "generate", sometimes_full)
    monkeypatch.setattr(documents, "RETRY_AFTER_S", 0.01)
    body = {"model": "chat", "text": "The wind blows.", "words": 10}
    assert app_client.post("/api/documents/summary", json=body).status_code == 200
    assert asked == ["local", "local"]


def test_a_file_beyond_the_limit_is_refused_by_its_name() -> None:
    with pytest.raises(DataError, match=r"^a.txt: larger than 32 MiB"):
        asyncio.run(DocumentWork().read("bob", b"x" * (MAX_FILE_BYTES + 1), "a.txt"))
