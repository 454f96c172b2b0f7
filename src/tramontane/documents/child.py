"""The child process of `sandbox.py`: `python -m tramontane.documents.child TASK`, bytes in, one JSON object out.

stdin is the file, or for `url` the JSON object {"url": ..., "allow_private": ...}. stdout is {"text": ...} or
{"error": ...}, without the document's name.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import Any

from tramontane.documents.sandbox import CPU_S
from tramontane.errors import DataError
from tramontane.extras import install_hint

MEMORY_BYTES = 4 << 30  # of address space: libraries map far more than they use
FETCH_S = 60
MAX_CHARS = 64 << 20


def limit_resources() -> None:
    """Kernel limits of this process: address space, processor time, and no file can be written."""
    try:
        import resource
    except ImportError:  # not on Windows, where the parent's time limit remains
        return
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_FSIZE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def extract(task: str, data: bytes) -> str:
    """Text of `data` by the parser `task`. Raises DataError, or whatever the parser raises on a damaged file."""
    if task == "pdf":
        from tramontane.documents.pdf import pdf_text

        return pdf_text(data)
    if task == "docx":
        from tramontane.documents.word import docx_text

        return docx_text(data)
    if task == "html":
        from tramontane.documents.web_page import html_text

        return html_text(data)
    return page_text(json.loads(data))


def page_text(request: dict[str, Any]) -> str:
    """Fetch an address within FETCH_S seconds and extract what comes."""
    from tramontane.documents.document import decode_text, kind_of
    from tramontane.documents.fetch import fetch

    def too_slow(_signal: int, _frame: FrameType | None) -> None:
        raise DataError(f"took more than {FETCH_S} s to arrive; given up")

    # An alarm, and not only the timeouts of the HTTP client: a server that drips a byte a second never trips those.
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, too_slow)
        signal.alarm(FETCH_S)
    page = fetch(request["url"], allow_private=request["allow_private"])
    if hasattr(signal, "SIGALRM"):
        signal.alarm(0)
    kind = kind_of(page.data, page.url.split("?")[0], page.content_type)
    if kind == "text":
        return decode_text(page.data, "the page")
    if kind == "html":
        from tramontane.documents.web_page import html_text

        return html_text(page.data, charset=page.charset)
    return extract(kind, page.data)


def reply_to(task: str, data: bytes) -> dict[str, str]:
    try:
        text = extract(task, data)
    except DataError as error:
        return {"error": str(error)}
    except ImportError as error:
        return {"error": f"reading it needs a package ({error}): {install_hint('documents')}"}
    except MemoryError:
        return {"error": "reading it needs too much memory; given up"}
    except Exception as error:  # a parser's own failure on a damaged file, whatever its type
        return {"error": f"damaged, or not what it claims to be ({type(error).__name__}: {str(error)[:200]})"}
    if len(text) > MAX_CHARS:
        return {"error": f"holds more than {MAX_CHARS >> 20} million characters; split it first"}
    return {"text": text}


def main() -> None:
    limit_resources()
    sys.setrecursionlimit(2000)
    reply = reply_to(sys.argv[1], sys.stdin.buffer.read())
    # json escapes lone surrogates, which damaged files can yield and UTF-8 cannot carry
    sys.stdout.write(json.dumps({key: value.encode("utf-8", "replace").decode() for key, value in reply.items()}))


if __name__ == "__main__":
    main()
