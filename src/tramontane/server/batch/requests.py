"""The requests of one batch: checked line by line when it is made, kept as JSON Lines of one form."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from tramontane.errors import DataError
from tramontane.server.batch.request_line import RequestLine, UniqueIds
from tramontane.server.store.contents import Incoming


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What is asked for: requests from `input_files` or `requests`. `needs_model`: the endpoint has no default."""

    dialect: str
    endpoint: str
    needs_model: bool
    timeout_s: float
    model: str | None = None
    is_model: Callable[[str], bool] = lambda name: False  # whether a name in a request's body means that model too
    input_files: Sequence[str] = ()
    requests: Sequence[Mapping[str, Any]] = ()
    details: dict[str, Any] | None = None
    output_expires_s: int | None = None
    files_param: str = field(default="input_files")


class RequestWriter:
    """Writes what `add` is given to `incoming`."""

    def __init__(self, incoming: Incoming, new: NewBatch) -> None:
        self._incoming = incoming
        self._new = new
        self._ids = UniqueIds()

    @property
    def num_requests(self) -> int:
        return self._ids.num_lines

    def add(self, request: RequestLine) -> None:
        """Raises DataError for a request that cannot be one of this batch."""
        new = self._new
        if request.url is not None and request.url != new.endpoint:
            raise DataError(f"url is {request.url[:64]!r}, but the batch is for {new.endpoint}")
        body = dict(request.body)
        if new.model is not None:
            name = body.get("model", new.model)
            if name != new.model and not (isinstance(name, str) and new.is_model(name)):
                raise DataError(f"body.model is another than the batch's model {new.model!r}; leave one of them out")
            body["model"] = new.model
        if new.needs_model and "model" not in body:
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
