"""Runs the rules over a primary and a standby, and heeds what an operator overrides."""

from __future__ import annotations

from collections.abc import Sequence

from applier.compat.advisories import Advisory, load_advisories
from applier.compat.case import BLOCK, WARN, Answer, Case, Rule
from applier.compat.profiles import StandbyProfile
from applier.compat.rules import OVERRIDABLE_RULES, RULES
from applier.compat.verdict import Finding, Lack, Verdict
from logship.errors import Code, UsageError
from logship.identity import Incarnation, Profile


def check(
    primary: Profile,
    standby: StandbyProfile,
    expected_incarnation: Incarnation | None,
    overrides: frozenset[str] = frozenset(),
    *,
    lacked: Sequence[Lack] = (),
    advisories: tuple[Advisory, ...] | None = None,
) -> Verdict:
    """Compare a primary with the standby that would replay its WAL.

    expected_incarnation: what the instance's store and seed are of; None before the first.
    overrides: names of rules whose block counts as a warning; names of rules that can't be
    overridden have no effect (`check_override_names` refuses them where they are configured).
    lacked: what the verdict before said is lacking; none before the first.  What blocked stays
    blocked until both sides are known well enough to see that it is over.
    advisories: known-bad minors, by default those that ship with Logship.

    The caller must not start the standby while the verdict is `blocked`, must go on receiving
    and storing, and asks again when the profile, the installation or the settings change.
    """
    known = load_advisories() if advisories is None else advisories
    case = Case(primary, standby, expected_incarnation, known)
    names = {lack.rule: lack.names for lack in lacked}
    answers = [
        (rule, rule.compare(case._replace(lacked=names.get(rule.name, ())))) for rule in RULES
    ]
    return Verdict(
        tuple(_finding(rule, answer, overrides) for rule, answer in answers),
        tuple(Lack(rule.name, answer.lacking) for rule, answer in answers if answer.lacking),
    )


def _finding(rule: Rule, answer: Answer, overrides: frozenset[str]) -> Finding:
    overridden = answer.outcome is BLOCK and rule.overridable and rule.name in overrides
    remedy = answer.remedy
    if answer.outcome is BLOCK and rule.overridable and not overridden:
        remedy += f"; or override the rule by its name, {rule.name}, for this instance"
    return Finding(
        rule=rule.name,
        outcome=WARN if overridden else answer.outcome,
        primary=answer.primary,
        standby=answer.standby,
        why=answer.why or rule.why,
        remedy=remedy,
        overridden=overridden,
    )


def check_override_names(names: frozenset[str]) -> frozenset[str]:
    """Return `names` if each may be overridden, else raise UsageError(SETTINGS)."""
    for name in sorted(names - OVERRIDABLE_RULES):
        known = any(rule.name == name for rule in RULES)
        raise UsageError(
            Code.SETTINGS,
            f"the version rule {name!r} can't be overridden"
            if known
            else f"there is no version rule {name!r}",
            f"rules that may be overridden: {', '.join(sorted(OVERRIDABLE_RULES))}",
        )
    return names
