"""Looks at what a step left: on the real machines, on a promoted copy, or in a trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from logship.errors import LogshipError
from logship.rehearsal.outcome import Observation, Result, Symptom
from logship.rehearsal.proofs.drill import drill
from logship.rehearsal.proofs.flow import judge
from logship.rehearsal.proofs.opened import not_promoted
from logship.rehearsal.proofs.reference import Reference, take_reference
from logship.rehearsal.proofs.trial import trial
from logship.rehearsal.site.recovery import Progress
from logship.rehearsal.site.stage import Stage


class Proven(NamedTuple):
    """held: whether the version check held the standby: what was seen is then of a trial without
    it, on a copy."""

    observations: tuple[Observation, ...]
    held: bool = False


def prove(stage: Stage, refused: Mapping[str, str] | None = None) -> Proven:
    """All the proofs of how it is now.  Nobody writes meanwhile.

    refused: parameters that the applier would not take for the standby: what would have come of
    them is seen in a trial.  Raises LogshipError: a machine does not do what it must.
    """
    reference = take_reference(stage.primary.server)
    progress = stage.recovery.wait_protected(reference.lsn, stage.patience_seconds)
    if refused is not None:
        return Proven(trial(stage.recovery, reference, parameters=refused))
    flow = judge(progress)
    if flow.result is Result.PASSED:
        return Proven((flow, *drill(stage.recovery, reference)))
    if Symptom.LINK in flow.symptoms:
        why = "what the primary wrote is not on the recovery server"
        return Proven((flow, *not_promoted(why)), progress.held)
    return _without_the_gate(stage, reference, progress, flow)


def _without_the_gate(
    stage: Stage, reference: Reference, progress: Progress, flow: Observation
) -> Proven:
    try:
        tried = trial(stage.recovery, reference)
    except LogshipError as error:
        why = f"PostgreSQL alone can't be tried: {error.what}"
        return Proven((flow, *not_promoted(why)), progress.held)
    if progress.held:
        return Proven(tried, held=True)
    return Proven((flow, *tried[1:]))
