"""A stream whose document takes long to read: its client hears that it is being waited for, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from mistralai.client import Mistral

from tests.documents.sample_files import pdf_of
from tests.server.in_process import serving
from tramontane.server import endpoint
from tramontane.server import stream as stream_module
from tramontane.server.body_budget import BodyBudget
from tramontane.server.document_work import DocumentWork


def data_url(data: bytes) -> str:
    return f"data:application/pdf;base64,{base64.b64encode(data).decode()}"


PDF = data_url(pdf_of("The contract ends in March."))


@pytest.fixture
def slow_client(checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Every document takes ten times as long as a stream may be silent."""
    read = DocumentWork.read

    async def slowly(*arguments: Any) -> Any:
        await asyncio.sleep(1)
        return await read(*arguments)

    monkeypatch.setattr(DocumentWork, "read", slowly)
    for module in (endpoint, stream_module):
        monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.1)
    with serving({"chat": checkpoints["chat"]}, tmp_path) as client:
        yield client


def chat_of(url: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "document_url", "document_url": url}]
    return {"model": "chat", "messages": [{"role": "user", "content": content}], "max_tokens": 4, **fields}


def test_a_stream_is_not_silent_while_its_document_is_read(slow_client: TestClient) -> None:
    """Proxies cut connections that say nothing for a minute."""
    answer = slow_client.post("/v1/chat/completions", json=chat_of(PDF, stream=True, max_tokens=5000))
    assert answer.status_code == 200
    lines = answer.text.split("\n\n")
    first = next(place for place, line in enumerate(lines) if line.startswith("data: "))
    assert lines[:first].count(": keep-alive") >= 2
    assert ": x-changed-fields: max_tokens" in lines[:first]  # too late for a header
    assert lines[-2] == "data: [DONE]"


def test_a_body_counts_as_long_as_its_documents_are_read(slow_client: TestClient) -> None:
    """Though the stream has long begun to say that it waits."""
    budget: BodyBudget = slow_client.app.state.services.body_budget  # type: ignore[attr-defined]
    held: list[int] = []
    read = DocumentWork.read

    async def seen(*arguments: Any) -> Any:
        document = await read(*arguments)
        held.append(budget.held_bytes)
        return document

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DocumentWork, "read", seen)
        body = json.dumps(chat_of(PDF, stream=True))
        answer = slow_client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.text.startswith(": keep-alive")
    assert held == [len(body)]
    assert budget.held_bytes == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_document_that_cannot_be_read_ends_such_a_stream(slow_client: TestClient, path: str) -> None:
    body = chat_of(data_url(b"%PDF-1.4 nothing"), stream=True)
    if path == "/v1/responses":
        part = {"type": "input_file", "file_data": data_url(b"%PDF-1.4 nothing"), "filename": "a.pdf"}
        body = {"model": "chat", "input": [{"role": "user", "content": [part]}], "stream": True}
    lines = slow_client.post(path, json=body).text.split("\n\n")
    last = lines[-2]
    assert last.startswith("event: error\ndata: ")
    told = json.loads(last.partition("data: ")[2])
    assert "damaged" in told["error"]["message"]
    assert (told["type"], told["message"]) == ("error", told["error"]["message"])


def test_clients_read_such_an_end_as_a_failure(slow_client: TestClient) -> None:
    body = chat_of(data_url(b"%PDF-1.4 nothing"))
    gpt = openai.OpenAI(base_url="http://localhost/v1", api_key="-", http_client=slow_client, max_retries=0)
    stream = gpt.chat.completions.create(**body, stream=True)
    with pytest.raises(openai.APIError, match="damaged"):
        list(stream)
    mistral = Mistral(api_key="-", server_url="http://localhost", client=slow_client)
    chunks = list(mistral.chat.stream(**body))
    assert chunks[-1].data.choices[0].finish_reason == "error"
