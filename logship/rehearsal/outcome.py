"""What came of a rehearsal, as values.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from logship.rehearsal.plan import Plan, Step


class Symptom(StrEnum):
    """A way in which protection breaks, as it is seen on the standby or on what it became."""

    LINK = "link"
    """Shipper and applier do not talk."""
    START = "start"
    """The server does not start on the copy of the primary's data."""
    REPLAY = "replay"
    """It does not replay all that the primary wrote."""
    PROMOTE = "promote"
    """It is not opened."""
    CONNECT = "connect"
    """Once opened, a database can't be entered."""
    CONTENTS = "contents"
    """Once opened, it has other rows than its primary."""
    INDEXES = "indexes"
    """Once opened, amcheck finds a fault."""
    ORDER = "order"
    """Once opened, text is ordered otherwise than on the primary."""
    COLLATION_VERSION = "collation-version"
    """Once opened, PostgreSQL records another version of a collation than it has."""
    EXTENSIONS = "extensions"
    """Once opened, a library of an extension can't be loaded."""
    CHECKSUMS = "checksums"
    """Once opened, it verifies pages by another rule than the primary."""


class Proof(StrEnum):
    """What is looked at after a step, in this order."""

    FLOW = "WAL flows and is applied"
    PROMOTE = "promotion"
    CONTENTS = "contents"
    AMCHECK = "amcheck"
    COLLATIONS = "collations"
    EXTENSIONS = "extensions"


NEEDED = frozenset({Proof.FLOW, Proof.PROMOTE, Proof.CONTENTS})
"""Without these nothing is known.  The others may lack what they look with, and say so."""


class Result(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Observation:
    """One proof.  symptoms: what is broken, if it failed.  said: of it, for a person: the
    numbers, or the server's own words."""

    proof: Proof
    result: Result
    said: str = ""
    symptoms: frozenset[Symptom] = frozenset()
    seconds: float = 0.0


@dataclass(frozen=True)
class RuleSaid:
    """What one rule of the version check said: as a finding of `shipper compat --json`."""

    rule: str
    outcome: str
    primary: str = ""
    standby: str = ""
    why: str = ""
    remedy: str = ""

    @property
    def compared(self) -> str:
        """For people: "16.14 / 16.9"."""
        return f"{self.primary or '-'} / {self.standby or '-'}"


@dataclass(frozen=True)
class Verdict:
    """What the check said before a step.  refused: what a command said that would not even take
    the change (a setting that can't be had), "" if none did."""

    rules: tuple[RuleSaid, ...] = ()
    refused: str = ""

    @property
    def blocked(self) -> bool:
        return bool(self.refused) or any(each.outcome == "block" for each in self.rules)


@dataclass(frozen=True)
class Outage:
    """What a step cost, in seconds, without what the rehearsal itself looked at meanwhile.  None:
    it does not apply, or did not end.

    writes_seconds: the longest time in which no commit of the primary succeeded.
    protection_seconds: from the step's start until all that the primary has was durable on the
    recovery server again.  standby_seconds: until it was replayed.
    exposed_bytes: the most WAL that only the primary had; None too where another cluster took its
    place, whose positions are others.
    """

    writes_seconds: float | None = None
    protection_seconds: float | None = None
    standby_seconds: float | None = None
    exposed_bytes: int | None = None


@dataclass(frozen=True)
class RuleFinding:
    """The check and what happened disagree: a finding against the rule, not against the plan.

    rule: "" where no rule spoke.
    """

    rule: str
    text: str


@dataclass(frozen=True)
class StepOutcome:
    """held: whether the applier's gate held the standby after the step: then `observations`
    are of a trial without the gate, on a copy.  refused: what a command said that did not take the
    change: then they are of a trial with it, if that could be had, and nothing was changed."""

    step: Step | None
    """None: the state before the first step."""
    verdict: Verdict
    observations: tuple[Observation, ...]
    held: bool = False
    refused: str = ""
    outage: Outage = Outage()
    findings: tuple[RuleFinding, ...] = ()
    not_run: str = ""
    """Why the step was not made at all: the engine can't, or the rehearsal ended before it."""
    not_seen: str = ""
    """Why nobody knows what came of it, though it was begun, or what would have come of what was
    refused: a machine does not do what it must."""
    unfinished: bool = False
    """Whether it was begun and failed before its end: `not_seen` says how."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def symptoms(self) -> frozenset[Symptom]:
        return frozenset().union(*(each.symptoms for each in self.observations))

    @property
    def protected(self) -> bool:
        """Whether protection is whole after the step, and was seen to be.

        An upgrade looks at the old cluster and at the new: what is needed is needed of both.
        """
        needed = [each for each in self.observations if each.proof in NEEDED]
        return (
            not (self.not_run or self.not_seen or self.held or self.refused)
            and {each.proof for each in needed} == NEEDED
            and all(each.result is Result.PASSED for each in needed)
            and not self.failed
        )

    @property
    def failed(self) -> bool:
        """Whether a proof failed: also one that was made before nothing more could be seen."""
        return any(each.result is Result.FAILED for each in self.observations)

    @property
    def unseen(self) -> bool:
        """Whether it was begun, nothing was seen to break, and not all that is needed was seen."""
        known = self.protected or self.held or self.refused or self.failed
        return not (self.not_run or known)

    @property
    def title(self) -> str:
        return "before the first step" if self.step is None else self.step.title


@dataclass(frozen=True)
class Report:
    """begun_at: seconds since the epoch."""

    plan: Plan
    engine: str
    begun_at: float
    seconds: float
    steps: tuple[StepOutcome, ...]
    logship: str
    """The version that rehearsed."""

    @property
    def protected(self) -> bool:
        """Whether protection would survive: every step was made and looked at, and kept it."""
        return all(each.protected for each in self.steps)

    @property
    def findings(self) -> tuple[RuleFinding, ...]:
        return tuple(finding for each in self.steps for finding in each.findings)
