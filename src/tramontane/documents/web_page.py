"""Main text of HTML pages, by trafilatura. Run in the child process of `sandbox.py` only."""

from __future__ import annotations


def html_text(data: bytes, charset: str | None = None) -> str:
    """The article as Markdown; for pages without one, all visible text. `charset` is what HTTP declared."""
    import lxml.html
    import trafilatura

    tree = lxml.html.document_fromstring(data, parser=lxml.html.HTMLParser(encoding=charset))
    for element in list(tree.iter("script", "style", "noscript", "template")):
        element.drop_tree()
    visible = " ".join(tree.text_content().split())
    article = trafilatura.extract(tree, output_format="markdown", favor_recall=True, include_comments=False)
    return article or visible
