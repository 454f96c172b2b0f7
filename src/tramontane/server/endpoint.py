"""Endpoint: a POST route that a model answers, whole or streamed, over HTTP or inside the process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from tramontane.engine.request import Usage
from tramontane.engine.sampling import SamplingParams
from tramontane.errors import ContextLengthError
from tramontane.llm import Completion
from tramontane.llm.async_llm import Stream
from tramontane.llm.prompt import Prompt
from tramontane.server.auth import Caller, authorize
from tramontane.server.dialect import Dialect, dialect_of, is_mistral_client
from tramontane.server.errors import CLIENT_GONE, ApiError, as_api_error
from tramontane.server.guard import REQUEST_ID
from tramontane.server.idempotency.once import AnsweredError, KeyedRequest
from tramontane.server.idempotency.records import Mark, unmarked
from tramontane.server.models import ServedModel
from tramontane.server.notes import Notes, header_text
from tramontane.server.request_record import RequestRecord
from tramontane.server.schema.base import Body, read_json, validate, validate_sent
from tramontane.server.services import Services, ServicesDep
from tramontane.server.stream import KEEP_ALIVE_S, EventStream, comment, failure_event
from tramontane.tasks import cancelled

log = logging.getLogger(__name__)
Result = TypeVar("Result")

SERVED_MODEL = "x-served-model"
PROMPTS = ("messages", "input", "prompt")  # of /v1/responses, prompt is something else


@dataclass(slots=True, eq=False)
class Call:
    """One request while it is answered, and what it has used so far: a Meter of what it asks of engines."""

    services: Services
    caller: Caller
    endpoint: str
    dialect: Dialect
    priority: int = 0  # of the engine: higher waits for lower
    is_strict: bool = False  # what would be bent or left out is refused
    notes: Notes = field(default_factory=Notes)
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    started: float = field(default_factory=time.perf_counter)
    model: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    keyed: KeyedRequest | None = None  # for routes that keep what they make
    mark: Mark = unmarked  # for what is kept
    failed_with: int | None = None  # status of what ended a stream midway
    requests: list[Usage] = field(default_factory=list)  # of the engine, whatever became of them
    held: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    """What is let go of at the end. A generator of events that was never begun has no end of its own."""

    def use(self, name: str) -> ServedModel:
        """The model a body names. Raises ApiError 400 if there is none."""
        model = self.services.registry.resolve(name, self.caller.owner)
        self.model = model.name
        return model

    async def start(self, model: ServedModel, prompt: Prompt, params: SamplingParams) -> Stream:
        """Queue a prompt. A max_tokens beyond the context means its rest, unless the server is strict; raises
        ContextLengthError for a prompt that leaves no room, and as AsyncLLM.start does."""
        room = model.llm.max_seq_len - len(prompt.token_ids)
        if params.max_tokens is not None and 0 < room < params.max_tokens and not self.services.settings.strict:
            self.notes.changed.add("max_tokens")
            params = dataclasses.replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))
        stream = await model.start(
            prompt, params, owner=self.caller.owner, salt=self.caller.salt, priority=self.priority, meter=self
        )
        self.held.push_async_callback(stream.aclose)
        return stream

    def begin(self, usage: Usage) -> None:
        self.requests.append(usage)

    def charge(self, num_tokens: int) -> None:
        """Take tokens from what the key may use a minute, as they are computed."""
        self.services.gate.limits.charge(self.caller.key_id, num_tokens)

    def count_prompt(self, answered: Completion | Stream) -> None:
        """Add what a prompt has used, once it is answered."""
        self.prompt_tokens += len(answered.prompt_token_ids)
        self.cached_tokens += answered.num_cached_tokens

    def count(self, completion: Completion) -> None:
        """Add what a whole answer has used."""
        self.count_prompt(completion)
        self.completion_tokens += sum(len(choice.token_ids) for choice in completion.choices)

    def saw_token(self) -> None:
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter() - self.started

    def fail(self, error: Exception) -> ApiError:
        """What a stream that `error` ends midway says of it."""
        failure = as_api_error(error)
        self.failed_with = failure.status
        if not isinstance(error, ApiError):
            log.error("request %s to %s failed in mid-stream", self.request_id, self.endpoint, exc_info=error)
        return failure

    @property
    def usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    @property
    def headers(self) -> dict[str, str]:
        """Of an answer: which model gave it, whatever the name it was asked by, and what was not done as asked."""
        return {SERVED_MODEL: header_text(self.model), **self.notes.headers}

    async def end(self, status: int) -> None:
        """Stop what still runs for the request, and record all that it took."""
        try:
            await self.held.aclose()
        finally:
            self.record(status)

    def record(self, status: int) -> None:
        """Tell the observers that the request is over, and what it took, seen by the client or not."""
        self.services.observe(
            RequestRecord(
                endpoint=self.endpoint,
                model=self.model,
                key_id=self.caller.key_id,
                owner=self.caller.owner,
                status=status,
                prompt_tokens=sum(usage.num_prompt_tokens for usage in self.requests),
                cached_tokens=sum(usage.num_cached_tokens for usage in self.requests),
                completion_tokens=sum(usage.num_generated_tokens for usage in self.requests),
                first_token_s=self.first_token_s,
                duration_s=time.perf_counter() - self.started,
                request_id=self.request_id,
            )
        )


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[Body]):
    """`answer` gives the whole answer; `stream`, where there is one, returns once the request is queued and gives the
    events. Both raise the errors of `as_api_error` for what cannot be served."""

    path: str
    body: type[Body]
    answer: Callable[[Call, Body], Awaitable[dict[str, Any]]]
    stream: Callable[[Call, Body], Awaitable[AsyncGenerator[bytes]]] | None = None
    response: type[BaseModel] | None = None
    summary: str = ""
    tag: str = "inference"

    async def run(self, call: Call, data: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a body that is not to be streamed."""
        body = validate(self.body, data, notes=None if call.is_strict else call.notes)
        if getattr(body, "stream", False):
            raise ApiError(400, "stream must be false here", param="stream")
        return await self.answer(call, body)

    async def respond(self, request: Request, call: Call) -> Response:
        status = 500
        is_streaming = False
        try:
            with ExitStack() as held:
                share = held.enter_context(call.services.body_budget.held(call.caller.owner))
                data = await read_json(request, share)
                call.keyed = KeyedRequest.of(request, call.caller)
                call.dialect = dialect_of(request, data, call.dialect)
                call.is_strict = call.is_strict or is_mistral_client(request)
                body = await validate_sent(request, self.body, data, notes=None if call.is_strict else call.notes)
                if self.stream is not None and getattr(body, "stream", False):
                    events = await begun(request, call, self.stream(call, body), held)
                    response = EventStream(
                        events,
                        lambda whole: call.end(call.failed_with or (200 if whole else CLIENT_GONE)),
                        call.headers,
                    )
                    is_streaming = True
                    return response
                answer = await unless_disconnected(request, self.answer(call, body))
            status = 200
            return JSONResponse(answer, headers=call.headers)
        except AnsweredError as answered:
            status = answered.response.status_code
            return answered.response
        except ClientGoneError:
            status = CLIENT_GONE
            return Response(status_code=status)
        except Exception as error:
            failure = self.failure(error)
            status = failure.status
            if status >= 500 and not isinstance(error, ApiError):
                log.error("request %s to %s failed", call.request_id, self.path, exc_info=error)
            error.__traceback__ = None  # its frames hold the body and, in a circle, the error
            return failure.response()
        finally:
            if not is_streaming:
                await call.end(status)

    def failure(self, error: BaseException) -> ApiError:
        """As `as_api_error`; what is too long is the field that holds the prompt."""
        failure = as_api_error(error)
        if isinstance(error, ContextLengthError):
            failure.param = next((name for name in PROMPTS if name in self.body.model_fields), None)
        return failure

    def add_to(self, router: APIRouter) -> None:
        async def route(
            request: Request, services: ServicesDep, caller: Annotated[Caller, Depends(authorize("inference"))]
        ) -> Response:
            settings = services.settings
            call = Call(
                services,
                caller,
                self.path,
                settings.dialect,
                is_strict=settings.strict,
                request_id=request.scope[REQUEST_ID],
            )
            return await self.respond(request, call)

        ENDPOINTS[self.path] = self
        schema = {"$ref": f"#/components/schemas/{self.body.__name__}"}
        BODIES[self.body.__name__] = self.body
        router.add_api_route(
            self.path,
            route,
            methods=["POST"],
            summary=self.summary,
            tags=[self.tag],
            response_class=JSONResponse,
            responses={200: {"model": self.response}} if self.response else None,
            openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
        )


