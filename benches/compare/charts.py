"""Charts as SVG: bars in groups, and lines over a logarithmic axis. Plain text, no library."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.sax.saxutils import escape

TEXT = "#1f2328"
FAINT = "#d0d7de"
SOFT = "#59636e"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
WIDTH = 860
# Tessera stands out; the others are told apart by hue and lightness, also by those who see fewer colours.
COLOURS = {
    "tessera": "#0b57d0", "bare": "#8c959f", "fastapi": "#009e73", "fastapi-simd": "#7fcfb9", "cpr": "#e69f00", "litserve": "#cc79a7",
    "mosec": "#d55e00", "ray": "#56b4e9",
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """A bar: whose, how long, and what is written at its end."""

    series: str
    value: float
    label: str


@dataclass(frozen=True)
class Panel:
    """Lines over a shared kind of axis: for each series points (x, y)."""

    title: str
    lines: dict[str, list[tuple[float, float]]]


def bars(title: str, note: str, groups: list[tuple[str, list[Bar]]], names: dict[str, str]) -> str:
    """Horizontal bars in groups, each group scaled to its own longest, as groups may be worlds apart."""
    parts, y = heading(title, note)
    left, right, height = 150, 190, 17
    for group, members in groups:
        longest = max((bar.value for bar in members), default=0) or 1
        y += 14
        parts.append(text(16, y + 12, group, weight="600"))
        y += 20
        for bar in members:
            length = (WIDTH - left - right) * bar.value / longest
            own = bar.series == "tessera"
            parts.append(text(left - 8, y + 12, names[bar.series], anchor="end", weight="600" if own else "400", size=12))
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{height - 3}" fill="{COLOURS[bar.series]}" rx="2"/>')
            parts.append(text(left + length + 6, y + 12, bar.label, size=12, weight="600" if own else "400"))
            y += height
    return document(parts, y + 18)


def lines(title: str, note: str, x_title: str, y_title: str, panels: list[Panel], names: dict[str, str]) -> str:
    """A panel beside the other, both axes logarithmic, one legend."""
    parts, top = heading(title, note)
    present = [series for series in names if any(series in panel.lines for panel in panels)]
    x = 16.0
    for series in present:
        parts.append(f'<rect x="{x:.0f}" y="{top + 4}" width="14" height="4" fill="{COLOURS[series]}"/>')
        parts.append(text(x + 19, top + 11, names[series], size=12))
        x += 34 + 7.2 * len(names[series])
    top += 46
    height, gap, left = 250, 62, 56
    width = (WIDTH - left - 16 - gap * (len(panels) - 1)) / max(1, len(panels))
    for index, panel in enumerate(panels):
        parts += plot(panel, left + index * (width + gap), top, width, height, x_title, y_title if index == 0 else "")
    return document(parts, top + height + 58)


def plot(panel: Panel, left: float, top: float, width: float, height: float, x_title: str, y_title: str) -> list[str]:
    """One panel."""
    points = [point for line in panel.lines.values() for point in line]
    if not points:
        return []
    low_x, high_x = bounds([x for x, _ in points], 1.15)
    low_y, high_y = bounds([y for _, y in points], 1.4)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + width * math.log(x / low_x) / math.log(high_x / low_x),
            top + height - height * math.log(y / low_y) / math.log(high_y / low_y),
        )

    parts = [text(left, top - 6, panel.title, weight="600", size=13)]
    for value in ticks(low_y, high_y):
        _, y = at(low_x, value)
        parts.append(f'<path d="M{left:.1f} {y:.1f}h{width:.1f}" stroke="{FAINT}"/>')
        parts.append(text(left - 6, y + 4, f"{value:g}", anchor="end", size=11, fill=SOFT))
    for value in sorted({x for x, _ in points}):
        x, _ = at(value, low_y)
        parts.append(f'<path d="M{x:.1f} {top + height:.1f}v4" stroke="{SOFT}"/>')
        parts.append(text(x, top + height + 17, short(value), anchor="middle", size=11, fill=SOFT))
    parts.append(f'<path d="M{left:.1f} {top + height:.1f}h{width:.1f}" stroke="{SOFT}"/>')
    parts.append(text(left + width / 2, top + height + 38, x_title, anchor="middle", size=12, fill=SOFT))
    if y_title:
        y = top + height / 2
        parts.append(f'<g transform="rotate(-90 14 {y:.1f})">{text(14, y, y_title, anchor="middle", size=12, fill=SOFT)}</g>')
    # Tessera last, so that it lies on top.
    for series in sorted(panel.lines, key=lambda series: series == "tessera"):
        places = [at(x, y) for x, y in sorted(panel.lines[series])]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        stroke = 2.5 if series == "tessera" else 1.5
        parts.append(f'<path d="{path}" fill="none" stroke="{COLOURS[series]}" stroke-width="{stroke}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{stroke + 0.8}" fill="{COLOURS[series]}"/>' for x, y in places]
    return parts


def bounds(values: list[float], margin: float) -> tuple[float, float]:
    """The ends of a logarithmic axis, a little beyond the values."""
    return min(values) / margin, max(values) * margin


def ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten, or powers alone where that would be many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def short(value: float) -> str:
    """A number for an axis."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def heading(title: str, note: str) -> tuple[list[str], int]:
    """The title with what it means below it, and where to go on."""
    return [text(16, 28, title, weight="600", size=16), text(16, 48, note, size=12, fill=SOFT)], 54


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "400", size: int = 13, fill: str = TEXT) -> str:
    """A line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" '
        f'fill="{fill}">{escape(words)}</text>'
    )


def document(parts: list[str], height: float) -> str:
    """The file, on white, so that it can be read on a dark page too."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'font-family="{escape(FONT, {chr(34): "&quot;"})}">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
