"""Documents that users send, as text, within what a server takes of them."""

from __future__ import annotations

from pathlib import PurePosixPath

from tramontane.documents import Document, parse_document
from tramontane.errors import DataError
from tramontane.server.schema.documents import MAX_CHARS

MAX_FILE_BYTES = 32 << 20
MAX_NAME_CHARS = 200


def read_sent(data: bytes, name: str | None) -> Document:
    """Blocks: a foreign format is parsed in a process of its own. Raises DataError naming the document."""
    document = parse_document(data, display_name(name))
    if len(document.text) > MAX_CHARS:
        raise DataError(
            f"{document.name}: holds {len(document.text):,} characters, more than {MAX_CHARS:,}; split it first"
        )
    return document


def display_name(name: str | None) -> str:
    """What users know the file by; it is shown and never opened."""
    last = PurePosixPath((name or "").replace("\\", "/")).name
    return "".join(char for char in last if char.isprintable())[:MAX_NAME_CHARS] or "document"
