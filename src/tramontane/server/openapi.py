"""The OpenAPI schema of this server: FastAPI's, with the bodies that Endpoint reads itself and the one error body."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from tramontane.server.auth import is_public
from tramontane.server.endpoint import BODIES
from tramontane.server.schema.answers import Error

REF = "#/components/schemas/{model}"
FAILURES = {
    "400": "Cannot be served as asked",
    "401": "No valid key",
    "403": "Not allowed",
    "404": "Does not exist",
    "409": "Not possible in this state",
    "422": "A field is wrong",
    "429": "Too much at once; try again after Retry-After",
    "503": "Going down",
}


def add_openapi(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """`routers` are those of the app, which say which routes ask for a key."""
    routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
    open_paths = frozenset(route.path_format for route in routes if is_public(route))

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _schema(app, open_paths)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents


def _schema(app: FastAPI, open_paths: Collection[str]) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
    wanted = [(model, "validation") for model in (*BODIES.values(), Error)]
    _, definitions = models_json_schema(wanted, ref_template=REF)  # type: ignore[arg-type]  # a literal in the list
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    components |= definitions["$defs"]
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    error = {"application/json": {"schema": {"$ref": REF.format(model="Error")}}}
    for name, path in schema["paths"].items():
        for operation in path.values():
            if name not in open_paths:
                operation["security"] = [{"key": []}]
            for status, text in FAILURES.items():
                operation["responses"][status] = {"description": text, "content": error}
    for unused in ("HTTPValidationError", "ValidationError"):
        components.pop(unused, None)
    return schema
