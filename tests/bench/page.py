"""The results as a table on the terminal and as the results section of docs/performance.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.bench import results
from tests.bench.catalog import CATALOG, MEASURES, Row
from tests.bench.results import Document
from tests.bench.samples import Figure

BEGIN = "<!-- results: written by `make bench`, do not edit -->"
END = "<!-- end of results -->"

_TITLE = re.compile(r"^### (.+)\n", re.MULTILINE)
_MEASURED_AT = re.compile(r"^Measured (\d{4}-\d\d-\d\d \d\d:\d\d UTC) at ", re.MULTILINE)
"""As `_when` writes it, in an order that text sorts in."""


class Line(NamedTuple):
    """One row of a table, as text."""

    label: str
    value: str
    spread: str
    aim: str


def lines(document: Document, measure: str) -> Iterator[Line]:
    """What was measured of one measure, in the catalogue's order."""
    found = results.figures(document)
    for row in CATALOG:
        if row.measure == measure and (figure := found.get(row.name)) is not None:
            yield _line(row, figure)


def _line(row: Row, figure: Figure) -> Line:
    spread = f"{number(figure.least)} – {number(figure.most)}" if figure.repetitions > 1 else ""
    return Line(row.label, f"{number(figure.median)} {row.unit}", spread, _aim(row, figure))


def _aim(row: Row, figure: Figure) -> str:
    if row.aim is None:
        return ""
    sign = "≤" if row.better == "less" else "≥"
    verdict = "reached" if row.reached(figure.median) else "missed"
    return f"{sign} {row.aim:g}: {verdict}"


def number(value: float) -> str:
    """Three significant digits, never an exponent: 0.0412, 1.25, 248, 1152."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    # Rounded first: 9.999 shall be 10.0, not 10.00.
    rounded = float(f"{value:.3g}")
    digits = max(0, 2 - _exponent(rounded))
    return f"{rounded:.{min(digits, 6)}f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def table(document: Document, measures: list[str]) -> str:
    """For the terminal."""
    out: list[str] = []
    for measure in measures:
        found = list(lines(document, measure))
        if measure in document["failures"]:
            out += ["", f"{MEASURES[measure]}: FAILED: {document['failures'][measure]}"]
        if not found:
            continue
        out += ["", f"{MEASURES[measure]}"]
        out += [
            f"  {line.label:<48} {line.value:>12}  {line.spread:<17} {line.aim}".rstrip()
            for line in found
        ]
        out += [f"  note: {note}" for note in document["measures"][measure]["notes"]]
    return "\n".join(out)


def section(document: Document, kept: Mapping[str, str] | None = None) -> str:
    """The results section, markers included.  The same text for the same document.  kept: what
    stands in place of what the document has, by measure."""
    kept = kept or {}
    is_measured = bool(document["measures"] or kept)
    body: list[str] = [BEGIN, ""]
    if is_measured:
        body += _facts(document)
    else:
        body += ["Not measured yet: `make bench` writes this section.", ""]
    for measure, title in MEASURES.items():
        if measure in kept:
            body += [kept[measure], ""]
            continue
        entry = document["measures"].get(measure)
        if entry is None:
            if is_measured:
                why = document["failures"].get(measure, "not measured")
                body += [f"### {title}", "", f"No result: {why}.", ""]
            continue
        body += [f"### {title}", "", "| figure | median | min – max | aim |", "|---|---|---|---|"]
        body += [
            f"| {line.label} | **{line.value}** | {line.spread} | {line.aim} |"
            for line in lines(document, measure)
        ]
        body += ["", f"{_when(entry)}", ""]
        body += [f"- {note}" for note in entry["notes"]] + ([""] if entry["notes"] else [])
    return "\n".join([*body, END])


def _facts(document: Document) -> list[str]:
    facts = {**document.get("machine", {}), **document.get("software", {})}
    shown = "; ".join(f"{name}: {value}" for name, value in facts.items())
    return [f"Median, and least to most over the repetitions. {shown}.", ""]


def _when(entry: dict[str, object]) -> str:
    return (
        f"Measured {entry['measured_at']} at commit {entry['commit']} in {entry['seconds']:.0f} s; "
        f"the machine was {entry['busy_before']:.0%} busy just before."
    )


def replace_section(text: str, document: Document) -> str:
    """`text` with its results section written anew; results in it that are later than what
    the document says of their measure stay.  Raises ValueError unless both markers are in it
    once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError("the page must have each marker of the results section once")
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    return before + section(document, _later(old, document)) + after


def _later(old: str, document: Document) -> dict[str, str]:
    """The text, by measure, of results in `old` that the document has nothing or older of.

    The document lies in build/, which each checkout has its own of: what another one measured is
    known from the page alone.  A measure that failed has no older result, here neither; a failure
    without a time is of a document that had none yet, and older than any result.
    """
    _, *parts = _TITLE.split(old)
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    kept = {}
    for measure, title in MEASURES.items():
        found = _MEASURED_AT.search(texts.get(title, ""))
        if found is None:
            continue
        entry = document["measures"].get(measure)
        known_at = entry["measured_at"] if entry else document.get("failed_at", {}).get(measure, "")
        if known_at < found[1]:
            kept[measure] = f"### {title}\n{texts[title].rstrip()}"
    return kept


def write(path: Path, document: Document) -> None:
    """Bring the page's results section up to date."""
    text = path.read_text(encoding="utf-8")
    path.write_text(replace_section(text, document), encoding="utf-8")
