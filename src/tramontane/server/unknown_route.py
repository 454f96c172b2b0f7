"""Requests that no route takes: part of an API that is not implemented here, another method, or no such path."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.routing import Match, Mount

from tramontane.server.errors import ApiError

OPERATIONS = Path(__file__).with_name("operations.txt")
"""What Mistral's client and OpenAI's can ask for: a path with {} for its parameters, and its methods, on a line."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def unknown_route(request: Request, status: int) -> ApiError:
    """`status` is what the router has found: 405 also for a file of the web page that is asked for with a method other
    than GET."""
    path, method = request.url.path, request.method
    asked = client_methods(path)
    taken = _methods(request)
    if method in asked or (asked and not taken):
        return ApiError(501, f"{method} {path} is not implemented by this server", code="not_implemented")
    if taken or status == 405:
        allow = {"Allow": ", ".join(taken or ["GET", "HEAD"])}
        return ApiError(405, f"{method} is not possible here", code="method_not_allowed", headers=allow)
    return ApiError(404, f"there is no {path} here; /docs lists what there is", code="unknown_path")


def client_methods(path: str) -> frozenset[str]:
    """With which the clients may call `path`."""
    parts = path.split("/")
    return frozenset(
        method
        for template, methods in _operations().get(len(parts), {}).items()
        if all(wanted in ("{}", part) for wanted, part in zip(template, parts, strict=True))
        for method in methods
    )


@functools.cache
def _operations() -> Mapping[int, Mapping[tuple[str, ...], frozenset[str]]]:
    """By the number of parts of the path."""
    found: dict[int, dict[tuple[str, ...], frozenset[str]]] = {}
    for line in OPERATIONS.read_text(encoding="utf-8").splitlines():
        path, *methods = line.split()
        parts = tuple(path.split("/"))
        found.setdefault(len(parts), {})[parts] = frozenset(methods)
    return found


def _methods(request: Request) -> list[str]:
    """What the routes of this path take."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    scope = dict(request.scope)
    return [
        method
        for method in METHODS
        if any(route.matches(scope | {"method": method})[0] is Match.FULL for route in routes)
    ]
