"""Whether the indexes and tables of an opened standby are sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.listing import listed
from logship.rehearsal.proofs.reference import Reference
from logship.rehearsal.site.server import Server

AMCHECK_SECONDS = 1800.0


def look_with_amcheck(opened: Server, _: Reference) -> Observation:
    """Raises LogshipError: the server can't be asked."""
    return judge(opened.ask("amcheck", timeout_seconds=AMCHECK_SECONDS))


def judge(found: Mapping[str, Any]) -> Observation:
    """found: as `inside.amcheck` answers.  Pure."""
    faults, lacking = found["faults"], found["lacking"]
    if faults:
        symptoms = frozenset({Symptom.INDEXES})
        return Observation(Proof.AMCHECK, Result.FAILED, listed(faults), symptoms)
    if lacking:
        said = f"amcheck can't be had: {'; '.join(lacking)}"
        return Observation(Proof.AMCHECK, Result.NOT_RUN, said)
    said = f"{found['indexes']} indexes and {found['tables']} tables are sound"
    return Observation(Proof.AMCHECK, Result.PASSED, said)
