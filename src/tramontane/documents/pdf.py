"""Text of PDF files, by pypdf. Run in the child process of `sandbox.py` only."""

from __future__ import annotations

import io

from tramontane.errors import DataError

MAX_PAGES = 5000


def pdf_text(data: bytes, max_chars: int) -> str:
    """Text of all pages, an empty line between them. Raises DataError, also beyond `max_chars`; pypdf's own errors for
    a damaged file."""
    import pypdf

    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise DataError("encrypted PDF; remove its password first, e.g. qpdf --decrypt")
    if len(reader.pages) > MAX_PAGES:
        raise DataError(f"has {len(reader.pages)} pages, more than {MAX_PAGES}; split it first")
    texts = []
    num_chars = 0
    for page in reader.pages:
        texts.append(page.extract_text().strip())
        num_chars += len(texts[-1])
        if num_chars > max_chars:
            raise DataError(f"holds more than {max_chars:,} characters; split it first")
    return "\n\n".join(texts)
