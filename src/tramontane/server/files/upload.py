"""One multipart upload, streamed to disk as it arrives: no memory but the current chunk, no name that is a path."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tramontane.server.errors import ApiError
from tramontane.server.store.contents import Incoming
from tramontane.server.threads import FairThreads

MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
MAX_NAME_CHARS = 255
MAX_BOUNDARY_BYTES = 70  # RFC 2046
WRITE_BYTES = 2**20
"""Chunks are gathered up to this size before they go to the disk on another thread."""


@dataclass(slots=True)
class Form:
    """The text fields of a form, and what is known of its file."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    content_type: str | None = None

    def content(self, sha256: str) -> bytes:
        """The same for the same form, whatever lies between its parts and in whichever order they come."""
        return json.dumps([sorted(self.fields.items()), self.filename, self.content_type, sha256]).encode()


class _Reader:
    """Callbacks of the parser. `name` is that of the current part."""

    def __init__(self, incoming: Incoming) -> None:
        self.form = Form()
        self.is_complete = False
        self._incoming = incoming
        self._header: list[bytearray] = [bytearray(), bytearray()]
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._is_file = False
        self._value = bytearray()

    def on_part_begin(self) -> None:
        self._headers = {}
        self._value = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])
        self._header = [bytearray(), bytearray()]

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name")
        if kind != b"form-data" or name is None:
            raise ApiError(400, "a part of the form has no name")
        self._name = name.decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.form.filename is not None:
                raise ApiError(400, "the form holds more than one file", param="file")
            self.form.filename = clean_name(options.get(b"filename", b"").decode("utf-8", "replace"))
            self.form.content_type = clean_type(self._headers.get(b"content-type", b""))
        elif self._name in self.form.fields:
            raise ApiError(400, f"field {self._name[:64]!r} is given twice")
        elif len(self.form.fields) >= MAX_FIELDS:
            raise ApiError(400, f"the form has more than {MAX_FIELDS} fields")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._incoming.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise ApiError(400, f"field {self._name[:64]!r} is longer than {MAX_FIELD_BYTES} bytes")

    def on_part_end(self) -> None:
        if not self._is_file:
            self.form.fields[self._name] = self._value.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.is_complete = True


async def read_upload(request: Request, incoming: Incoming, threads: FairThreads, owner: str) -> Form:
    """Write the part named `file` to `incoming`, in turns of `threads`. Raises ApiError for a form that is broken, cut
    off or too large, ClientDisconnect, and DiskFullError."""
    reader = _Reader(incoming)
    parser = MultipartParser(
        _boundary(request),
        {
            "on_part_begin": reader.on_part_begin,
            "on_header_field": reader.on_header_field,
            "on_header_value": reader.on_header_value,
            "on_header_end": reader.on_header_end,
            "on_headers_finished": reader.on_headers_finished,
            "on_part_data": reader.on_part_data,
            "on_part_end": reader.on_part_end,
            "on_end": reader.on_end,
        },
    )
    pending = bytearray()
    try:
        async for chunk in request.stream():
            pending += chunk
            if len(pending) >= WRITE_BYTES:
                await threads.run(owner, parser.write, bytes(pending))
                pending.clear()
        await threads.run(owner, parser.write, bytes(pending))
        parser.finalize()
    except FormParserError as error:
        raise ApiError(400, f"the form cannot be read: {error}") from None
    if not reader.is_complete:
        raise ApiError(400, "the form ends before its closing boundary: the upload was cut off")
    if reader.form.filename is None:
        raise ApiError(422, "file: a part named 'file' is required", param="file", detail=[_missing("file")])
    return reader.form


def clean_name(name: str) -> str:
    """What of an uploaded name may be shown: its last part without anything that is not printable. It is never used
    to find a file."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "_" for c in last).strip()
    return shown[:MAX_NAME_CHARS] if shown.strip(".") else "file"


def clean_type(value: bytes) -> str | None:
    kind = value.partition(b";")[0].strip().lower()
    is_sound = re.match(rb"[a-z0-9.+-]{1,60}/[a-z0-9.+-]{1,60}\Z", kind)
    return kind.decode("ascii") if is_sound else None


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", "")[:512])
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data":
        raise ApiError(415, "send multipart/form-data with a part named 'file'")
    if not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES:
        raise ApiError(400, f"the form's boundary must have 1 to {MAX_BOUNDARY_BYTES} bytes")
    return boundary


def _missing(name: str) -> dict[str, object]:
    return {"type": "missing", "loc": ["body", name], "msg": "Field required", "input": None}
