"""What tests of rehearsals have in common: machines of this host, and what is asked of a step's
outcome."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from logship.rehearsal.engine.local import LocalEngine
from logship.rehearsal.outcome import Proof, Result, StepOutcome
from tests.support.directories import open_directory


@contextmanager
def engine_of_this_host() -> Iterator[LocalEngine]:
    """Its machines are in memory, where there is room: copies of clusters that are synced take a
    disk that has more to do longer than anything waits here."""
    directory = open_directory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(directory))
        engine = LocalEngine()
    try:
        yield engine
    finally:
        engine.close()
        shutil.rmtree(directory, ignore_errors=True)


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
