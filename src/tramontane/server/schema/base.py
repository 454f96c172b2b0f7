"""ApiModel: the rules every request body keeps to, and how one is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import pydantic_core
from fastapi import Request
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator

from tramontane.server.errors import ApiError, validation_error

Body = TypeVar("Body", bound="ApiModel")


class ApiModel(BaseModel):
    """A closed object of exact types: an unknown field is an error, and so is "1" for 1.

    `IGNORED` names fields of OpenAI's that have no effect on any answer here. They are let through and dropped, and the
    answer's headers name them; with `--strict` they are errors too, as they are for Mistral's own API.
    """

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    IGNORED: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_ignored(cls, data: Any, info: ValidationInfo) -> Any:
        context = info.context or {}
        if not cls.IGNORED or not isinstance(data, dict) or context.get("strict"):
            return data
        if (ignored := context.get("ignored")) is not None:
            ignored.update(name for name in cls.IGNORED if data.get(name) is not None)
        return {name: value for name, value in data.items() if name not in cls.IGNORED}


def validate(kind: type[Body], data: Any, *, strict: bool, ignored: set[str] | None = None) -> Body:
    """Adds the names of fields that were given and have no effect to `ignored`. Raises ApiError 422 naming every field
    that is wrong."""
    try:
        return kind.model_validate(data, context={"strict": strict, "ignored": ignored})
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_context=False), prefix=("body",)) from None


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
