"""The report of a build as one HTML page with plots: no script, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tramontane.data.report import SourceReport

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}"
    "blockquote{margin:.2rem 0 .8rem;color:#555}text{font:13px system-ui,sans-serif;fill:#222}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}text{fill:#ddd}td,th{border-color:#444}"
    "blockquote{color:#aaa}}"
)
_WIDTH, _ROW_HEIGHT, _LABEL_WIDTH, _NUMBER_WIDTH = 900, 24, 250, 110


def report_page(title: str, sources: Sequence[SourceReport], notes: Sequence[str] = ()) -> str:
    """The whole page. Everything that comes from data is escaped."""
    tokens = [(source.name, source.train.num_token_ids) for source in sources]
    reasons: dict[str, int] = {}
    for source in sources:
        for reason, tally in source.dropped.items():
            reasons[reason] = reasons.get(reason, 0) + tally.num_documents
    told = [(f"{source.name}: {what}", count) for source in sources for what, count in source.notes.items()]
    densities = [
        (source.name, source.train.num_text_bytes / source.train.num_token_ids)
        for source in sources
        if source.train.num_token_ids
    ]
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{escape(title)}</h1>',
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>",
        "<h2>Tokens to learn from</h2>" + bars(tokens),
        "<h2>Documents left out, by reason</h2>" + bars(sorted(reasons.items(), key=lambda item: -item[1])),
        "<h2>Read otherwise than it stands</h2>" + bars(told),
        "<h2>Bytes per token</h2>" + bars(densities, "{:.2f}"),
        "<h2>Sources</h2>" + _table(sources),
        "<h2>Examples</h2>" + "".join(map(_examples, sources)),
    ]
    return "\n".join(parts) + "</html>\n"


def bars(rows: Sequence[tuple[str, float]], form: str = "{:,}") -> str:
    """A horizontal bar for each (label, value)."""
    if not rows:
        return "<p>None.</p>"
    room = _WIDTH - _LABEL_WIDTH - _NUMBER_WIDTH
    most = max(value for _, value in rows) or 1
    parts = []
    for place, (label, value) in enumerate(rows):
        top, length = place * _ROW_HEIGHT, room * value / most
        shown = label if len(label) <= 34 else label[:33] + "…"
        parts.append(
            f'<text x="{_LABEL_WIDTH - 8}" y="{top + 17}" text-anchor="end">{escape(shown)}'
            f"<title>{escape(label)}</title></text>"
            f'<rect x="{_LABEL_WIDTH}" y="{top + 4}" width="{length:.1f}" height="{_ROW_HEIGHT - 8}" fill="#4a7fb5"/>'
            f'<text x="{_LABEL_WIDTH + length + 6:.1f}" y="{top + 17}">{form.format(value)}</text>'
        )
    return f'<svg viewBox="0 0 {_WIDTH} {_ROW_HEIGHT * len(rows)}" role="img">{"".join(parts)}</svg>'


def _table(sources: Sequence[SourceReport]) -> str:
    names = ("source", "records", "documents", "tokens", "learned", "held-out tokens", "left out")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = []
    for source in sources:
        num_dropped = sum(tally.num_documents for tally in source.dropped.values())
        train = source.train
        counts = (
            *(source.num_records, train.num_documents, train.num_token_ids, train.num_learned),
            *(source.valid.num_token_ids, num_dropped),
        )
        cells = "".join(f"<td>{count:,}</td>" for count in counts)
        rows.append(f"<tr><td>{escape(source.name)}</td>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _examples(source: SourceReport) -> str:
    shown = [("kept", origin, text) for origin, text in source.examples]
    shown += [(reason, origin, text) for reason, each in source.dropped.items() for origin, text in each.examples]
    quotes = "".join(
        f"<div><b>{escape(reason)}</b> {escape(origin)}</div><blockquote>{escape(text)}</blockquote>"
        for reason, origin, text in shown
    )
    return f"<details><summary>{escape(source.name)}</summary>{quotes}</details>"
