"""ApiModel: the rules every request body keeps to, and how one is read."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import jiter
from fastapi import Request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.config import ExtraValues
from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator

from tramontane.server.errors import MAX_ECHO_CHARS, ApiError, shortened
from tramontane.server.guard import BOUNDS, CONTENT_DIGEST, KEY_HEADER
from tramontane.server.notes import Notes
from tramontane.server.validation import Wrong, validation_error

if TYPE_CHECKING:  # these lead to the models, which lead here
    from tramontane.server.auth import Caller
    from tramontane.server.body_bounds import BodyBounds
    from tramontane.server.body_budget import BodyShare

Body = TypeVar("Body", bound="ApiModel")
MAX_FIELDS = 512
"""Of one object, known and unknown: more are refused before any is looked at."""
FEW_VALUES = 4_000
"""In a body whose every error is found: some 10 ms of work where all are wrong."""
LONG_BODY_BYTES = 256 * 1024
LONG_CHECK_BYTES = 32 * 1024
"""Of small objects, some 10 ms to check."""
DUPLICATE = re.compile(r"Detected duplicate key (.*) (at line \d+ column \d+)\Z", re.DOTALL)


def _stop_at_first(schema: Any) -> None:
    if isinstance(schema, list | tuple):
        for part in schema:
            _stop_at_first(part)
    elif isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _stop_at_first(part)


class ApiModel(BaseModel):
    """A closed object of exact types: an unknown field is an error, and so is "1" for 1. A null says what leaving the
    field out says, as clients mean it that write every field they have."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Of a list, the first wrong entry ends the check, however many there are. `_every_error` goes on."""
        schema = handler(source)
        _stop_at_first(schema)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", f"Object should have at most {MAX_FIELDS} fields")
        if not isinstance(data, dict) or all(value is not None for value in data.values()):
            return data
        return {name: value for name, value in data.items() if value is not None or name not in _never_null(cls)}


@cache
def _never_null(kind: type[BaseModel]) -> frozenset[str]:
    """Fields that may be left out and have no null of their own."""
    return frozenset(
        field.alias or name
        for name, field in kind.model_fields.items()
        if not field.is_required() and type(None) not in (field.annotation, *get_args(field.annotation))
    )


def at_most(count: int, what: str) -> BeforeValidator:
    """Of an object with names of the client's own: how many it may have, looked at before any of them."""

    def checked(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            raise PydanticCustomError("too_long", f"Object should have at most {count} {what}, not {len(value)}")
        return value

    return BeforeValidator(checked)


def _has_short_texts(value: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(text, str) and len(text) > MAX_METADATA_CHARS for text in value.values()):
        raise PydanticCustomError("too_long", f"Texts should have at most {MAX_METADATA_CHARS} characters")
    return value


MAX_METADATA = 16
MAX_METADATA_CHARS = 512
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Any],
    at_most(MAX_METADATA, "pairs"),
    AfterValidator(_has_short_texts),
]
"""What a client keeps beside a request: as much as OpenAI's API takes of it."""


def validate(kind: type[Body], data: Any, *, notes: Notes | None = None) -> Body:
    """With `notes`, unknown fields are left out and named there instead of being errors. Raises ApiError 422 naming
    the fields that are wrong: all of them up to MAX_ERRORS, and of lists in long bodies the first."""
    extra: ExtraValues | None = None if notes is None else "allow"
    try:
        body = kind.model_validate(data, extra=extra)
    except ValidationError as error:
        errors = _every_error(kind, data, extra) if _has_few_values(data) else error.errors(include_url=False)
        raise validation_error(errors, data, prefix=("body",)) from None
    if notes is not None:
        notes.ignored |= set(_taken_out(body, ""))
    return body


def _every_error(kind: type[BaseModel], data: Any, extra: ExtraValues | None) -> Sequence[Wrong]:
    """Of data that is known to be wrong."""
    try:
        _thorough(kind).validate_python(data, extra=extra)
    except ValidationError as error:
        return error.errors(include_url=False)
    raise RuntimeError(f"{kind.__name__}: wrong as far as the first error, and right beyond")


