"""Documents inside messages, through both clients' shapes: what the model reads is the document's text."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.documents.sample_files import docx_of, pdf_of
from tramontane.server.chat.attached import MAX_DOCUMENTS
from tramontane.server.keys import KeyOptions, create_key

WORDS = "The contract ends in March."
AS_TEXT = f'Document "lease.pdf":\n\n{WORDS}\n\n'
QUESTION = {"type": "text", "text": "When does it end?"}


def data_url(data: bytes, mimetype: str = "application/pdf") -> str:
    return f"data:{mimetype};base64,{base64.b64encode(data).decode()}"


PDF = data_url(pdf_of(WORDS))


def ask(client: TestClient, *chunks: dict[str, Any], role: str = "user", **options: Any) -> Any:
    messages = [{"role": role, "content": list(chunks)}]
    if role != "user":
        messages.append({"role": "user", "content": "Well?"})
    body = {"model": "chat", "messages": messages, "max_tokens": 4, "temperature": 0}
    return client.post("/v1/chat/completions", json=body, **options)


def upload(client: TestClient, name: str, data: bytes, **options: Any) -> str:
    form = {"file": (name, data)}
    answer = client.post("/v1/files", files=form, data={"purpose": "ocr"}, **options)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def test_every_way_to_give_a_document_reads_the_same(app_client: TestClient) -> None:
    expected = ask(app_client, {"type": "text", "text": AS_TEXT}, QUESTION).json()
    file_id = upload(app_client, "lease.pdf", pdf_of(WORDS))
    for chunk in (
        {"type": "document_url", "document_url": PDF, "document_name": "lease.pdf"},
        {"type": "file", "file_id": file_id},
        {"type": "file", "file": {"file_id": file_id}},
        {"type": "file", "file": {"file_data": PDF, "filename": "lease.pdf"}},
    ):
        answer = ask(app_client, chunk, QUESTION)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"] == expected["choices"]
        assert answer.json()["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


def test_responses_read_files_too(app_client: TestClient) -> None:
    def respond(*parts: dict[str, Any]) -> dict[str, Any]:
        body = {"model": "chat", "input": [{"role": "user", "content": list(parts)}], "max_output_tokens": 16}
        answer = app_client.post("/v1/responses", json=body | {"temperature": 0})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    question = {"type": "input_text", "text": "When does it end?"}
    file_id = upload(app_client, "lease.pdf", pdf_of(WORDS))
    plain = respond({"type": "input_text", "text": AS_TEXT}, question)
    for part in (
        {"type": "input_file", "file_data": PDF, "filename": "lease.pdf"},
        {"type": "input_file", "file_url": PDF, "filename": "lease.pdf"},
        {"type": "input_file", "file_id": file_id},
    ):
        assert respond(part, question)["usage"]["input_tokens"] == pytest.approx(plain["usage"]["input_tokens"], abs=4)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.txt", WORDS.encode()), ("a.docx", docx_of("T", WORDS)), ("a.md", f"# T\n\n{WORDS}".encode())],
)
def test_kinds_and_roles(app_client: TestClient, name: str, data: bytes) -> None:
    chunk = {"type": "file", "file_id": upload(app_client, name, data)}
    assert ask(app_client, chunk, role="system").status_code == 200
    refused = ask(app_client, chunk, role="assistant")
    assert (refused.status_code, refused.json()["param"]) == (400, "messages.0.content")


@pytest.mark.parametrize(
    ("chunk", "status", "words"),
    [
        ({"type": "document_url", "document_url": "http://127.0.0.1/secret"}, 400, "not from other addresses"),
        ({"type": "document_url", "document_url": "https://example.com/a.pdf"}, 400, "not from other addresses"),
        ({"type": "document_url", "document_url": "file:///etc/passwd"}, 400, "not from other addresses"),
        ({"type": "document_url", "document_url": "data:application/pdf;base64,@@@"}, 400, "not base64"),
        ({"type": "document_url", "document_url": data_url(b"%PDF-1.4 nothing")}, 400, "document: "),
        ({"type": "document_url", "document_url": data_url(b"  ", "text/plain")}, 400, "holds no text"),
        ({"type": "file", "file_id": "00000000-0000-0000-0000-000000000000"}, 404, "does not exist"),
        ({"type": "file", "file_id": "../../etc/passwd"}, 404, "does not exist"),
        ({"type": "file"}, 422, "give one of"),
        ({"type": "file", "file_id": "a", "file": {"file_data": "b"}}, 422, "give one of"),
        ({"type": "image_url", "image_url": PDF}, 400, "image_url cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    app_client: TestClient, chunk: dict[str, Any], status: int, words: str
) -> None:
    answer = ask(app_client, chunk, QUESTION)
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert "\n" not in str(answer.json().get("message", ""))


def test_so_many_documents_at_once(app_client: TestClient) -> None:
    chunk = {"type": "document_url", "document_url": data_url(b"a", "text/plain")}
    assert ask(app_client, *[chunk] * MAX_DOCUMENTS).status_code == 200
    assert ask(app_client, *[chunk] * (MAX_DOCUMENTS + 1)).status_code == 400


def test_a_file_is_read_by_its_owner_and_by_keys_that_may(app_client: TestClient) -> None:
    database = app_client.app.state.services.database  # type: ignore[attr-defined]

    def key(name: str, owner: str, *scopes: str) -> dict[str, Any]:
        token = create_key(database, KeyOptions(name, owner=owner, scopes=frozenset(scopes)))[1]
        return {"headers": {"authorization": f"Bearer {token}"}}

    alice = key("a", "alice", "inference", "files")
    chunk = {"type": "file", "file_id": upload(app_client, "a.txt", WORDS.encode(), **alice)}
    assert ask(app_client, chunk, **alice).status_code == 200
    assert ask(app_client, chunk, **key("b", "alice", "inference")).status_code == 403
    assert ask(app_client, chunk, **key("c", "bob", "inference", "files")).status_code == 404
