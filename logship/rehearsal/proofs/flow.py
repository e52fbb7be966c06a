"""Whether WAL flows from the primary and is applied."""

from __future__ import annotations

from logship.rehearsal.outcome import Observation, Proof, Result, Symptom
from logship.rehearsal.site.recovery import Progress


def judge(progress: Progress) -> Observation:
    """A standby that the version check holds has not failed: whether it could replay, a trial
    says.  Pure."""
    durable, replayed = progress.durable_seconds, progress.replayed_seconds
    if durable is None:
        symptoms = frozenset({Symptom.LINK})
        said = f"WAL does not arrive: {progress.said or 'nobody says why'}"
        return Observation(Proof.FLOW, Result.FAILED, said, symptoms)
    if progress.held:
        said = f"durable after {durable:.1f} s; held: {progress.said}"
        return Observation(Proof.FLOW, Result.NOT_RUN, said, seconds=durable)
    if replayed is not None:
        said = f"durable after {durable:.1f} s, replayed after {replayed:.1f} s"
        return Observation(Proof.FLOW, Result.PASSED, said, seconds=max(durable, replayed))
    symptom = Symptom.REPLAY if progress.runs else Symptom.START
    said = f"durable after {durable:.1f} s; not replayed: {progress.said or 'nobody says why'}"
    return Observation(Proof.FLOW, Result.FAILED, said, frozenset({symptom}), seconds=durable)
