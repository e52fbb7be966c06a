"""Whether an opened standby has the primary's rows."""

from __future__ import annotations

from collections.abc import Mapping

from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.reference import Reference, contents_of
from logship.rehearsal.site.server import Server

_MOST_NAMED = 5


def look_at_contents(opened: Server, reference: Reference) -> Observation:
    """Raises LogshipError: the server can't be asked."""
    return compare_contents(reference.contents, contents_of(opened))


def compare_contents(expected: Mapping[str, str], found: Mapping[str, str]) -> Observation:
    """Both: count and digest by table.  Pure."""
    differing = [
        f"{table}: {found.get(table, 'not there')}, on the primary {expected.get(table, 'none')}"
        for table in sorted(expected.keys() | found.keys())
        if expected.get(table) != found.get(table)
    ]
    if not differing:
        return Observation(Proof.CONTENTS, Result.PASSED, f"{len(expected)} tables are equal")
    more = len(differing) - _MOST_NAMED
    said = "; ".join(differing[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return Observation(Proof.CONTENTS, Result.FAILED, said, frozenset({Symptom.CONTENTS}))
