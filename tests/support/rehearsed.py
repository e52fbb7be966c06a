"""What tests of whole rehearsals ask of a step's outcome."""

from __future__ import annotations

from logship.rehearsal.outcome import Proof, Result, StepOutcome


def raised(outcome: StepOutcome) -> dict[str, str]:
    """The rules that did not pass, but for the one that nearly every minor here is on."""
    return {
        each.rule: each.outcome
        for each in outcome.verdict.rules
        if each.outcome != "pass" and each.rule != "known-bad-minors"
    }


def results(outcome: StepOutcome) -> dict[Proof, Result]:
    return {each.proof: each.result for each in outcome.observations}


def said(outcome: StepOutcome, proof: Proof) -> str:
    """Of the last observation of `proof`: that of the state after the step."""
    return [each.said for each in outcome.observations if each.proof is proof][-1]


def disputed(outcome: StepOutcome) -> list[str]:
    return [each.rule for each in outcome.findings if each.rule != "known-bad-minors"]


def check_protected(outcome: StepOutcome) -> None:
    """All that is looked at was looked at, and the check had foreseen nothing else."""
    assert outcome.protected, outcome
    assert results(outcome) == dict.fromkeys(Proof, Result.PASSED)
    assert (raised(outcome), disputed(outcome)) == ({}, [])


def check_outage(outcome: StepOutcome) -> None:
    outage = outcome.outage
    assert outage.writes_seconds is not None
    assert outage.protection_seconds is not None
    assert outage.standby_seconds is not None
    assert outage.protection_seconds <= outage.standby_seconds
