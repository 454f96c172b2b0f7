"""/api/documents: files into text, summaries of any length, answers with their passages. Nothing is kept here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from tramontane.documents import Document
from tramontane.documents.answer import answer_steps
from tramontane.documents.split import windows
from tramontane.documents.steps import Ask, Steps
from tramontane.documents.summary import summary_steps
from tramontane.errors import CapacityError, DataError
from tramontane.llm import Completion
from tramontane.server.auth import Caller, authorize
from tramontane.server.document_work import MAX_FILE_BYTES
from tramontane.server.endpoint import Call, ClientGoneError, Endpoint, unless_disconnected
from tramontane.server.errors import CLIENT_GONE, RETRY_AFTER_S, ApiError, as_api_error
from tramontane.server.models import ServedModel
from tramontane.server.schema.documents import AnswerRequest, SummaryRequest
from tramontane.server.services import Services, ServicesDep
from tramontane.server.stream import typed_event
from tramontane.tasks import cancelled, gathered

FORM_BYTES = 64 << 10  # for what surrounds the file in a form
Result = TypeVar("Result")

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
) -> Any:
    """Without `model`, `num_tokens` and `reach`, how many tokens of a prompt its answers can depend on, are null."""
    num_bytes = required_length(request)
    with services.body_budget.held(caller.owner) as share:
        share.grow_to(num_bytes)
        return await _text_of_form(request, services, caller)


async def _text_of_form(request: Request, services: Services, caller: Caller) -> Any:
    async with request.form(max_files=1, max_fields=1, max_part_size=FORM_BYTES) as form:
        upload, model_name = form.get("file"), form.get("model")
        if not isinstance(upload, UploadFile):
            raise ApiError(422, "the form lacks a file", param="file")
        model = services.registry.resolve(model_name, caller.owner) if isinstance(model_name, str) else None
        data, name = await upload.read(), upload.filename

    try:
        document, num_tokens = await unless_disconnected(request, _read(services, caller, data, name, model))
    except DataError as error:
        raise ApiError(400, str(error), param="file") from None
    except ClientGoneError:
        return Response(status_code=CLIENT_GONE)
    return {
        "object": "document",
        "name": document.name,
        "text": document.text,
        "num_tokens": num_tokens,
        "reach": None if model is None else model.llm.reach,
    }


async def _read(
    services: Services, caller: Caller, data: bytes, name: str | None, model: ServedModel | None
) -> tuple[Document, int | None]:
    document = await services.document_work.read(caller.owner, data, name)
    if model is None:
        return document, None
    num_tokens = 0
    for window in windows(document.text):  # a whole book in one call would hold up others
        encode = partial(model.llm.tokenizer.encode, window.text)
        num_tokens += len(await services.document_work.compute(caller.owner, encode))
    return document, num_tokens


def required_length(request: Request) -> int:
    """Of the body, before any of it is read: the server takes no more than what the header says."""
    length = request.headers.get("content-length")
    if length is None:
        raise ApiError(411, "the request lacks a content-length")
    if not length.isdigit() or int(length) > MAX_FILE_BYTES + FORM_BYTES:
        raise ApiError(413, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB; split it first", param="file")
    return int(length)


async def _summary(call: Call, body: SummaryRequest, model: ServedModel, progress: Progress) -> dict[str, Any]:
    steps = summary_steps(model.llm, body.text, num_words=body.words, progress=progress)
    found = await _run(call, model, steps)
    return {"text": found.text, "num_parts": found.num_parts, "num_passes": found.num_passes}


async def _answer(call: Call, body: AnswerRequest, model: ServedModel, progress: Progress) -> dict[str, Any]:
    found = await _run(call, model, answer_steps(model.llm, body.text, body.question, num_passages=body.passages))
    passages = [{"start": p.start, "text": p.text, "score": p.score} for p in found.passages]
    return {"text": found.text, "passages": passages, "cited": list(found.cited)}


async def _run(call: Call, model: ServedModel, steps: Steps[Result]) -> Result:
    return await call.services.document_work.run(call.caller.owner, steps, lambda ask: _asked(call, model, ask))


async def _asked(call: Call, model: ServedModel, ask: Ask) -> list[Completion]:
    """What the model answers to each prompt. Raises what AsyncLLM.generate raises, for the first that fails."""

    async def answered(prompt: Sequence[int]) -> Completion:
        while True:
            try:
                return await model.llm.generate(
                    prompt,
                    ask.sampling,
                    priority=call.priority,
                    owner=call.caller.owner,
                    salt=call.caller.salt,
                    adapter=model.adapter,
                    meter=call,
                )
            except CapacityError:  # the work of hours does not end because others came first
                await asyncio.sleep(RETRY_AFTER_S)

    completions = await gathered(answered(prompt) for prompt in ask.prompts)
    for completion in completions:
        call.count(completion)
    return completions


Work = Callable[[Call, Any, ServedModel, Progress], Awaitable[dict[str, Any]]]


def whole(work: Work) -> Callable[[Call, Any], Any]:
    """An Endpoint's `answer` that does `work` and gives what it found."""

    async def answer(call: Call, body: SummaryRequest | AnswerRequest) -> dict[str, Any]:
        model = call.use(body.model)
        found = await work(call, body, model, lambda *_: None)
        return {"object": "document.answer", "model": model.name, **found, "usage": call.usage}

    return answer


def streamed(work: Work) -> Callable[[Call, Any], Any]:
    """An Endpoint's `stream`: events of type progress, then one of type result, or error."""

    async def stream(call: Call, body: SummaryRequest | AnswerRequest) -> AsyncGenerator[bytes]:
        model = call.use(body.model)
        call.services.document_work.require_task(call.caller.owner)  # while there still is a status to say so
        return _events(call, lambda progress: work(call, body, model, progress))

    return stream


async def _events(call: Call, work: Callable[[Progress], Awaitable[dict[str, Any]]]) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def report(number: int, done: int, total: int) -> None:
        fields = {"type": "progress", "pass": number, "done": done, "total": total}
        loop.call_soon_threadsafe(news.put_nowait, fields)

    async def run() -> None:
        try:
            await news.put({"type": "result", **await work(report), "usage": call.usage})
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
        await cancelled(task)


Endpoint(
    "/api/documents/summary", SummaryRequest, whole(_summary), streamed(_summary),
    summary="Summarize a text of any length", tag="documents",
).add_to(router)  # fmt: skip
Endpoint(
    "/api/documents/answer", AnswerRequest, whole(_answer), streamed(_answer),
    summary="Answer a question from the passages of a text that fit it best", tag="documents",
).add_to(router)  # fmt: skip
