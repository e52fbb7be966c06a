"""Whether an opened standby has the primary's rows, and verifies its pages as the primary does."""

from __future__ import annotations

from collections.abc import Mapping

from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.listing import listed
from logship.rehearsal.proofs.reference import Reference, contents_of
from logship.rehearsal.site.server import Server


def look_at_contents(opened: Server, reference: Reference) -> Observation:
    """Raises LogshipError: the server can't be asked."""
    ((checksums,),) = opened.sql("show data_checksums")
    return compare(reference, contents_of(opened), str(checksums))


def compare(reference: Reference, found: Mapping[str, str], checksums: str) -> Observation:
    """found: count and digest by table.  checksums: `data_checksums` of the same server.  Pure."""
    expected = reference.contents
    others = [
        f"{table}: {found.get(table, 'not there')}, on the primary {expected.get(table, 'none')}"
        for table in sorted(expected.keys() | found.keys())
        if expected.get(table) != found.get(table)
    ]
    symptoms = {Symptom.CONTENTS} if others else set()
    said = [listed(others)] if others else []
    if checksums != reference.checksums:
        symptoms.add(Symptom.CHECKSUMS)
        said.append(f"data checksums are {checksums}, on the primary {reference.checksums}")
    if symptoms:
        return Observation(Proof.CONTENTS, Result.FAILED, "; ".join(said), frozenset(symptoms))
    return Observation(Proof.CONTENTS, Result.PASSED, f"{len(expected)} tables are equal")
