"""The ratios as an SVG: where each stands, how far it spread, where it should be."""

from __future__ import annotations

import math
from html import escape

from tests.bench import results
from tests.bench.catalog import CATALOG, MEASURES, Row
from tests.bench.page import number
from tests.bench.results import Document
from tests.bench.samples import Figure

_WIDTH = 920
_LABELS_WIDTH = 440
_PLOT_WIDTH = 330
_TOP = 64
_ROW_HEIGHT = 34
_BOTTOM = 58

_INK, _FAINT, _GOOD, _BAD, _PLAIN = "#1f2933", "#9aa5b1", "#1b7f4b", "#b42318", "#3b5b8c"


def chart(document: Document) -> str:
    """A whole SVG document; also when nothing was measured."""
    found = results.figures(document)
    shown = [(row, found[row.name]) for row in CATALOG if row.is_ratio and row.name in found]
    scale = _Scale(shown)
    height = _TOP + _ROW_HEIGHT * max(1, len(shown)) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="13" '
        f'fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(20, 28, "Logship beside PostgreSQL's own tools", size=17, weight="bold"),
        *_axis(scale, height),
    ]
    if not shown:
        parts.append(_text(20, _TOP + 22, "nothing was measured yet"))
    for index, (row, figure) in enumerate(shown):
        parts += _row(row, figure, scale, _TOP + _ROW_HEIGHT * index + _ROW_HEIGHT / 2)
    parts += [
        _text(20, height - 14, "dot: median · line: least to most · ▏aim, arrow: the good side"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Scale:
    """Logarithmic: twice as slow stands as far from 1 as twice as fast."""

    def __init__(self, shown: list[tuple[Row, Figure]]) -> None:
        values = [0.5, 2.0]
        for row, figure in shown:
            values += [v for v in (figure.least, figure.most, row.aim or 1.0) if v > 0]
        self.first = math.floor(math.log2(min(values)))
        self.last = math.ceil(math.log2(max(values)))

    def x(self, value: float) -> float:
        low, high = 2.0**self.first, 2.0**self.last
        share = math.log2(min(max(value, low), high)) - self.first
        return _LABELS_WIDTH + _PLOT_WIDTH * share / (self.last - self.first)


def _axis(scale: _Scale, height: float) -> list[str]:
    bottom = height - _BOTTOM + 4
    parts = []
    for power in range(scale.first, scale.last + 1):
        x = scale.x(2.0**power)
        colour, width = (_INK, 1.4) if power == 0 else ("#e4e7eb", 1.0)
        parts.append(_line(x, _TOP - 6, x, bottom, colour, width))
        parts.append(_text(x, bottom + 16, f"{2.0**power:g}×", anchor="middle", colour=_FAINT))
    return parts


def _row(row: Row, figure: Figure, scale: _Scale, y: float) -> list[str]:
    reached = row.reached(figure.median)
    colour = _PLAIN if reached is None else _GOOD if reached else _BAD
    verdict = "" if reached is None else " reached" if reached else " missed"
    title = MEASURES[row.measure].partition(" (")[0]
    parts = [
        _text(20, y - 2, title, weight="bold", size=12),
        _text(20, y + 12, row.label.replace("`", ""), size=11, colour="#52606d"),
        _line(scale.x(figure.least), y, scale.x(figure.most), y, colour, 3),
        f'<circle cx="{scale.x(figure.median):.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>',
        _text(_LABELS_WIDTH + _PLOT_WIDTH + 14, y + 4, number(figure.median) + "×" + verdict),
    ]
    if row.aim is not None:
        x = scale.x(row.aim)
        tip = x - 7 if row.better == "less" else x + 7
        parts.append(_line(x, y - 11, x, y + 11, _INK, 1.6))
        parts.append(_line(x, y - 11, tip, y - 11, _INK, 1.6))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}" stroke-linecap="round"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 13,
    weight: str = "normal",
    anchor: str = "start",
    colour: str = _INK,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
    )
