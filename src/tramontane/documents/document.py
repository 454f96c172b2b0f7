"""Document: a name and its text, read from a file, from bytes or from a web page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tramontane.documents.foreign import describe
from tramontane.documents.sandbox import MAX_CHARS, MEMORY_BYTES, limits_for, run_parser, run_parser_async
from tramontane.errors import DataError

MAX_BYTES = 64 << 20  # of a file; beyond it a document is a corpus
Kind = Literal["text", "html", "pdf", "docx"]


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text, or Markdown where the source had headings, and the name users know it by."""

    name: str
    text: str


def read_document(source: str | Path, *, allow_private: bool = False) -> Document:
    """Text of a file (txt, md, html, pdf, docx) or of an http(s) URL.

    `allow_private` lets a URL lead to this machine or its local network. Raises DataError naming the source.
    """
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        request = json.dumps({"url": source, "allow_private": allow_private}).encode()
        return checked(Document(source, run_parser("url", request, name=source, limits=limits_for(MAX_BYTES))))
    if isinstance(source, str) and "://" in source:
        raise DataError(f"{source}: only http and https addresses are read")
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB; split it first")
    return parse_document(path.read_bytes(), str(path))


def parse_document(data: bytes, name: str) -> Document:
    """Text of a document already in memory; its kind follows from the content, for HTML also from the name's suffix.

    Raises DataError naming it.
    """
    if (kind := kind_within_size(data, name)) == "text":
        return text_document(data, name)
    return checked(Document(name, run_parser(kind, data, name=name, limits=limits_for(len(data)))), kind)


async def parse_document_async(
    data: bytes, name: str, *, memory_bytes: int = MEMORY_BYTES, max_chars: int = MAX_CHARS
) -> Document:
    """As `parse_document`; cancelled, it ends the process that parses. That takes `memory_bytes` at most."""
    if (kind := kind_within_size(data, name)) == "text":
        return text_document(data, name, max_chars)
    limits = limits_for(len(data), memory_bytes=memory_bytes, max_chars=max_chars)
    return checked(Document(name, await run_parser_async(kind, data, name=name, limits=limits)), kind)


def text_document(data: bytes, name: str, max_chars: int = MAX_CHARS) -> Document:
    """Of data that is text as it stands."""
    text = decode_text(data, name)
    if len(text) > max_chars:
        raise DataError(f"{name}: holds {len(text):,} characters, more than {max_chars:,}; split it first")
    return checked(Document(name, text), "text")


def kind_within_size(data: bytes, name: str) -> Kind:
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: larger than {MAX_BYTES >> 20} MiB; split it first")
    return kind_of(data, name)


def kind_of(data: bytes, name: str = "", content_type: str = "") -> Kind:
    """What the bytes are: by their first bytes, else by the suffix of `name` or the HTTP content type."""
    start = data[:1024]
    if b"%PDF-" in start:
        return "pdf"
    if start.startswith(b"PK\x03\x04"):
        return "docx"
    opening = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if opening.startswith((b"<!doctype html", b"<html")) or "html" in content_type:
        return "html"
    if not content_type and name.lower().endswith((".html", ".htm", ".xhtml")):
        return "html"
    return "text"


def decode_text(data: bytes, name: str) -> str:
    """UTF-8, or UTF-16 with a byte order mark. Raises DataError for anything else: a guess would garble silently."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if what := describe(data):
            raise DataError(f"{name}: {what}") from None
        raise DataError(
            f"{name}: neither PDF, Word (.docx) and HTML nor UTF-8 text (byte 0x{data[error.start]:02x} at "
            f"{error.start}); if it is text, convert it: iconv -f latin1 -t utf-8"
        ) from None
    if "\0" in text:
        what = describe(data) or f"binary data (a NUL byte at {text.index(chr(0))}), not a document"
        raise DataError(f"{name}: {what}")
    return text


def checked(document: Document, kind: Kind | None = None) -> Document:
    if not document.text.strip():
        raise DataError(f"{document.name}: holds no text{'; a scan needs OCR first' if kind == 'pdf' else ''}")
    return document
