"""Bodies that are huge in one place: every field of every route, each grown in every way that JSON can grow."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PLACE = '"__HERE__"'


@dataclass(frozen=True)
class HostileBody:
    """`grow` gives the bytes of about so many; `field` is dotted."""

    method: str
    path: str
    field: str
    kind: str
    grow: Callable[[int], bytes]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path} {self.field} {self.kind}"


def _repeated(part: str, begin: str, end: str) -> Callable[[int], str]:
    return lambda size: begin + ",".join([part] * max(1, size // (len(part) + 1))) + end


def _nested(begin: str, end: str, depth: int) -> Callable[[int], str]:
    one = begin * depth + "1" + end * depth
    return _repeated(one, "[", "]")


def _keys(value: str) -> Callable[[int], str]:
    return lambda size: "{" + ",".join(f'"{number}":{value}' for number in range(max(1, size // 12))) + "}"


GROWTHS: dict[str, Callable[[int], str]] = {
    "text": lambda size: '"' + "wind " * (size // 5) + '"',
    "letters beyond ASCII": lambda size: '"' + "é" * (size // 2) + '"',
    "escapes": lambda size: '"' + "\\u00e9\\n" * (size // 8) + '"',
    "spaces": lambda size: '"' + " " * size + '"',
    "many texts": _repeated('"wind"', "[", "]"),
    "many numbers": _repeated("7", "[", "]"),
    "many nulls": _repeated("null", "[", "]"),
    "many lists": _repeated("[]", "[", "]"),
    "many objects": _repeated("{}", "[", "]"),
    "wrong messages": _repeated('{"role":"user","x":1}', "[", "]"),
    "right messages": _repeated('{"role":"user","content":"a"}', "[", "]"),
    "right and wrong": _repeated('{"role":"user","content":"a"},{"type":"text","text":"a"},{"role":7}', "[", "]"),
    "many names": _keys("1"),
    "many wrong values": _keys('"x"'),
    "many open objects": _keys("{}"),
    "nested lists": _nested("[", "]", 100),
    "nested objects": _nested('{"a":', "}", 100),
    "too deep": lambda size: "[" * (size // 2) + "]" * (size // 2),
    "a long number": lambda size: "7" * size,
    "a long fraction": lambda size: "0." + "7" * size,
    "a large exponent": lambda size: "1e" + "9" * size,
    "a large number": lambda size: str(2**64),
}


def hostile_bodies(schema: dict[str, Any], *, model: str) -> Iterator[HostileBody]:
    """Of every POST and PATCH route of an OpenAPI schema that takes JSON."""
    for path, methods in schema["paths"].items():
        for method in ("post", "patch"):
            content = methods.get(method, {}).get("requestBody", {}).get("content", {})
            if "application/json" not in content:
                continue
            for body in _alternatives(content["application/json"]["schema"], schema):
                example = _example(body, schema, model)
                for field in _fields(body, schema):
                    for kind, grow in GROWTHS.items():
                        yield HostileBody(method.upper(), path, ".".join(field), kind, _placed(example, field, grow))


def some(bodies: Iterator[HostileBody], count: int, seed: int) -> list[HostileBody]:
    everything = list(bodies)
    return random.Random(seed).sample(everything, min(count, len(everything)))


def _placed(example: dict[str, Any], field: tuple[str, ...], grow: Callable[[int], str]) -> Callable[[int], bytes]:
    def grown(size: int) -> bytes:
        body = json.loads(json.dumps(example))
        inner = body
        for name in field[:-1]:
            inner = inner.setdefault(name, {}) if isinstance(inner.get(name, {}), dict) else inner
        inner[field[-1]] = "__HERE__"
        return json.dumps(body).replace(PLACE, grow(size)).encode()

    return grown


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        part = schema["components"]["schemas"][part["$ref"].rsplit("/", 1)[-1]]
    return part


def _alternatives(part: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    part = _resolved(part, schema)
    options = part.get("anyOf") or part.get("oneOf")
    return [body for option in options for body in _alternatives(option, schema)] if options else [part]


def _fields(body: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Names of the body's fields, of those of its objects, and of one that it does not have."""
    for name, part in body.get("properties", {}).items():
        yield (name,)
        for option in _alternatives(part, schema):
            for inner in option.get("properties", {}):
                yield (name, inner)
    yield ("wind",)


def _example(body: dict[str, Any], schema: dict[str, Any], model: str) -> dict[str, Any]:
    """The least that the body needs; a valid request of most routes."""
    known: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "a"}],
        "endpoint": "/v1/chat/completions",
        "hyperparameters": {"training_steps": 1},
        "completion_window": "24h",
    }
    properties = body.get("properties", {})
    example = {name: known.get(name, "a") for name in body.get("required", ())}
    if "max_tokens" in properties:
        example["max_tokens"] = 1
    if "model" in properties:
        example["model"] = model
    return example
