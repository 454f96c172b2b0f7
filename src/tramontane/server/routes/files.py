"""/v1/files: Mistral's files API and OpenAI's, in answers both clients read."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import Iterator
from typing import IO, Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from tramontane.server.auth import Caller, authorize, public
from tramontane.server.errors import ApiError
from tramontane.server.files.files import VISIBILITIES, WORKSPACE, Files, Listing, guess_mimetype
from tramontane.server.files.formats import PURPOSES, check_format
from tramontane.server.files.upload import Form, read_upload
from tramontane.server.guard import KEY_HEADER
from tramontane.server.idempotency.records import Mark
from tramontane.server.services import ServicesDep
from tramontane.server.store.contents import Incoming
from tramontane.server.store.tables import File

CHUNK_BYTES = 2**20
SHORT_BYTES = 2**18
"""A file that is checked in a moment."""
FORM_BYTES = 2**14
"""More than a form holds besides its file, mostly."""
RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})\Z")
UPLOAD_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES), "default": "fine-tune"},
        "visibility": {"type": "string", "enum": list(VISIBILITIES), "default": WORKSPACE},
        "expiry": {"type": "integer", "description": "Hours until the file is deleted."},
    },
}

router = APIRouter(tags=["files"])
FilesCaller = Annotated[Caller, Depends(authorize("files"))]


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    sample_type: str
    source: str
    num_lines: int | None
    mimetype: str | None
    signature: str
    expires_at: int | None
    visibility: str
    status: Literal["processed"] = "processed"
    deleted: bool = False


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileObject]
    total: int | None
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class SignedUrl(BaseModel):
    url: str


@router.post(
    "/v1/files",
    summary="Store a file",
    responses={200: {"model": FileObject}},
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD_SCHEMA}}}},
)
async def upload(request: Request, services: ServicesDep, caller: FilesCaller) -> Response:
    length = request.headers.get("content-length", "")  # with some bytes of the form; what arrives is counted below
    num_bytes = max(0, int(length) - FORM_BYTES) if length.isdigit() else 0
    if KEY_HEADER not in request.headers:  # a retry may need no room
        await asyncio.to_thread(services.files.require_room, caller, num_bytes)
    with await services.transfers.run(caller.owner, services.files.contents.incoming) as incoming:
        form = await read_upload(request, incoming, services.transfers, caller.owner)
        threads = services.transfers if incoming.size_bytes <= SHORT_BYTES else services.checks

        async def make(mark: Mark) -> Response:
            row = await threads.run(caller.owner, _store, services.files, incoming, form, caller, mark)
            return JSONResponse(file_object(row).model_dump())

        async def find(file_id: str) -> Response:
            row = await asyncio.to_thread(services.files.get, file_id, caller)
            return JSONResponse(file_object(row).model_dump())

        return await services.idempotency.once(request, caller, make, find, content=form.content(incoming.sha256))


def _store(files: Files, incoming: Incoming, form: Form, caller: Caller, mark: Mark) -> File:
    purpose = form.fields.pop("purpose", "fine-tune")
    if purpose not in PURPOSES:
        raise _wrong("purpose", purpose, f"must be one of {', '.join(PURPOSES)}")
    visibility = form.fields.pop("visibility", WORKSPACE)
    if visibility not in VISIBILITIES:
        raise _wrong("visibility", visibility, f"must be {' or '.join(VISIBILITIES)}")
    expires_s = _expiry(form.fields)
    if form.fields:
        name = next(iter(form.fields))[:64]
        raise _wrong(name, form.fields[name], "is not a field of this form")
    incoming.flush()
    found = check_format(incoming.path, purpose)
    filename = form.filename or "file"
    now = time.time()
    row = File(
        owner=caller.owner,
        key_id=caller.key_id,
        filename=filename,
        purpose=purpose,
        sample_type=found.sample_type,
        source="upload",
        num_lines=found.num_lines,
        mimetype=found.mimetype or guess_mimetype(filename) or form.content_type,
        visibility=visibility,
        created_at=now,
        expires_at=None if expires_s is None else now + expires_s,
    )
    return files.add(incoming, row, mark)


def _expiry(fields: dict[str, str]) -> float | None:
    """Seconds to live: Mistral's `expiry` in hours, OpenAI's `expires_after` in seconds."""
    hours, seconds = fields.pop("expiry", ""), fields.pop("expires_after[seconds]", "")
    anchor = fields.pop("expires_after[anchor]", "created_at")
    if anchor != "created_at":
        raise _wrong("expires_after[anchor]", anchor, "must be created_at")
    for name, value, unit_s in (("expiry", hours, 3600), ("expires_after[seconds]", seconds, 1)):
        if value and value != "null":
            if not (value.isascii() and value.isdigit() and 1 <= int(value[:12]) * unit_s <= 10 * 365 * 86400):
                raise _wrong(name, value, "must be a whole number from 1 up to ten years")
            return int(value) * unit_s
    return None


def _wrong(name: str, value: str, why: str) -> ApiError:
    entry = {"type": "value_error", "loc": ["body", name], "msg": why, "input": value[:200]}
    return ApiError(422, f"{name} {why}", param=name, detail=[entry])


@router.get("/v1/files", summary="List files")
def list_files(
    services: ServicesDep,
    caller: FilesCaller,
    page: Annotated[int, Query(ge=0, le=10**6)] = 0,
    page_size: Annotated[int, Query(ge=1, le=10_000)] = 100,
    include_total: bool = True,
    sample_type: Annotated[list[str] | None, Query()] = None,
    source: Annotated[list[str] | None, Query()] = None,
    mimetypes: Annotated[list[str] | None, Query()] = None,
    search: str | None = None,
    purpose: str | None = None,
    after: str | None = None,
    limit: Annotated[int | None, Query(ge=1, le=10_000)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> FileList:
    found = services.files.list(
        caller,
        Listing(
            page=page,
            page_size=limit or page_size,
            after=after,
            is_ascending=order == "asc",
            purpose=purpose,
            sample_types=sample_type or (),
            sources=source or (),
            mimetypes=mimetypes or (),
            search=search,
        ),
    )
    data = [file_object(row) for row in found.files]
    return FileList(
        data=data,
        total=found.total if include_total else None,
        has_more=found.has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/v1/files/{file_id}", summary="Describe a file")
def retrieve(file_id: str, services: ServicesDep, caller: FilesCaller) -> FileObject:
    return file_object(services.files.get(file_id, caller))


@router.delete("/v1/files/{file_id}", summary="Delete a file")
def delete(file_id: str, services: ServicesDep, caller: FilesCaller) -> DeletedFile:
    services.files.delete(file_id, caller)
    return DeletedFile(id=file_id)


@router.get("/v1/files/{file_id}/content", summary="Download a file", response_class=StreamingResponse)
def content(file_id: str, request: Request, services: ServicesDep, caller: FilesCaller) -> Response:
    return send_file(services.files, services.files.get(file_id, caller), request)


@router.get("/v1/files/{file_id}/url", summary="A link that downloads a file without a key, for a time")
def signed_url(
    file_id: str,
    request: Request,
    services: ServicesDep,
    caller: FilesCaller,
    expiry: Annotated[int, Query(ge=1, le=168)] = 24,
) -> SignedUrl:
    row = services.files.get(file_id, caller)
    expires = int(time.time()) + expiry * 3600
    signature = _sign(services.files, row, expires)
    base = services.settings.public_url or f"{request.url.scheme}://{request.headers['host']}"
    return SignedUrl(url=f"{base.rstrip('/')}/v1/files/{row.id}/download?expires={expires}&signature={signature}")


@router.get(
    "/v1/files/{file_id}/download",
    summary="Download a file by its signed link",
    response_class=StreamingResponse,
    dependencies=[Depends(public)],
)
def download(file_id: str, request: Request, services: ServicesDep, expires: str = "", signature: str = "") -> Response:
    """The signature covers the owner too; it is looked up here because there is no caller."""
    row = services.files.get_signed(file_id)
    is_number = expires.isascii() and expires.isdigit() and len(expires) < 12
    good = _sign(services.files, row, int(expires)) if row is not None and is_number else ""
    if row is None or not good or not hmac.compare_digest(good.encode(), signature.encode("utf-8", "replace")):
        raise ApiError(403, "this link is not valid")
    if int(expires) < time.time():
        raise ApiError(403, "this link has expired; ask for a new one")
    return send_file(services.files, row, request)


def _sign(files: Files, row: File, expires: int) -> str:
    secret = files.database.secret("signed_urls")
    return hmac.new(secret, f"{row.id}:{row.owner}:{expires}".encode(), hashlib.sha256).hexdigest()


def file_object(row: File) -> FileObject:
    return FileObject(
        id=row.id,
        bytes=row.size_bytes,
        created_at=int(row.created_at),
        filename=row.filename,
        purpose=row.purpose,
        sample_type=row.sample_type,
        source=row.source,
        num_lines=row.num_lines,
        mimetype=row.mimetype,
        signature=row.signature,
        expires_at=None if row.expires_at is None else int(row.expires_at),
        visibility=row.visibility,
    )


def send_file(files: Files, row: File, request: Request) -> Response:
    """The whole content, or the one range that was asked for. Always application/octet-stream: mistralai takes nothing
    else, and no browser runs it."""
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(row.filename, safe='')}",
        "accept-ranges": "bytes",
        "cache-control": "private, no-store",
    }
    span = _range(request.headers.get("range"), row.size_bytes)
    if span is None:
        first, last, status = 0, row.size_bytes - 1, 200
    else:
        first, last = span
        status = 206
        headers["content-range"] = f"bytes {first}-{last}/{row.size_bytes}"
    headers["content-length"] = str(last - first + 1)
    try:
        file = files.contents.open(row.id)
    except FileNotFoundError:
        raise ApiError(404, "file does not exist", param="file_id", code="file_not_found") from None
    file.seek(first)
    return StreamingResponse(
        _chunks(file, last - first + 1), status, media_type="application/octet-stream", headers=headers
    )


def _range(value: str | None, size_bytes: int) -> tuple[int, int] | None:
    """First and last byte of `bytes=a-b`. Raises ApiError 416 for several ranges or one outside the file."""
    if value is None:
        return None
    match = RANGE.match(value)
    first, last = match.groups() if match else ("", "")
    if first:
        start, end = int(first), min(int(last), size_bytes - 1) if last else size_bytes - 1
    elif last:  # the last n bytes
        start, end = max(0, size_bytes - int(last)), size_bytes - 1
    else:
        start, end = 1, 0
    if start > end:
        raise ApiError(
            416, "Range must be one range inside the file", headers={"content-range": f"bytes */{size_bytes}"}
        )
    return start, end


def _chunks(file: IO[bytes], num_bytes: int) -> Iterator[bytes]:
    with file:
        while num_bytes and (data := file.read(min(CHUNK_BYTES, num_bytes))):
            num_bytes -= len(data)
            yield data
