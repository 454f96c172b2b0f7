"""ApiModel: the rules every request body keeps to, and how one is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, TypeVar, get_args

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from tramontane.server.errors import ApiError
from tramontane.server.notes import Notes
from tramontane.server.validation import validation_error

Body = TypeVar("Body", bound="ApiModel")


class ApiModel(BaseModel):
    """A closed object of exact types: an unknown field is an error, and so is "1" for 1. A null says what leaving the
    field out says, as clients mean it that write every field they have."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
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


def validate(kind: type[Body], data: Any, *, notes: Notes | None = None) -> Body:
    """With `notes`, unknown fields are left out and named there instead of being errors. Raises ApiError 422 naming
    every field that is wrong."""
    try:
        body = kind.model_validate(data, extra=None if notes is None else "allow")
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False), data, prefix=("body",)) from None
    if notes is not None:
        notes.ignored |= set(_taken_out(body, ""))
    return body


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


async def read_json(request: Request) -> Mapping[str, Any]:
    """The object in a request's body. Raises ApiError 415 for another content type, 400 for what is no JSON object
    (NaN, infinities and deep nesting included)."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ApiError(415, f"content type {content_type or 'missing'}: send application/json")
    try:
        data = pydantic_core.from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ApiError(422, "the body must be a JSON object", detail=[_not_an_object(data)])
    return data


def _not_an_object(data: Any) -> dict[str, Any]:
    message = f"Input should be a valid dictionary, not {type(data).__name__}"
    return {"type": "model_attributes_type", "loc": ["body"], "msg": message}
