"""Shipper or applier of another Logship."""

from __future__ import annotations

import json

from logship.link.refusals import version_mismatch
from logship.rehearsal.agreement import LINK_FACTS, LINK_PROTOCOL
from logship.rehearsal.engine import Machine
from logship.rehearsal.outcome import RuleSaid, Verdict
from logship.rehearsal.plan import Side, Step
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps import Made

_WHY = "Without a version of the link's protocol that both speak, the two do not talk."
_NOT_COMPARED = (
    "Versions of the link's protocol that one of the two does not tell can't be compared."
)
_BEFORE_IT_WAS_TOLD = (1, 1)
"""What all spoke that print their version as text alone."""


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
            shipper = _asked(other if changed is primary else primary, "shipper")
            applier = _asked(other if changed is recovery else recovery, "applier")
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
    """Oldest and newest version of the protocol that each speaks; None: it does not say, and
    nothing is compared.  Pure."""
    primary, standby = (f"{each[0]}-{each[1]}" if each else "" for each in (shipper, applier))
    if shipper is None or applier is None:
        remedy = "see by the step itself whether the two talk"
        return RuleSaid(LINK_FACTS, "warn", primary, standby, _NOT_COMPARED, remedy)
    refusal = version_mismatch(shipper, applier)
    return RuleSaid(
        LINK_PROTOCOL,
        "pass" if refusal is None else "block",
        primary,
        standby,
        _WHY,
        "" if refusal is None else refusal.hint,
    )


def spoken(program: str, text: str) -> tuple[int, int] | None:
    """Oldest and newest version of the protocol, of what `PROGRAM --version --json` printed.  Pure.

    None: it is neither the answer of this Logship nor of one before it.
    """
    try:
        protocol = json.loads(text)["protocol"]
        return int(protocol["oldest"]), int(protocol["newest"])
    except (ValueError, TypeError, LookupError):
        words = text.split()
        return _BEFORE_IT_WAS_TOLD if len(words) == 2 and words[0] == program else None


def _asked(machine: Machine, program: str) -> tuple[int, int] | None:
    return spoken(
        program, machine.run([*machine.logship_command(program), "--version", "--json"]).stdout
    )