@cache
def _thorough(kind: type[BaseModel]) -> SchemaValidator:
    return SchemaValidator(_without_stops(kind.__pydantic_core_schema__))


def _without_stops(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return type(schema)(map(_without_stops, schema))
    if isinstance(schema, dict):
        return {name: _without_stops(part) for name, part in schema.items() if name != "fail_fast"}
    return schema


def _has_few_values(data: Any) -> bool:
    left = FEW_VALUES
    inner = [data]
    while inner and left >= 0:
        value = inner.pop()
        if isinstance(value, dict | list):
            left -= len(value)
            inner.extend((value.values() if isinstance(value, dict) else value) if left >= 0 else ())
    return left >= 0


async def validate_sent(
    request: Request, kind: type[Body], data: Mapping[str, Any], *, notes: Notes | None = None
) -> Body:
    """As `validate`; of a long body on another thread, so that others are answered meanwhile."""
    if int(request.headers.get("content-length") or LONG_CHECK_BYTES) < LONG_CHECK_BYTES:
        return validate(kind, data, notes=notes)
    return await asyncio.to_thread(validate, kind, data, notes=notes)


def _taken_out(value: Any, place: str) -> Iterator[str]:
    """Take the unknown fields out of `value`; yields the names of those that said anything."""
    if isinstance(value, list):
        for entry in value:
            yield from _taken_out(entry, place)
    elif isinstance(value, BaseModel) and value.model_config.get("extra") != "allow":
        for name, given in (value.model_extra or {}).items():
            if given not in (None, [], {}):
                yield f"{place}{name}"
        if value.model_extra:
            value.model_extra.clear()
        for name, field in value:
            yield from _taken_out(field, f"{place}{name}.")


@asynccontextmanager
async def json_body(request: Request, caller: Caller) -> AsyncIterator[Mapping[str, Any]]:
    """The object in a request's body, whose bytes count as the caller's until the end of the block.

    Raises ApiError 415 for another content type, 429 where too many bytes are held already, 413 or 400 for more than
    any valid body has in it, 400 for what is no JSON object (NaN, infinities, deep nesting and names given twice
    included).
    """
    services = request.app.state.services
    with services.body_budget.held(caller.owner) as share:
        yield await read_json(request, share)


async def read_json(request: Request, share: BodyShare) -> Mapping[str, Any]:
    """As `json_body`; `share` grows by what is read."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(415, f"content type {content_type or 'missing'}: send application/json")
    body = await _received(request, share)
    if KEY_HEADER in request.headers:
        request.scope[CONTENT_DIGEST] = hashlib.sha256(body).digest()
    bounds: BodyBounds = request.scope[BOUNDS]
    if len(body) > LONG_BODY_BYTES:
        await asyncio.to_thread(bounds.check, body)
    else:
        bounds.check(body)
    return parse_json(body)


def parse_json(body: bytes) -> Mapping[str, Any]:
    """The object in JSON of any origin. Raises ApiError as `json_body` does."""
    try:
        data = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise ApiError(400, _not_json(str(error))) from None
    if not isinstance(data, dict):
        raise ApiError(422, "the body must be a JSON object", detail=[_not_an_object(data)])
    return data


async def _received(request: Request, share: BodyShare) -> bytes:
    share.grow_to(int(request.headers.get("content-length") or 0))
    body = io.BytesIO()  # whose bytes are given out as they lie
    async for chunk in request.stream():
        share.grow_to(body.tell() + len(chunk))
        body.write(chunk)
    return body.getvalue()


def _not_json(reason: str) -> str:
    found = DUPLICATE.match(reason)
    if found is None:
        return f"the body is not valid JSON: {reason}"
    return (
        f"the body names {shortened(found[1], MAX_ECHO_CHARS)} twice in one object, {found[2]}; leave one of them out"
    )


def _not_an_object(data: Any) -> dict[str, Any]:
    message = f"Input should be a valid dictionary, not {type(data).__name__}"
    return {"type": "model_attributes_type", "loc": ["body"], "msg": message}
