"""Main text of HTML pages, by trafilatura. Run in the child process of `sandbox.py` only."""

from __future__ import annotations


def html_text(data: bytes, charset: str | None = None) -> str:
    """The article as Markdown, or all visible text of a page that has none. `charset` is what HTTP declared."""
    import lxml.html
    import trafilatura

    if charset is None and is_utf8(data):
        charset = "utf-8"  # whatever the page declares; libxml2 takes undeclared bytes for Latin-1
    tree = lxml.html.document_fromstring(data, parser=lxml.html.HTMLParser(encoding=charset))
    return trafilatura.extract(tree, output_format="markdown", favor_recall=True, include_comments=False) or ""


def is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
