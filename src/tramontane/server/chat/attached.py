"""Documents inside messages become text before a model reads them.

A document comes within the request, as a data: URL, or is a file of the caller's own by its id. Addresses elsewhere are
refused: what a server fetches for its users, it can be made to fetch from where they cannot.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import cast

from tramontane.documents import Document
from tramontane.errors import DataError
from tramontane.server.document_work import MAX_FILE_BYTES, SHORT_BYTES
from tramontane.server.endpoint import Call
from tramontane.server.errors import ApiError
from tramontane.server.files.files import Files
from tramontane.server.schema.chat import ChatRequest, Chunk, DocumentChunk, FileChunk, Message, TextChunk
from tramontane.server.store.tables import File

MAX_DOCUMENTS = 16  # of a request
PIECE_CHARS = 1 << 20  # of base64, a multiple of four
DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(;[\w-]+=[^;,]*)*;base64,", re.ASCII)


async def with_documents(call: Call, request: ChatRequest) -> ChatRequest:
    """`request` with the text of every document in the place of the document.

    Raises ApiError 400 for a document that cannot be read, 403 for a file that the key may not read, and 404.
    """
    places = [
        (place, number)
        for place, message in enumerate(request.messages)
        if isinstance(message.content, list)
        for number, chunk in enumerate(message.content)
        if isinstance(chunk, DocumentChunk | FileChunk)
    ]
    if not places:
        return request
    if len(places) > MAX_DOCUMENTS:
        raise ApiError(400, f"{len(places)} documents in one request; at most {MAX_DOCUMENTS}", param="messages")
    messages = list(request.messages)
    for place, number in places:
        message = messages[place]
        param = f"messages.{place}.content"
        if message.role == "assistant":
            raise ApiError(400, f"{param}: an assistant's message holds no documents", param=param)
        chunks = list(cast("list[Chunk]", message.content))
        text = await _text(call, cast("DocumentChunk | FileChunk", chunks[number]), param)
        chunks[number] = TextChunk(text=text)
        messages[place] = cast("Message", message.model_copy(update={"content": chunks}))
    return request.model_copy(update={"messages": messages})


async def _text(call: Call, chunk: DocumentChunk | FileChunk, param: str) -> str:
    try:
        if chunk.file_id is not None:
            document = await _read_stored(call, chunk.file_id)
        else:
            data = await _decoded(call, chunk.data_url, param)
            document = await call.services.document_work.read(call.caller.owner, data, chunk.name)
    except DataError as error:
        raise ApiError(400, f"{param}: {error}", param=param) from None
    return f'Document "{document.name}":\n\n{document.text}\n\n'


async def _read_stored(call: Call, file_id: str) -> Document:
    """Its bytes are held as if they had been sent: a short body may name a long file."""
    services, owner = call.services, call.caller.owner
    row = await asyncio.to_thread(_stored, call, file_id)
    with services.body_budget.held(owner) as share:
        share.grow_to(row.size_bytes)
        data = await services.transfers.run(owner, _content, services.files, row)
        return await services.document_work.read(owner, data, row.filename)


def _stored(call: Call, file_id: str) -> File:
    if "files" not in call.caller.scopes:
        raise ApiError(403, "this key may not read files; give it the scope files", param="file_id")
    files = call.services.files
    row = files.get(file_id, call.caller)
    if row.size_bytes > MAX_FILE_BYTES:
        raise DataError(f"{row.filename}: larger than {MAX_FILE_BYTES >> 20} MiB; split it first")
    return row


def _content(files: Files, row: File) -> bytes:
    with files.contents.open(row.id) as content:
        return content.read()


async def _decoded(call: Call, url: str, param: str) -> bytes:
    found = DATA_URL.match(url)
    if found is None:
        raise ApiError(
            400,
            f"{param}: documents are read from data: URLs in base64 and from uploaded files (file_id), not from "
            "other addresses",
            param=param,
        )
    try:
        if len(url) <= SHORT_BYTES:
            return base64.b64decode(url[found.end() :], validate=True)
        return await call.services.document_work.compute(call.caller.owner, lambda: _long_decoded(url, found.end()))
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{param}: the data: URL is not base64", param=param) from None


def _long_decoded(url: str, start: int) -> bytes:
    """A piece at a time, so that others come in between: decoding does not share the interpreter."""
    pieces = (url[first : first + PIECE_CHARS] for first in range(start, len(url), PIECE_CHARS))
    return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
