"""Whether the version check said what then happened.  Pure.

A rule that warned or blocked where nothing of what it guards against was seen, and a fault that
no rule foresaw, are findings against the rules.  A rule is not judged by what nobody looked at:
where a standby did not start, nothing is known of the order of its text.  A warning that stood
before a step, of the same values, when what it warns of was looked at and not seen, has not
foreseen what broke in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from logship.rehearsal.outcome import (
    Observation,
    Proof,
    Result,
    RuleFinding,
    RuleSaid,
    StepOutcome,
    Symptom,
    Verdict,
)

LINK_PROTOCOL = "link-protocol"
"""The one rule that is not the applier's: whether shipper and applier speak a common protocol.  Its
version check compares servers, and is asked over this protocol."""
LINK_FACTS = "link-facts"
"""Raised where one of the two does not say which versions of the protocol it speaks."""

_OPENED_ORDER = frozenset({Symptom.ORDER, Symptom.COLLATION_VERSION, Symptom.INDEXES})
_FOLLOWS = frozenset({Symptom.START, Symptom.REPLAY})
_STARTS = frozenset({Symptom.START})

RULE_GUARDS: Mapping[str, frozenset[Symptom]] = {
    "system-identifier": _FOLLOWS | {Symptom.CONTENTS},
    "supported-majors": _FOLLOWS,
    "major": _FOLLOWS,
    "minor-order": _FOLLOWS | {Symptom.PROMOTE, Symptom.CONTENTS, Symptom.INDEXES},
    "known-bad-minors": _FOLLOWS | {Symptom.PROMOTE, Symptom.CONTENTS, Symptom.INDEXES},
    "catalog-version": _STARTS,
    "control-file-version": _STARTS,
    "block-size": _STARTS,
    "wal-block-size": _STARTS,
    "wal-segment-size": _FOLLOWS,
    "relation-segment-size": _STARTS,
    "alignment": _STARTS,
    "float8": _STARTS,
    "architecture": _FOLLOWS | {Symptom.INDEXES, Symptom.ORDER},
    "data-checksums": frozenset({Symptom.CHECKSUMS}),
    "parameter-floors": _FOLLOWS,
    "primary-facts": frozenset(),
    "host-facts": frozenset(),
    "operating-system": _OPENED_ORDER,
    "collation-versions": _OPENED_ORDER,
    "locales": frozenset({Symptom.PROMOTE, Symptom.CONNECT, Symptom.ORDER}),
    "preload-libraries": frozenset({Symptom.START, Symptom.EXTENSIONS}),
    "resource-managers": _FOLLOWS,
    "extension-libraries": frozenset({Symptom.EXTENSIONS}),
    "extension-versions": frozenset({Symptom.EXTENSIONS}),
    "tablespaces": _FOLLOWS | {Symptom.PROMOTE},
    "standby-collations": _OPENED_ORDER,
    "standby-libraries": frozenset({Symptom.EXTENSIONS}),
    LINK_PROTOCOL: frozenset({Symptom.LINK}),
    LINK_FACTS: frozenset(),
}
"""What each rule guards against.  Nothing: the rule tells what the others could not compare,
and can't be wrong by what happens."""

_REFUSAL_GUARDS = _FOLLOWS | {Symptom.LINK}
"""What a command guards against that would not take the change."""

_SEEN_BY: Mapping[Symptom, Proof] = {
    Symptom.LINK: Proof.FLOW,
    Symptom.START: Proof.FLOW,
    Symptom.REPLAY: Proof.FLOW,
    Symptom.PROMOTE: Proof.PROMOTE,
    Symptom.CONNECT: Proof.PROMOTE,
    Symptom.CONTENTS: Proof.CONTENTS,
    Symptom.INDEXES: Proof.AMCHECK,
    Symptom.ORDER: Proof.COLLATIONS,
    Symptom.COLLATION_VERSION: Proof.COLLATIONS,
    Symptom.EXTENSIONS: Proof.EXTENSIONS,
    Symptom.CHECKSUMS: Proof.CONTENTS,
}
"""The proof that shows a fault, if there is one."""

_OF_EACH_MINOR = frozenset({"known-bad-minors"})
"""Rules that compare what every other image changes, and warn of the same all the while."""

_RAISED = {"warn": "warned", "block": "blocked"}


def compare(
    verdict: Verdict,
    observations: Sequence[Observation],
    *,
    held: bool,
    before: Sequence[StepOutcome] = (),
) -> tuple[RuleFinding, ...]:
    """What the check said before a step, with what was seen after it.

    held: whether the applier's gate held the standby; what was seen is then of a trial without
    the gate.  before: what came of all that was before the step.
    """
    seen = _seen(observations)
    return (
        *_gate(verdict, held=held),
        *_false_alarms(verdict, seen, _looked(observations)),
        *_surprises(verdict, seen, _standing(before)),
    )


def _seen(observations: Sequence[Observation]) -> frozenset[Symptom]:
    return frozenset().union(*(each.symptoms for each in observations))


