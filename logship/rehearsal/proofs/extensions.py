"""Whether an opened standby can load the libraries that its databases call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.proofs.reference import Reference
from logship.rehearsal.site.server import Server


def look_at_extensions(opened: Server, reference: Reference) -> Observation:
    """Also those that the primary preloads.  Raises LogshipError: the server can't be asked."""
    preload = [name.strip(" \"'") for name in reference.preload.split(",")]
    return judge(opened.ask("libraries", {"preload": [name for name in preload if name]}))


def judge(found: Mapping[str, Any]) -> Observation:
    """found: as `inside.libraries` answers.  Pure."""
    unloadable = found["unloadable"]
    if not unloadable:
        said = f"{found['libraries']} libraries load"
        return Observation(Proof.EXTENSIONS, Result.PASSED, said)
    symptoms = frozenset({Symptom.EXTENSIONS})
    return Observation(Proof.EXTENSIONS, Result.FAILED, "; ".join(unloadable), symptoms)
