"""A fleet as a table, worst first, with what is under way and every alarm below it.  Pure.

`now` is seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

from logship.status_order import Concern, concern_of, worst_first
from logship.status_words import (
    Document,
    alarm_lines,
    apply_gap,
    get,
    last_drill,
    link,
    phase,
    protection,
    seed_progress,
    size,
    text,
    transfer_gap,
    version_check,
)
from logship.terminal import Line, Tone

_COLUMNS = (
    "NAME",
    "PHASE",
    "LINK",
    "PROTECTION",
    "FLUSHED",
    "DURABLE",
    "TRANSFER GAP",
    "APPLY GAP",
    "STANDBY",
    "CHECK",
    "ROOM",
    "LAST DRILL",
    "ALARMS",
)

_LEFT_OUT_FIRST = (
    "LAST DRILL",
    "FLUSHED",
    "DURABLE",
    "STANDBY",
    "ROOM",
    "LINK",
    "CHECK",
    "ALARMS",
    "APPLY GAP",
)
"""Where the terminal is too narrow for all of them."""

_SPACE = "  "
_MIN_CELL = 6
_MAX_BAR, _MIN_BAR = 32, 12


def table_lines(documents: Sequence[Document], now: float, width: int | None = None) -> list[Line]:
    """One line an instance, worst first; then how seeds get on, and every alarm.

    width: the table fits into so many characters; None: nothing is left out.
    """
    if not documents:
        return [Line("no instances")]
    ordered = worst_first(documents)
    rows = _rows(ordered, now, width)
    lines = [Line(rows[0], Tone.HEADING)]
    lines += [
        Line(row, _tone(concern_of(document)))
        for document, row in zip(ordered, rows[1:], strict=True)
    ]
    seeding = [document for document in ordered if get(document, "seed", "running")]
    lines += _seed_lines(seeding, width) if seeding else []
    for document in ordered:
        lines += _alarm_lines(document)
    return lines


def summary(documents: Sequence[Document]) -> str:
    """`12 instances, 2 need attention`."""
    count = len(documents)
    wanting = sum(concern_of(document).needs_a_person for document in documents)
    instances = "1 instance" if count == 1 else f"{count} instances"
    if not wanting:
        return f"{instances}, none needs attention"
    return f"{instances}, {wanting} {'needs' if wanting == 1 else 'need'} attention"


def _rows(documents: Sequence[Document], now: float, width: int | None) -> list[str]:
    """The heading and a row for each document."""
    cells = [dict(zip(_COLUMNS, _COLUMNS, strict=True))]
    cells += [_cells(document, now) for document in documents]
    widths = {column: max(len(row[column]) for row in cells) for column in _COLUMNS}
    for column in _LEFT_OUT_FIRST:
        if width is None or _total(widths) <= width:
            break
        del widths[column]
    if width is not None:
        _squeeze(widths, width)
    return [
        _SPACE.join(_cut(row[column], widths[column]) for column in widths).rstrip()
        for row in cells
    ]


def _squeeze(widths: dict[str, int], width: int) -> None:
    """Take from the widest until they fit."""
    while _total(widths) > width:
        widest = max(widths, key=lambda column: widths[column])
        if widths[widest] <= _MIN_CELL:
            return
        widths[widest] -= 1


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(_SPACE) * (len(widths) - 1)


def _cut(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else f"{cell[: width - 2]}.."


def _cells(document: Document, now: float) -> dict[str, str]:
    alarms = document.get("alarms") or []
    values = (
        text(document, "name"),
        phase(document),
        link(document, now),
        protection(document),
        text(document, "primary", "flush_lsn"),
        text(document, "store", "durable"),
        transfer_gap(document, now),
        apply_gap(document),
        text(document, "standby", "state"),
        version_check(document),
        size(get(document, "room", "bytes")),
        last_drill(document, now),
        str(len(alarms)) if alarms else "-",
    )
    return dict(zip(_COLUMNS, values, strict=True))


def _seed_lines(documents: Sequence[Document], width: int | None) -> list[Line]:
    names = max(len(text(document, "name")) for document in documents)
    bar_width = _MAX_BAR
    if width is not None:
        longest = max(len(seed_progress(document, 0)) for document in documents)
        bar_width = max(_MIN_BAR, min(_MAX_BAR, width - names - longest - len(_SPACE)))
    return [Line("")] + [
        Line(f"{text(document, 'name'):<{names}}{_SPACE}{seed_progress(document, bar_width)}")
        for document in documents
    ]


def _alarm_lines(document: Document) -> list[Line]:
    alarms = document.get("alarms") or []
    lines = [Line("")] if alarms else []
    for alarm in alarms:
        what, *hint = alarm_lines(f"{text(document, 'name')}: ", alarm)
        lines += [Line(what, Tone.BAD), *map(Line, hint)]
    return lines


def _tone(concern: Concern) -> Tone:
    if concern <= Concern.CUT_OFF:
        return Tone.BAD
    if concern <= Concern.WARNED:
        return Tone.WARNING
    return Tone.FAINT if concern is Concern.PROMOTED else Tone.PLAIN