def _looked(observations: Sequence[Observation]) -> set[Proof]:
    # A proof may show a fault that is usually another's to show: then it was looked at.
    looked = {each.proof for each in observations if each.result is not Result.NOT_RUN}
    if Symptom.LINK in _seen(observations):
        # What does not arrive is not replayed, whatever the server could do with it.
        looked.discard(Proof.FLOW)
    return looked


class _Standing(NamedTuple):
    """A rule that warns since some step: of what values, which faults were looked for since then,
    and which were seen."""

    values: str
    looked_for: frozenset[Symptom] = frozenset()
    seen: frozenset[Symptom] = frozenset()


def _standing(before: Sequence[StepOutcome]) -> dict[str, _Standing]:
    """By rule.  One that blocks is not among them: it holds the standby, whatever comes."""
    standing: dict[str, _Standing] = {}
    for outcome in before:
        looked, seen = _looked(outcome.observations), outcome.symptoms
        for said in outcome.verdict.rules:
            last = standing.pop(said.rule, None)
            if said.outcome != "warn":
                continue
            if last is None or last.values != _values(said):
                last = _Standing(_values(said))
            guards = RULE_GUARDS.get(said.rule, frozenset())
            looked_for = last.looked_for | {each for each in guards if _SEEN_BY[each] in looked}
            standing[said.rule] = last._replace(
                looked_for=looked_for, seen=last.seen | (guards & seen)
            )
    return standing


def _values(said: RuleSaid) -> str:
    """What makes of a warning another one."""
    return "" if said.rule in _OF_EACH_MINOR else said.compared


def _foreseen(said: RuleSaid, standing: _Standing | None) -> frozenset[Symptom]:
    """What a rule that raised has foreseen, if it is seen now."""
    guards = RULE_GUARDS.get(said.rule, frozenset())
    if said.outcome == "block" or standing is None or standing.values != _values(said):
        return guards
    return guards - (standing.looked_for - standing.seen)


def _gate(verdict: Verdict, *, held: bool) -> Iterator[RuleFinding]:
    blocking = [each.rule for each in verdict.rules if each.outcome == "block"]
    if held and not verdict.blocked:
        yield RuleFinding("", "the check let this pass, and the applier held the standby after it")
    elif not held and (names := _listed(rule for rule in blocking if rule != LINK_PROTOCOL)):
        # A link that is refused holds no standby: it only brings it nothing.
        yield RuleFinding("", f"{names} blocked this, and the applier did not hold the standby")


def _false_alarms(
    verdict: Verdict, seen: frozenset[Symptom], looked: set[Proof]
) -> Iterator[RuleFinding]:
    for said in verdict.rules:
        guards = RULE_GUARDS.get(said.rule, frozenset())
        if said.outcome in _RAISED and guards and _is_unfounded(guards, seen, looked):
            yield RuleFinding(said.rule, _false_alarm(said, guards))
    if verdict.refused and _is_unfounded(_REFUSAL_GUARDS, seen, looked):
        yield RuleFinding("", f"refused, and nothing broke without it: {verdict.refused}")


def _is_unfounded(guards: frozenset[Symptom], seen: frozenset[Symptom], looked: set[Proof]) -> bool:
    return not guards & seen and {_SEEN_BY[each] for each in guards} <= looked


def _false_alarm(said: RuleSaid, guards: frozenset[Symptom]) -> str:
    return (
        f"{said.rule} {_RAISED[said.outcome]} ({said.compared}), and nothing of what it guards "
        f"against was seen: {_listed(guards)}"
    )


def _surprises(
    verdict: Verdict, seen: frozenset[Symptom], before: Mapping[str, _Standing]
) -> Iterator[RuleFinding]:
    raised = {each.rule: each for each in verdict.rules if each.outcome in _RAISED}
    foreseen: set[Symptom] = set(_REFUSAL_GUARDS) if verdict.refused else set()
    for rule, said in raised.items():
        foreseen |= _foreseen(said, before.get(rule))
    passed = {each.rule for each in verdict.rules} - raised.keys()
    for symptom in sorted(seen - foreseen):
        guarding = [rule for rule, guards in RULE_GUARDS.items() if symptom in guards]
        silent = [rule for rule in guarding if rule in passed]
        standing = [rule for rule in guarding if rule in raised]
        blind = [rule for rule in raised if RULE_GUARDS.get(rule) == frozenset()]
        text = _surprise(symptom, silent, standing, blind)
        yield RuleFinding(silent[0] if len(silent) == 1 else "", text)


def _surprise(
    symptom: Symptom, silent: Sequence[str], standing: Sequence[str], blind: Sequence[str]
) -> str:
    text = f"{symptom} broke, and no rule foresaw it"
    if silent:
        text += f": {_listed(silent)} passed"
    if standing:
        text += f"; {_listed(standing)} warned before, when it was whole"
    if blind:
        text += f"; {_listed(blind)} told that not everything could be compared"
    return text


def _listed(names: Iterator[str] | Sequence[str] | frozenset[Symptom]) -> str:
    return ", ".join(sorted(names) if isinstance(names, frozenset) else names)
