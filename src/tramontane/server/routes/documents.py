"""/api/documents: files into text, summaries of any length, answers with their passages. Nothing is kept here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import UploadFile

from tramontane.documents import Document, answer_question, summarize
from tramontane.errors import DataError
from tramontane.server.auth import Caller, authorize
from tramontane.server.document_text import MAX_FILE_BYTES, read_sent
from tramontane.server.endpoint import Call, Endpoint
from tramontane.server.errors import ApiError, as_api_error
from tramontane.server.schema.documents import AnswerRequest, SummaryRequest
from tramontane.server.services import ServicesDep
from tramontane.server.stream import typed_event
from tramontane.server.waiting_llm import WaitingLLM, in_thread

FORM_BYTES = 64 << 10  # for what surrounds the file in a form

router = APIRouter()
log = logging.getLogger(__name__)

Progress = Callable[[int, int, int], None]
"""Called with (pass, parts done, parts of this pass), from any thread."""


@router.post(
    "/api/documents/text",
    summary="The text of a file (txt, md, html, pdf, docx), and its length in tokens of a model",
    tags=["documents"],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {"file": {"type": "string", "format": "binary"}, "model": {"type": "string"}},
                    }
                }
            },
        }
    },
)
async def text(
    request: Request, services: ServicesDep, caller: Annotated[Caller, Depends(authorize("inference"))]
) -> dict[str, Any]:
    """Without `model`, `num_tokens` and `reach`, how many tokens of a prompt its answers can depend on, are null."""
    require_small(request)
    async with request.form(max_files=1, max_fields=1, max_part_size=FORM_BYTES) as form:
        upload, model_name = form.get("file"), form.get("model")
        if not isinstance(upload, UploadFile):
            raise ApiError(422, "the form lacks a file", param="file")
        model = services.registry.resolve(model_name, caller.owner) if isinstance(model_name, str) else None
        data, name = await upload.read(), upload.filename

    def read() -> tuple[Document, int | None]:
        found = read_sent(data, name)
        return found, None if model is None else len(model.llm.tokenizer.encode(found.text))

    try:
        document, num_tokens = await in_thread(read)
    except DataError as error:
        raise ApiError(400, str(error), param="file") from None
    return {
        "object": "document",
        "name": document.name,
        "text": document.text,
        "num_tokens": num_tokens,
        "reach": None if model is None else model.llm.reach,
    }


def require_small(request: Request) -> None:
    """Before any of it is read: the server takes no more than what the header says."""
    length = request.headers.get("content-length")
    if length is None:
        raise ApiError(411, "the request lacks a content-length")
    if not length.isdigit() or int(length) > MAX_FILE_BYTES + FORM_BYTES:
        raise ApiError(413, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB; split it first", param="file")


def _summary(call: Call, body: SummaryRequest, llm: WaitingLLM, progress: Progress) -> dict[str, Any]:
    found = summarize(llm, body.text, num_words=body.words, progress=progress)
    return {"text": found.text, "num_parts": found.num_parts, "num_passes": found.num_passes}


def _answer(call: Call, body: AnswerRequest, llm: WaitingLLM, progress: Progress) -> dict[str, Any]:
    found = answer_question(llm, body.text, body.question, num_passages=body.passages)
    passages = [{"start": p.start, "text": p.text, "score": p.score} for p in found.passages]
    return {"text": found.text, "passages": passages, "cited": list(found.cited)}


Work = Callable[[Call, Any, WaitingLLM, Progress], dict[str, Any]]


def whole(work: Work) -> Callable[[Call, Any], Any]:
    """An Endpoint's `answer` that does `work` and gives what it found."""

    async def answer(call: Call, body: SummaryRequest | AnswerRequest) -> dict[str, Any]:
        model = call.use(body.model)
        llm = WaitingLLM(model.llm, adapter=model.adapter, salt=call.caller.salt, on_completion=call.count)
        try:
            found = await in_thread(lambda: work(call, body, llm, lambda *_: None))
        finally:
            llm.close()
        return {"object": "document.answer", "model": model.name, **found, "usage": call.usage}

    return answer


def streamed(work: Work) -> Callable[[Call, Any], Any]:
    """An Endpoint's `stream`: events of type progress, then one of type result, or error."""

    async def stream(call: Call, body: SummaryRequest | AnswerRequest) -> AsyncGenerator[bytes]:
        model = call.use(body.model)
        llm = WaitingLLM(model.llm, adapter=model.adapter, salt=call.caller.salt, on_completion=call.count)
        return _events(call, llm, lambda progress: work(call, body, llm, progress))

    return stream


async def _events(call: Call, llm: WaitingLLM, work: Callable[[Progress], dict[str, Any]]) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def report(number: int, done: int, total: int) -> None:
        fields = {"type": "progress", "pass": number, "done": done, "total": total}
        loop.call_soon_threadsafe(news.put_nowait, fields)

    async def run() -> None:
        try:
            await news.put({"type": "result", **await in_thread(lambda: work(report)), "usage": call.usage})
        except Exception as error:
            failure = as_api_error(error)
            if failure.status >= 500 and not isinstance(error, ApiError):
                log.error("request %s failed in mid-stream", call.request_id, exc_info=error)
            await news.put({"type": "error", "error": failure.error})

    task = asyncio.ensure_future(run())
    try:
        while True:
            item = await news.get()
            yield typed_event(item)
            if item["type"] != "progress":
                return
    finally:
        llm.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


Endpoint(
    "/api/documents/summary", SummaryRequest, whole(_summary), streamed(_summary),
    summary="Summarize a text of any length", tag="documents",
).add_to(router)  # fmt: skip
Endpoint(
    "/api/documents/answer", AnswerRequest, whole(_answer), streamed(_answer),
    summary="Answer a question from the passages of a text that fit it best", tag="documents",
).add_to(router)  # fmt: skip
