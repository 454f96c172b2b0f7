"""The loss curve of a run as an SVG file, drawn with nothing but text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

WIDTH, HEIGHT, MARGIN = 800, 480, 60
COLOURS = ("#9aa7b5", "#1f6fb4", "#c2542d", "#3b8a3e", "#7d4fa3", "#a3842c", "#2c9ca3")

Curve = Sequence[tuple[float, float]]


def loss_plot(title: str, curves: Mapping[str, Curve]) -> str:
    """SVG of named curves of (tokens seen, loss). Points that are not finite are left out; empty curves too."""
    finite = {name: [(x, y) for x, y in curve if math.isfinite(y)] for name, curve in curves.items()}
    drawn = {name: curve for name, curve in finite.items() if curve}
    points = [point for curve in drawn.values() for point in curve]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="15">{_escaped(title)}</text>',
    ]
    if points:
        # the first steps fall from log(vocabulary) and would flatten everything after them
        ceiling = sorted(y for _, y in points)[int(0.98 * (len(points) - 1))]
        x_ticks = _ticks(0.0, max(x for x, _ in points))
        y_ticks = _ticks(min(y for _, y in points), ceiling)
        to_x = _scale(x_ticks[0], x_ticks[-1], MARGIN, WIDTH - MARGIN / 2)
        to_y = _scale(y_ticks[0], y_ticks[-1], HEIGHT - MARGIN, MARGIN * 0.75)
        for tick in x_ticks:
            x = to_x(tick)
            parts.append(f'<path d="M{x:.1f} {HEIGHT - MARGIN}V{MARGIN * 0.75}" stroke="#e6e6e6"/>')
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{_short(tick)}</text>')
        for tick in y_ticks:
            y = to_y(tick)
            parts.append(f'<path d="M{MARGIN} {y:.1f}H{WIDTH - MARGIN / 2}" stroke="#e6e6e6"/>')
            parts.append(f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
        parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">tokens</text>')
        for number, (name, curve) in enumerate(drawn.items()):
            colour = COLOURS[number % len(COLOURS)]
            line = " ".join(f"{to_x(x):.1f},{to_y(min(y, y_ticks[-1])):.1f}" for x, y in curve)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
            parts.append(
                f'<text x="{WIDTH - MARGIN / 2}" y="{MARGIN * 0.75 + 16 * (number + 1)}" text-anchor="end" '
                f'fill="{colour}">{_escaped(name)} {curve[-1][1]:.4g}</text>'
            )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    slope = (end - start) / ((high - low) or 1.0)
    return lambda value: start + (value - low) * slope


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose low … high, four to eight of them."""
    span = (high - low) or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / 4))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _short(value: float) -> str:
    for limit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.6g} {letter}"
    return f"{value:.6g}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
