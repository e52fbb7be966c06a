"""`build/bench.json`: what was measured so far.  Pure but for `load` and `save`.

    {"format": 1, <key of catalog.KEYS>: median or null, ...,
     "commit": that of every measure, or null,
     "machine": {...}, "software": {...},
     "measures": {<measure>: {"measured_at", "seconds", "commit", "busy_before", "notes": [...],
                              "figures": {<name>: {"median", "least", "most",
                                                   "repetitions"}},
                              "repetitions": [...]}},
     "failures": {<measure>: why},
     "failed_at": {<measure>: when}}

A measure that is run again replaces its old result and leaves the others: a run can be made in
parts, and has no one `commit` if they were made at several.  What was skipped is told in `notes`.
Times are text that sorts in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.catalog import CATALOG, KEYS
from tests.bench.samples import Figure

FORMAT = 1

Document = dict[str, Any]


class Outcome(NamedTuple):
    """What one measure returns."""

    figures: Mapping[str, Figure]
    repetitions: Sequence[Mapping[str, Any]]
    """The raw material, one a repetition; any shape that JSON has."""
    notes: Sequence[str] = ()


def empty() -> Document:
    """A document in which nothing was measured."""
    nothing: Document = {"format": FORMAT}
    return nothing | _summary({}) | {"measures": {}, "failures": {}, "failed_at": {}}


def merge(document: Document, measure: str, outcome: Outcome, about: Mapping[str, Any]) -> Document:
    """`document` with a measure's new result.  Raises ValueError for figures that are not in
    the catalogue under this measure."""
    known = {row.name for row in CATALOG if row.measure == measure}
    if unknown := outcome.figures.keys() - known:
        raise ValueError(f"{measure} has no figures {sorted(unknown)}")
    entry = {
        **about,
        "notes": list(outcome.notes),
        "figures": {name: figure._asdict() for name, figure in outcome.figures.items()},
        "repetitions": [dict(repetition) for repetition in outcome.repetitions],
    }
    measures = {**document["measures"], measure: entry}
    return {
        **document,
        **_summary(measures),
        "measures": measures,
        "failures": _without(document["failures"], measure),
        "failed_at": _without(document.get("failed_at", {}), measure),
    }


def fail(document: Document, measure: str, why: str, failed_at: str) -> Document:
    """`document` with a failure; what an earlier run found of this measure is dropped, so that
    nobody takes it for this run's."""
    measures = _without(document["measures"], measure)
    return {
        **document,
        **_summary(measures),
        "measures": measures,
        "failures": {**document["failures"], measure: why},
        "failed_at": {**document.get("failed_at", {}), measure: failed_at},
    }


def _without(entries: Mapping[str, Any], measure: str) -> dict[str, Any]:
    return {name: entry for name, entry in entries.items() if name != measure}


def figures(document: Document) -> dict[str, Figure]:
    """Every figure that was measured, by name."""
    return {
        name: Figure(**figure)
        for entry in document["measures"].values()
        for name, figure in entry["figures"].items()
    }


def _summary(measures: Mapping[str, Any]) -> dict[str, float | str | None]:
    """What stands at the document's top."""
    found = figures({"measures": measures})
    commits = {entry["commit"] for entry in measures.values()}
    return {
        **{key: found[key].median if key in found else None for key in KEYS},
        "commit": commits.pop() if len(commits) == 1 else None,
    }


def load(path: Path) -> Document:
    """What is there, or `empty()`.  A file of another format is not continued."""
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return empty()
    return document if document.get("format") == FORMAT else empty()


def save(path: Path, document: Document) -> None:
    """Replace the file at once: a run that is cut off leaves the last whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    new.replace(path)