ENDPOINTS: dict[str, Endpoint[Any]] = {}
"""By path; filled when the routes are imported."""

BODIES: dict[str, type[BaseModel]] = {}
"""Request bodies by name, for the OpenAPI schema."""


async def begun(
    request: Request, call: Call, stream: Awaitable[AsyncGenerator[bytes]], held: ExitStack
) -> AsyncGenerator[bytes]:
    """The events of `stream`, which gives them once its request is queued. Where that takes longer than proxies and
    clients should hear nothing (documents are parsed, and wait their turn), they are told to wait from then on, an
    error is an event, and what is `held` for the request stays so until it is queued. Raises ClientGoneError, and what
    `stream` raises before."""
    start = asyncio.ensure_future(stream)
    call.held.push_async_callback(cancelled, start)
    try:
        await unless_disconnected(request, asyncio.wait((start,), timeout=KEEP_ALIVE_S))
    except BaseException:
        if not start.done():
            raise
    if start.done():
        return start.result()
    kept = held.pop_all()
    start.add_done_callback(lambda _: kept.close())
    return _late_events(call, start)


async def _late_events(call: Call, start: asyncio.Future[AsyncGenerator[bytes]]) -> AsyncGenerator[bytes]:
    events: AsyncGenerator[bytes] | None = None
    try:
        events = await start
        if call.notes.headers:  # the head of the response is gone
            yield comment("; ".join(f"{name}: {value}" for name, value in call.notes.headers.items()))
        async for data in events:
            yield data
    except Exception as error:
        yield failure_event(call.request_id, call.model, call.fail(error).error)
    finally:
        if events is not None:
            await events.aclose()


class ClientGoneError(Exception):
    """The client closed its connection before the answer was ready."""


async def unless_disconnected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the client goes. Raises ClientGoneError then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        await cancelled(task, gone)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
