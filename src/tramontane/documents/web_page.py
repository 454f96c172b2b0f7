"""Main text of HTML pages, by trafilatura. Run in the child process of `sandbox.py` only."""

from __future__ import annotations

import codecs

from tramontane.errors import DataError

MAX_TAGS = 500_000  # the largest specifications on one page have some 300,000


def html_text(data: bytes, charset: str | None = None) -> str:
    """The article as Markdown, or all visible text of a page that has none. `charset` is what HTTP declared. Raises
    DataError for more tags, or deeper ones, than are read."""
    if (num_tags := data.count(b"<")) > MAX_TAGS:
        raise DataError(f"has {num_tags:,} tags, more than {MAX_TAGS:,}; split it first")
    import lxml.etree
    import lxml.html
    import trafilatura

    if is_utf8(data):
        charset = "utf-8"  # whatever is declared; libxml2 takes undeclared bytes for Latin-1
    elif charset is not None and not is_encoding(charset):
        charset = None
    parser = lxml.html.HTMLParser(encoding=charset, huge_tree=True)  # else texts beyond 10 MB would be left out
    try:
        tree = lxml.html.document_fromstring(data, parser=parser)
    except lxml.etree.XMLSyntaxError as error:  # any bytes are a page to it, while there is memory
        raise MemoryError from error
    for entry in parser.error_log:
        if entry.type == lxml.etree.ErrorTypes.ERR_RESOURCE_LIMIT:  # it has left out the rest
            raise DataError(f"beyond what is read of a page: {entry.message.partition(', use')[0].strip()}")
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
