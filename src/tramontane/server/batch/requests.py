"""The requests of one batch: checked line by line when it is made, kept as JSON Lines of one form."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import IO, Any

from tramontane.errors import DataError
from tramontane.server.batch.request_line import RequestLine, UniqueIds
from tramontane.server.store.contents import Incoming


class RequestWriter:
    """Writes what `add` is given to `incoming`. `needs_model`: the endpoint has no default for it."""

    def __init__(self, incoming: Incoming, endpoint: str, model: str | None, *, needs_model: bool) -> None:
        self._incoming = incoming
        self._endpoint = endpoint
        self._model = model
        self._needs_model = needs_model
        self._ids = UniqueIds()

    @property
    def num_requests(self) -> int:
        return self._ids.num_lines

    def add(self, request: RequestLine) -> None:
        """Raises DataError for a request that cannot be one of this batch."""
        if request.url is not None and request.url != self._endpoint:
            raise DataError(f"url is {request.url[:64]!r}, but the batch is for {self._endpoint}")
        body = dict(request.body)
        if self._model is not None and body.setdefault("model", self._model) != self._model:
            raise DataError(f"body.model differs from the batch's model {self._model!r}; leave one of them out")
        if self._needs_model and "model" not in body:
            raise DataError("body.model is missing, and the batch names no model")
        custom_id = self._ids.take(request)
        self._incoming.write(json.dumps({"custom_id": custom_id, "body": body}).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request: `line` counts from 0 over the whole batch."""

    line: int
    custom_id: str
    body: dict[str, Any]


def read_items(file: IO[bytes], done: Collection[int]) -> Iterator[BatchItem]:
    """What a RequestWriter wrote, without the lines that are `done`."""
    for line, text in enumerate(file):
        if line not in done:
            value = json.loads(text)
            yield BatchItem(line, value["custom_id"], value["body"])
