"""The outcome of a version check.  `logship.compat_view` shows it to a person."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec


class Outcome(IntEnum):
    """Ordered by severity, so that `max` of several is their overall outcome."""

    PASS = 0
    WARN = 1
    BLOCK = 2

    def __str__(self) -> str:
        return self.name.lower()


class Finding(NamedTuple):
    """One rule's answer.

    outcome: after overrides: an overridden block counts as a warning.  primary, standby: the
    values compared, as text ("" where that side has none).  why: why the rule exists.
    remedy: what to do now ("" if it passed).  overridden: it would have blocked.
    """

    rule: str
    outcome: Outcome
    primary: str
    standby: str
    why: str
    remedy: str = ""
    overridden: bool = False

    def as_dict(self) -> dict[str, object]:
        """The `--json` and HTTP form."""
        return {**self._asdict(), "outcome": str(self.outcome)}


class Lack(msgspec.Struct, frozen=True):
    """What a rule blocks for, overridden or not: `names` that the standby was seen to lack."""

    rule: str
    names: tuple[str, ...]


class Verdict(NamedTuple):
    """All findings, in the rules' order.  `outcome` is the worst of them.

    lacking: to be given to the next `check` of the same standby.
    """

    findings: tuple[Finding, ...]
    lacking: tuple[Lack, ...] = ()

    @property
    def outcome(self) -> Outcome:
        return max((finding.outcome for finding in self.findings), default=Outcome.PASS)

    @property
    def blocked(self) -> bool:
        """The standby must not be started.  Receiving and storing go on."""
        return self.outcome is Outcome.BLOCK

    @property
    def overridden(self) -> tuple[str, ...]:
        """Rules that would have blocked, had an operator not overridden them by name."""
        return tuple(finding.rule for finding in self.findings if finding.overridden)

    @property
    def concerns(self) -> tuple[Finding, ...]:
        """What did not pass, worst first."""
        return tuple(
            sorted(
                (finding for finding in self.findings if finding.outcome is not Outcome.PASS),
                key=lambda finding: -finding.outcome,
            )
        )

    def summary(self) -> str:
        """One sentence: `blocked: minor-order (17.9 / 17.7), architecture (aarch64 / x86_64)`."""
        if self.outcome is Outcome.PASS:
            return f"pass: all {len(self.findings)} rules"
        worst = [finding for finding in self.findings if finding.outcome is self.outcome]
        word = "blocked" if self.blocked else "warning"
        return f"{word}: " + ", ".join(
            f"{finding.rule} ({finding.primary or '-'} / {finding.standby or '-'})"
            for finding in worst
        )

    def as_dict(self) -> dict[str, object]:
        """The `--json` and HTTP form: outcome, blocked, overridden, findings."""
        return {
            "outcome": str(self.outcome),
            "blocked": self.blocked,
            "overridden": list(self.overridden),
            "findings": [finding.as_dict() for finding in self.findings],
        }
