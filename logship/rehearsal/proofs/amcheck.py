"""Whether the indexes and tables of an opened standby are sound, and how it verifies pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.reference import Reference
from logship.rehearsal.site.server import Server

AMCHECK_SECONDS = 1800.0
_MOST_NAMED = 5


def look_with_amcheck(opened: Server, reference: Reference) -> Observation:
    """Raises LogshipError: the server can't be asked."""
    found = opened.ask("amcheck", timeout_seconds=AMCHECK_SECONDS)
    ((checksums,),) = opened.sql("show data_checksums")
    return judge(found, str(checksums), reference.checksums)


def judge(found: Mapping[str, Any], checksums: str, expected_checksums: str) -> Observation:
    """found: as `inside.amcheck` answers.  Pure."""
    faults, lacking = list(found["faults"]), list(found["lacking"])
    symptoms = {Symptom.INDEXES} if faults else set()
    said = [f"{found['indexes']} indexes and {found['tables']} tables"]
    if faults:
        said = faults[:_MOST_NAMED]
        said += [f"and {len(faults) - _MOST_NAMED} more"] if len(faults) > _MOST_NAMED else []
    if checksums != expected_checksums:
        symptoms.add(Symptom.CHECKSUMS)
        said.append(f"data checksums are {checksums}, on the primary {expected_checksums}")
    if symptoms:
        return Observation(Proof.AMCHECK, Result.FAILED, "; ".join(said), frozenset(symptoms))
    if lacking:
        return Observation(
            Proof.AMCHECK, Result.NOT_RUN, f"amcheck can't be had: {'; '.join(lacking)}"
        )
    return Observation(Proof.AMCHECK, Result.PASSED, said[0])
