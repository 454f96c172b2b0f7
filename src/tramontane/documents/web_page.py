"""Main text of HTML pages, by trafilatura. Run in the child process of `sandbox.py` only."""

from __future__ import annotations

import codecs


def html_text(data: bytes, charset: str | None = None) -> str:
    """The article as Markdown, or all visible text of a page that has none. `charset` is what HTTP declared."""
    import lxml.html
    import trafilatura

    if is_utf8(data):
        charset = "utf-8"  # whatever is declared; libxml2 takes undeclared bytes for Latin-1
    elif charset is not None and not is_encoding(charset):
        charset = None
    tree = lxml.html.document_fromstring(data, parser=lxml.html.HTMLParser(encoding=charset))
    return trafilatura.extract(tree, output_format="markdown", favor_recall=True, include_comments=False) or ""


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def is_encoding(name: str) -> bool:
    try:
        codecs.lookup(name)
    except LookupError:
        return False
    return True
