"""The readable text of an HTML page: scripts, styles and page furniture left out, blocks on their own lines."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_SKIPPED = frozenset({"script", "style", "noscript", "template", "nav", "header", "footer", "aside", "form", "svg"})
_BLOCKS = frozenset(
    {"p", "div", "section", "article", "main", "br", "hr", "li", "ul", "ol", "dl", "dt", "dd", "table", "tr"}
    | {"h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "figure"}
)
_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "table", "ul", "ol"})


class _TextOf(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._skipped_depth = 0
        self._is_title = False
        self._pre_depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipped_depth += 1
        self._is_title = self._is_title or tag == "title"
        self._pre_depth += tag == "pre"
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipped_depth = max(0, self._skipped_depth - 1)
        self._is_title = self._is_title and tag != "title"
        self._pre_depth = max(0, self._pre_depth - (tag == "pre"))
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._is_title:
            self.title.append(data)
        elif not self._skipped_depth:
            self.parts.append(data if self._pre_depth else re.sub(r"\s+", " ", data))

    def _break(self, tag: str) -> None:
        if tag in _BLOCKS and not self._skipped_depth:
            self.parts.append("\n\n" if tag in _PARAGRAPHS else "\n")


def html_to_text(page: str) -> dict[str, str]:
    """`{"title", "text"}` of a page. Malformed markup is read as browsers do: nothing raises."""
    parser = _TextOf()
    parser.feed(page)
    parser.close()
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", "".join(parser.parts))
    return {"title": " ".join("".join(parser.title).split()), "text": re.sub(r"\n{3,}", "\n\n", text).strip()}
