"""pg_upgrade of the primary: another cluster under the same name, seeded anew, and the cut-over.

Until the new cluster's standby streams, the old one is all there is to promote.  So a copy of the
recovery server is made as soon as the new one is known there, and the old one is opened on it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from logship.errors import Code, LogshipError
from logship.identity import Incarnation
from logship.rehearsal.outcome import Observation, Verdict
from logship.rehearsal.plan import Step
from logship.rehearsal.proofs.drill import drill
from logship.rehearsal.proofs.reference import take_reference
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
        reference = take_reference(primary.server)
        stage.wait_following()
        stage.change_primary(self._image)
        primary.start()
        stage.say(f"  pg_upgrade to {self._major}")
        primary.upgrade_major(self._major)
        stage.resume_writes()
        stage.ship()
        new = _wait_succeeded(stage, old)
        stage.say(f"  {new} takes the place of {old}, which is opened on a copy")
        observations = drill(recovery, reference, old)
        return Made(
            observations=tuple(_of_old(each, old) for each in observations),
            is_new_cluster=True,
            details={"incarnation_before": old, "incarnation": new},
        )


def _wait_succeeded(stage: Stage, old: str) -> str:
    """Until the recovery server knows the new cluster and keeps the old; its name."""
    deadline = time.monotonic() + SUCCESSION_SECONDS
    while True:
        status = stage.recovery.status()
        found, kept = status.get("incarnation"), status.get("previous") or ()
        if found and old in map(_name_of, kept):
            return _name_of(found)
        if time.monotonic() >= deadline:
            raise LogshipError(
                Code.REHEARSAL_FAILED,
                f"the upgraded cluster did not take the place of {old} within "
                f"{SUCCESSION_SECONDS:.0f} s; the instance is {status.get('phase')}",
                "see what the applier says of it",
            )
        time.sleep(_POLL_SECONDS)


def _name_of(cluster: Mapping[str, Any]) -> str:
    return str(Incarnation(cluster["system_identifier"], cluster["major"]))


def _of_old(observation: Observation, old: str) -> Observation:
    return replace(observation, said=f"of {old}, kept until the cut-over: {observation.said}")
