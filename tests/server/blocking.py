"""Blocking: an asynchronous client called as a waiting one, so that both go the same journeys."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any


class Blocking:
    """Around an official client or a part of it; `run` runs a coroutine on the client's loop. Mistral's methods have
    asynchronous twins named `…_async`, OpenAI's asynchronous client the names of the other. Streams become lists."""

    def __init__(self, target: Any, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._target = target
        self._run = run

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, f"{name}_async", None) or getattr(self._target, name)
        if not inspect.isroutine(found):
            return Blocking(found, self._run)
        return lambda *arguments, **options: self._settled(found(*arguments, **options))

    def _settled(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._run(_awaited(value))
        if hasattr(value, "__aiter__"):
            return self._run(_collected(value))
        if hasattr(value, "__aenter__"):
            return self._entered(value)
        if hasattr(value, "aread"):  # an answer of the HTTP library, whose body is still to be read
            self._run(value.aread())
        return value

    @contextlib.contextmanager
    def _entered(self, manager: Any) -> Iterator[Any]:
        value = self._run(manager.__aenter__())
        try:
            yield self._settled(value)
        finally:
            self._run(manager.__aexit__(None, None, None))


async def _awaited(value: Any) -> Any:
    return await value


async def _collected(values: Any) -> list[Any]:
    return [value async for value in values]
