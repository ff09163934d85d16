"""The bars: for every row its first figure, ours and each reference's, as SVG.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tailrace.bench.row import Measured, Spread, number

WIDTH, LEFT, BAR, GAP, HEAD = 960, 330, 16, 5, 30
BOLD = "font-weight='bold'"
OURS, OTHERS = "#0b7285", "#adb5bd"


def chart(measured: Sequence[Measured], caption: str) -> str:
    """Return the chart; bars of one row share a scale, and the line on each is its smallest to largest."""
    parts: list[str] = []
    y = 28
    for each in measured:
        figure = each.row.figures[0]
        bars = [(each.row.name_of_ours, each.spread(figure.key), OURS)]
        bars += [(name, each.spread(figure.key, name), OTHERS) for name in each.references]
        known = [(name, spread, colour) for name, spread, colour in bars if spread is not None]
        if not known:
            continue
        parts.append(
            _text(12, y + 14, f"{each.row.title}: {figure.title}, {figure.unit} ({figure.better} is better)", BOLD)
        )
        y += HEAD - GAP
        largest = max(spread.largest for _, spread, _ in known) or 1.0
        for name, spread, colour in known:
            parts.append(_bar(y, name, spread, largest, colour))
            y += BAR + GAP
        y += GAP * 2
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {y}' font-family='sans-serif' font-size='12'>"
    background = f"<rect width='{WIDTH}' height='{y}' fill='white'/>"
    return "\n".join([head, background, _text(12, 18, caption, "fill='#495057'"), *parts, "</svg>"]) + "\n"


def _bar(y: int, name: str, spread: Spread, largest: float, colour: str) -> str:
    scale = (WIDTH - LEFT - 130) / largest
    width, low, high = spread.median * scale, LEFT + spread.smallest * scale, LEFT + spread.largest * scale
    middle = y + BAR / 2
    return "".join(
        (
            _text(LEFT - 8, y + 12, name, "text-anchor='end'"),
            f"<rect x='{LEFT}' y='{y}' width='{width:.1f}' height='{BAR}' fill='{colour}'/>",
            f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{middle}' y2='{middle}' stroke='#212529'/>",
            _text(int(high) + 8, y + 12, number(spread.median)),
        )
    )


def _text(x: int, y: int, text: str, extra: str = "") -> str:
    return f"<text x='{x}' y='{y}' {extra}>{escape(text)}</text>"
