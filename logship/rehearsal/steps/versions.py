"""Shipper or applier of another Logship."""

from __future__ import annotations

from typing import Any

from logship.errors import LogshipError
from logship.link.refusals import version_mismatch
from logship.rehearsal.agreement import LINK_PROTOCOL
from logship.rehearsal.engine import Machine
from logship.rehearsal.outcome import RuleSaid, Verdict
from logship.rehearsal.plan import Side, Step
from logship.rehearsal.site.programs import ask_logship
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps import Made

_WHY = "Without a version of the link's protocol that both speak, the two do not talk."


class LogshipChange:
    """The servers go on meanwhile: only the shipper, or the applier, is restarted."""

    def __init__(self, step: Step) -> None:
        self._side = step.side
        self._logship = step.to

    def foresee(self, stage: Stage) -> Verdict:
        primary, recovery = stage.primary.machine, stage.recovery.machine
        changed = primary if self._side is Side.PRIMARY else recovery
        other = stage.engine.machine("other-logship", changed.image, self._logship)
        try:
            shipper = _spoken(other if changed is primary else primary, "shipper")
            applier = _spoken(other if changed is recovery else recovery, "applier")
        finally:
            other.remove()
        return Verdict((compare_protocols(shipper, applier),))

    def make(self, stage: Stage) -> Made:
        if self._side is Side.PRIMARY:
            stage.primary.stop_shipper()
            stage.primary.machine.change(logship=self._logship)
            stage.ship()
        else:
            stage.recovery.stop_applier()
            stage.recovery.machine.change(logship=self._logship)
            stage.recovery.start()
        return Made()


def compare_protocols(shipper: tuple[int, int] | None, applier: tuple[int, int] | None) -> RuleSaid:
    """Oldest and newest version of the protocol that each speaks; None: it does not say, and is
    not compared.  Pure."""
    sides = [f"{each[0]}-{each[1]}" if each else "" for each in (shipper, applier)]
    refusal = version_mismatch(shipper, applier) if shipper and applier else None
    return RuleSaid(
        LINK_PROTOCOL,
        "pass" if refusal is None else "block",
        primary=sides[0],
        standby=sides[1],
        why=_WHY,
        remedy="" if refusal is None else refusal.hint,
    )


def _spoken(machine: Machine, program: str) -> tuple[int, int] | None:
    try:
        document: dict[str, Any] = ask_logship(machine, program, ["--version", "--json"])
    except LogshipError:
        # One from before this was told prints its version as text.
        return None
    protocol = document["protocol"]
    return int(protocol["oldest"]), int(protocol["newest"])
