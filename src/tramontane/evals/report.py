"""The report of a run in Markdown and as one HTML page: settings, tables, and a plot of every metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from tramontane import durable

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:right;"
    "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}"
    "text{font:13px system-ui,sans-serif;fill:#222}@media(prefers-color-scheme:dark){body{color:#ddd;"
    "background:#181818}text{fill:#ddd}td,th{border-color:#444}}"
)
_HEADER = ("task", "metric", "value", "95 % interval", "standard error", "items", "by chance")
_WIDTH, _ROW, _LABEL = 900, 24, 260

Interval = tuple[str, float, float, float, float | None]  # label, value, low, high, what blind guessing would reach


def write_report(folder: Path, results: dict[str, Any]) -> None:
    """`report.md` and `report.html` beside the results."""
    for name, text in (("report.md", markdown(results)), ("report.html", page(results))):
        durable.write(folder / name, text)


def markdown(results: dict[str, Any]) -> str:
    parts = [f"# Evaluation of {results['target']['model']}", ""]
    parts += [f"- {line}" for line in _facts(results)]
    parts += ["", _markdown_table(_HEADER, _task_rows(results)), "", "## Settings", ""]
    parts += [f"- **{name}**: {summary['settings']}" for name, summary in results["results"].items()]
    for name, summary in results["results"].items():
        if "groups" in summary:
            rows = _group_rows(summary)
            parts += ["", f"## {name}, by group", "", _markdown_table(("group", *_HEADER[2:-1]), rows)]
            parts += ["", f"Mean of the groups' {summary['headline']}: {summary['mean_of_groups']:.4f}"]
    return "\n".join(parts) + "\n"


def page(results: dict[str, Any]) -> str:
    """Everything that comes from data is escaped; no script, nothing loaded from elsewhere."""
    title = escape(f"Evaluation of {results['target']['model']}")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{title}</h1>',
        "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in _facts(results)) + "</ul>",
        interval_plot(_shares(results)),
        _html_table(_HEADER, _task_rows(results)),
        "<h2>Settings</h2><ul>",
        *(f"<li><b>{escape(n)}</b>: {escape(s['settings'])}</li>" for n, s in results["results"].items()),
        "</ul>",
    ]
    for name, summary in results["results"].items():
        if "groups" in summary:
            parts.append(f"<h2>{escape(name)}, by group</h2>")
            parts.append(interval_plot(_group_intervals(summary)))
            parts.append(_html_table(("group", *_HEADER[2:-1]), _group_rows(summary)))
    return "\n".join(parts) + "</html>\n"


def _facts(results: dict[str, Any]) -> list[str]:
    facts = [f"{key.replace('_', ' ')}: {value}" for key, value in results["target"].items()]
    limit = results["limit"]
    facts.append("all items of every task" if limit is None else f"at most {limit} items per task, drawn by the seed")
    return [*facts, f"seed: {results['seed']}"]


def _task_rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            metric + (" (headline)" if metric == summary["headline"] else ""),
            *_cells(estimate),
            "" if (chance := chance_of(summary, metric)) is None else f"{chance:.4f}",
        )
        for name, summary in results["results"].items()
        for metric, estimate in summary["metrics"].items()
    ]


def _group_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(n, *_cells(g[summary["headline"]])) for n, g in summary["groups"].items() if summary["headline"] in g]


def chance_of(summary: dict[str, Any], metric: str) -> float | None:
    """What blind guessing would reach, where that is known."""
    found: float | None = summary.get("chance", {}).get(metric)
    return found


def interval_text(estimate: dict[str, float]) -> str:
    """The 95 % interval in words; a single item that is not right or wrong has none."""
    if estimate["num_items"] == 1 and estimate["low"] == estimate["high"]:
        return "none of one item"
    return f"{estimate['low']:.4f} to {estimate['high']:.4f}".replace("-0.0000", "0.0000")


def _cells(estimate: dict[str, float]) -> tuple[str, ...]:
    return f"{estimate['value']:.4f}", interval_text(estimate), f"{estimate['stderr']:.4f}", f"{estimate['num_items']}"


def _shares(results: dict[str, Any]) -> list[Interval]:
    """Metrics that lie between 0 and 1, which one axis can hold."""
    return [
        (f"{name} {metric}", e["value"], e["low"], e["high"], chance_of(summary, metric))
        for name, summary in results["results"].items()
        for metric, e in summary["metrics"].items()
        if 0 <= e["value"] <= 1 and e["high"] <= 1.05
    ]


def _group_intervals(summary: dict[str, Any]) -> list[Interval]:
    found = [(n, g[summary["headline"]]) for n, g in summary["groups"].items() if summary["headline"] in g]
    chance = chance_of(summary, summary["headline"])
    return [(name, e["value"], e["low"], e["high"], chance) for name, e in found]


def interval_plot(rows: Sequence[Interval]) -> str:
    """SVG of values with their intervals on an axis that begins at 0; a dashed mark where blind guessing would be."""
    if not rows:
        return ""
    highest = max(max(high, chance or 0.0) for *_, high, chance in rows)
    top = max(1.0, highest) if highest > 0.2 else highest
    scale = (_WIDTH - _LABEL - 80) / (top or 1.0)
    height = len(rows) * _ROW + 28
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" xmlns="http://www.w3.org/2000/svg" role="img">']
    for step in range(6):
        x = _LABEL + scale * top * step / 5
        parts.append(f'<path d="M{x:.1f} 0V{height - 22}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle">{top * step / 5:.2g}</text>')
    for place, (label, value, low, high, chance) in enumerate(rows):
        y = place * _ROW + 12
        left, right = (_LABEL + scale * min(max(v, 0.0), top) for v in (low, high))
        shown = label if len(label) <= 34 else label[:33] + "…"
        parts.append(f'<text x="{_LABEL - 10}" y="{y + 5}" text-anchor="end">{escape(shown)}</text>')
        parts.append(f'<path d="M{left:.1f} {y}H{right:.1f}" stroke="#1f6fb4" stroke-width="3" opacity=".5"/>')
        if chance is not None:
            x = _LABEL + scale * chance
            dash = 'stroke="#c0392b" stroke-width="2" stroke-dasharray="3 2"'
            parts.append(f'<path d="M{x:.1f} {y - 11}V{y + 11}" {dash}><title>by chance {chance:.3f}</title></path>')
        if math.isfinite(value):
            x = _LABEL + scale * min(max(value, 0.0), top)
            parts.append(f'<circle cx="{x:.1f}" cy="{y}" r="4.5" fill="#1f6fb4"/>')
        parts.append(f'<text x="{_WIDTH - 60}" y="{y + 5}">{value:.3f}</text>')
    return "".join(parts) + "</svg>"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * 2 + "|--:" * (len(header) - 2) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)])


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
