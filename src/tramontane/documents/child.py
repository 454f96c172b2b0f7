"""The child process of `sandbox.py`: `python -m tramontane.documents.child TASK LIMITS PARENT`, bytes in, text out.

stdin is the file, or for `url` the JSON object {"url": ..., "allow_private": ...}. stdout is `+` and the text in
UTF-8, or `-` and one line that says what is wrong, without the document's name.
"""

from __future__ import annotations

import json
import signal
import sys
from types import FrameType
from typing import Any

from tramontane.documents.sandbox import FETCH_S, Limits
from tramontane.errors import DataError
from tramontane.extras import install_hint


def extract(task: str, data: bytes, max_chars: int) -> str:
    """Text of `data` by the parser `task`. Raises DataError, or whatever the parser raises on a damaged file."""
    if task == "pdf":
        from tramontane.documents.pdf import pdf_text

        return pdf_text(data, max_chars)
    if task == "docx":
        from tramontane.documents.word import docx_text

        return docx_text(data, max_chars)
    if task == "html":
        from tramontane.documents.web_page import html_text

        return html_text(data)
    return page_text(json.loads(data), max_chars)


def page_text(request: dict[str, Any], max_chars: int) -> str:
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
    return extract(kind, page.data, max_chars)


def reply_to(task: str, data: bytes, limits: Limits) -> bytes:
    try:
        text = extract(task, data, limits.max_chars)
        if len(text) > limits.max_chars:
            raise DataError(f"holds {len(text):,} characters, more than {limits.max_chars:,}; split it first")
        # damaged files can yield lone surrogates, which UTF-8 cannot carry
        return b"+" + text.encode("utf-8", "replace")
    except DataError as error:
        problem = str(error)
    except ImportError as error:
        problem = f"reading it needs a package ({error}): {install_hint('documents')}"
    except MemoryError:
        problem = f"reading it needs more than {limits.memory_bytes >> 20} MiB of memory; given up"
    except Exception as error:  # a parser's own failure on a damaged file, whatever its type
        problem = f"damaged, or not what it claims to be ({type(error).__name__}: {str(error)[:200]})"
    return b"-" + " ".join(problem.split()).encode("utf-8", "replace")


def main() -> None:
    task, limits, parent = sys.argv[1], Limits(**json.loads(sys.argv[2])), int(sys.argv[3])
    # before anything is read, and before the parsers' libraries are imported
    from tramontane.documents.confinement import confine

    confine(limits, parent=parent, network=task == "url")
    sys.setrecursionlimit(2000)
    # optional for trafilatura; with it comes numpy, for languages nobody asks for
    sys.modules["py3langid"] = None  # type: ignore[assignment]
    sys.stdout.buffer.write(reply_to(task, sys.stdin.buffer.read(), limits))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
