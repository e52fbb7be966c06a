"""pg_upgrade of the primary: another cluster under the same name, seeded anew, and the cut-over.

Until the new cluster's standby streams, the old one is all there is to promote.  So a copy of the
recovery server is made as soon as the new one is known there; the old one is opened on it when the
upgrade's cost is known.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from logship.errors import Code, LogshipError
from logship.identity import Incarnation
from logship.rehearsal.outcome import Observation, Proof, Result, Verdict
from logship.rehearsal.plan import Step
from logship.rehearsal.proofs.drill import promote_copy
from logship.rehearsal.proofs.reference import Reference, take_reference
from logship.rehearsal.site.recovery import Recovery
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps import Made

SUCCESSION_SECONDS = 120.0
_POLL_SECONDS = 0.2


class MajorUpgrade:
    def __init__(self, step: Step) -> None:
        self._image = step.to
        self._major = step.to_major

    def foresee(self, stage: Stage) -> Verdict:
        with stage.primary_copy(image=self._image) as primary:
            primary.start()
            primary.upgrade_major(self._major)
            return stage.verdict_on(primary)

    def make(self, stage: Stage) -> Made:
        primary, recovery = stage.primary, stage.recovery
        old = recovery.incarnation().name
        # What the old cluster holds at its end is known only if nobody writes any more.
        stage.pause_writes()
        with stage.looking():
            reference = take_reference(primary.server)
        stage.wait_following()
        stage.change_primary(self._image)
        primary.start()
        stage.say(f"  pg_upgrade to {self._major}")
        primary.upgrade_major(self._major)
        try:
            return _followed(stage, reference, old)
        except LogshipError as error:
            return _unseen(error, old)


def _followed(stage: Stage, reference: Reference, old: str) -> Made:
    """After pg_upgrade.  Raises LogshipError: a machine does not do what it must."""
    stage.resume_writes()
    stage.ship()
    try:
        new = _wait_succeeded(stage, old)
    except LogshipError as error:
        # What came of the new cluster is to be seen all the same.
        missed = Observation(Proof.PROMOTE, Result.NOT_RUN, f"of {old}: {error}")
        details = {"incarnation_before": old}
        return Made(look=lambda: (missed,), is_new_cluster=True, details=details)
    stage.say(f"  {new} takes the place of {old}, of which a copy is made")
    with stage.looking():
        copy = stage.recovery.stopped_copy()

    def look() -> tuple[Observation, ...]:
        stage.say(f"  {old} is opened on the copy")
        return _look_at_old(copy, reference, old)

    details = {"incarnation_before": old, "incarnation": new}
    return Made(look=look, drop=copy.remove, is_new_cluster=True, details=details)


def _unseen(error: LogshipError, old: str) -> Made:
    """It is made all the same: only, nobody can say what came of it."""

    def look() -> tuple[Observation, ...]:
        raise error

    return Made(look=look, is_new_cluster=True, details={"incarnation_before": old})


def _wait_succeeded(stage: Stage, old: str) -> str:
    """Until the recovery server knows the new cluster and keeps the old; its name."""
    deadline = time.monotonic() + SUCCESSION_SECONDS
    status: Mapping[str, Any] = {}
    while True:
        with contextlib.suppress(LogshipError):
            status = stage.recovery.status()
        found, kept = status.get("incarnation"), status.get("previous") or ()
        if found and old in map(_name_of, kept):
            return _name_of(found)
        if time.monotonic() >= deadline:
            seen = f"the instance is {status.get('phase')}" if status else "nobody answered"
            raise LogshipError(
                Code.REHEARSAL_FAILED,
                f"the upgraded cluster did not take the place of {old} within "
                f"{SUCCESSION_SECONDS:.0f} s; {seen}",
                "see what the applier says of it",
            )
        time.sleep(_POLL_SECONDS)


def _name_of(cluster: Mapping[str, Any]) -> str:
    return str(Incarnation(cluster["system_identifier"], cluster["major"]))


def _look_at_old(copy: Recovery, reference: Reference, old: str) -> tuple[Observation, ...]:
    """Promote it on the copy, which is gone afterwards."""
    try:
        observations = promote_copy(copy, reference, old)
    finally:
        copy.remove()
    whose = f"of {old}, kept until the cut-over"
    return tuple(replace(each, said=f"{whose}: {each.said}") for each in observations)
