"""Rules against what was seen: false alarms, surprises, and what can't be judged."""

from __future__ import annotations

import pytest

from applier.compat import RULES, live
from logship.rehearsal.agreement import LINK_FACTS, LINK_PROTOCOL, RULE_GUARDS, compare
from logship.rehearsal.outcome import (
    Observation,
    Proof,
    Result,
    RuleSaid,
    StepOutcome,
    Symptom,
    Verdict,
)

ALL_PASSED = tuple(Observation(proof, Result.PASSED) for proof in Proof)


def failed(proof: Proof, *symptoms: Symptom) -> tuple[Observation, ...]:
    """All is looked at, and one proof fails."""
    return tuple(
        Observation(each, Result.FAILED, symptoms=frozenset(symptoms))
        if each is proof
        else Observation(each, Result.PASSED)
        for each in Proof
    )


def does_not_start() -> tuple[Observation, ...]:
    """The first proof fails, so that no other can be looked at."""
    first = Observation(Proof.FLOW, Result.FAILED, symptoms=frozenset({Symptom.START}))
    return (first, *(Observation(each, Result.NOT_RUN) for each in list(Proof)[1:]))


def said(**outcomes: str) -> Verdict:
    """All rules pass but those that are named, with "_" for "-"."""
    given = {name.replace("_", "-"): outcome for name, outcome in outcomes.items()}
    assert given.keys() <= RULE_GUARDS.keys()
    return Verdict(tuple(RuleSaid(rule, given.get(rule, "pass"), "a", "b") for rule in RULE_GUARDS))


def test_the_table_has_each_rule_that_there_is_and_no_other() -> None:
    of_servers = [*(rule.name for rule in RULES), live.COLLATIONS, live.LIBRARIES]
    assert list(RULE_GUARDS) == [*of_servers, LINK_PROTOCOL, LINK_FACTS]


def test_each_fault_is_guarded_against() -> None:
    assert frozenset().union(*RULE_GUARDS.values()) == set(Symptom)


def test_silence_and_soundness_agree() -> None:
    assert compare(said(), ALL_PASSED, held=False) == ()


@pytest.mark.parametrize(
    ("verdict", "observations", "held"),
    [
        (
            said(collation_versions="warn"),
            failed(Proof.COLLATIONS, Symptom.ORDER, Symptom.COLLATION_VERSION),
            False,
        ),
        (said(preload_libraries="block"), does_not_start(), True),
        (said(primary_facts="warn"), ALL_PASSED, False),
        (said(link_facts="warn"), ALL_PASSED, False),
        (Verdict(said().rules, refused="max_connections: no"), does_not_start(), False),
        (said(link_protocol="block"), failed(Proof.FLOW, Symptom.LINK), False),
    ],
)
def test_what_was_foreseen_agrees(
    verdict: Verdict, observations: tuple[Observation, ...], held: bool
) -> None:
    assert compare(verdict, observations, held=held) == ()


def test_a_rule_that_raised_where_nothing_broke_is_a_finding() -> None:
    (finding,) = compare(said(minor_order="block"), ALL_PASSED, held=True)
    assert finding.rule == "minor-order"
    assert finding.text == (
        "minor-order blocked (a / b), and nothing of what it guards against was seen: "
        "contents, indexes, promote, replay, start"
    )
    (finding,) = compare(Verdict(refused="no"), ALL_PASSED, held=False)
    assert finding.text == "refused, and nothing broke without it: no"


def test_a_rule_is_not_judged_by_what_nobody_looked_at() -> None:
    verdict = said(preload_libraries="block", collation_versions="warn")
    assert compare(verdict, does_not_start(), held=True) == ()
    assert compare(said(minor_order="block"), (), held=True) == ()


def test_a_fault_that_no_rule_foresaw_is_a_finding_against_those_that_passed() -> None:
    (finding,) = compare(said(), failed(Proof.AMCHECK, Symptom.CHECKSUMS), held=False)
    assert finding.rule == "data-checksums"
    assert finding.text == "checksums broke, and no rule foresaw it: data-checksums passed"

    verdict = said(primary_facts="warn")
    (finding,) = compare(verdict, failed(Proof.EXTENSIONS, Symptom.EXTENSIONS), held=False)
    assert finding.rule == ""
    assert "preload-libraries, extension-libraries, extension-versions, standby" in finding.text
    assert "not everything could be compared" in finding.text

    nothing_said = compare(Verdict(), failed(Proof.FLOW, Symptom.LINK), held=False)
    assert [(each.rule, each.text) for each in nothing_said] == [
        ("", "link broke, and no rule foresaw it")
    ]


def test_a_rule_that_raised_another_fault_foresees_nothing() -> None:
    findings = compare(
        said(data_checksums="warn"), failed(Proof.EXTENSIONS, Symptom.EXTENSIONS), held=False
    )
    assert [each.rule for each in findings] == ["data-checksums", ""]


def test_the_gate_and_the_check_before_the_step_must_say_the_same() -> None:
    (finding,) = compare(said(), (), held=True)
    assert "let this pass" in finding.text
    blocked = compare(said(preload_libraries="block"), does_not_start(), held=False)
    assert [each.text for each in blocked] == [
        "preload-libraries blocked this, and the applier did not hold the standby"
    ]


def test_no_rule_on_replay_is_judged_where_no_wal_arrived() -> None:
    first = Observation(Proof.FLOW, Result.FAILED, symptoms=frozenset({Symptom.LINK}))
    rest = (Observation(each, Result.NOT_RUN) for each in list(Proof)[1:])
    found = compare(
        said(parameter_floors="warn", link_protocol="block"), (first, *rest), held=False
    )
    assert found == ()


def test_the_contents_show_the_rule_of_checksums() -> None:
    seen = tuple(
        Observation(each, Result.NOT_RUN if each is Proof.AMCHECK else Result.PASSED)
        for each in Proof
    )
    (finding,) = compare(said(data_checksums="warn"), seen, held=False)
    assert finding.rule == "data-checksums"


NO_REPLAY = failed(Proof.FLOW, Symptom.REPLAY)


def test_a_warning_that_stood_before_has_not_foreseen_what_broke_in_the_step() -> None:
    warned = said(known_bad_minors="warn")
    well = StepOutcome(None, warned, ALL_PASSED)
    (finding,) = compare(warned, NO_REPLAY, held=False, before=[well])
    assert finding.rule == ""
    assert finding.text.startswith("replay broke, and no rule foresaw it: system-identifier, ")
    assert finding.text.endswith("; known-bad-minors warned before, when it was whole")
    assert compare(warned, NO_REPLAY, held=False) == ()


def test_a_warning_that_is_new_or_was_right_or_untried_has_foreseen_it() -> None:
    warned = said(known_bad_minors="warn")
    for before in (
        StepOutcome(None, said(), ALL_PASSED),
        StepOutcome(None, warned, NO_REPLAY),
        StepOutcome(None, warned, ()),
        StepOutcome(None, warned, failed(Proof.FLOW, Symptom.LINK)),
    ):
        assert compare(warned, NO_REPLAY, held=False, before=[before]) == ()
    well = StepOutcome(None, warned, ALL_PASSED)
    broken = StepOutcome(None, warned, NO_REPLAY)
    passed = StepOutcome(None, said(), ALL_PASSED)
    for both in ([well, broken], [well, passed]):
        assert compare(warned, NO_REPLAY, held=False, before=both) == ()


def of_values(rule: str, primary: str, standby: str) -> Verdict:
    """It warns of these, and all others pass."""
    rules = (
        RuleSaid(rule, "warn", primary, standby) if each.rule == rule else each
        for each in said().rules
    )
    return Verdict(tuple(rules))


def test_a_warning_of_other_values_is_another_warning() -> None:
    """But of known bad minors: every image brings others."""
    broke = failed(Proof.COLLATIONS, Symptom.ORDER)
    first = of_values("collation-versions", "2.31", "2.36")
    other = of_values("collation-versions", "2.24", "2.36")
    well = [StepOutcome(None, first, ALL_PASSED)]
    assert compare(other, broke, held=False, before=well) == ()
    (finding,) = compare(first, broke, held=False, before=well)
    assert finding.text.endswith("; collation-versions warned before, when it was whole")
    well.append(StepOutcome(None, other, ALL_PASSED))
    assert compare(first, broke, held=False, before=well) == ()
    assert len(compare(other, broke, held=False, before=well)) == 1

    minors = [of_values("known-bad-minors", "16.9", standby) for standby in ("16.9", "16.14")]
    well = [StepOutcome(None, minors[0], ALL_PASSED)]
    assert len(compare(minors[1], NO_REPLAY, held=False, before=well)) == 1


def test_a_rule_that_holds_the_standby_guards_it_in_every_step() -> None:
    blocked = said(minor_order="block")
    before = StepOutcome(None, blocked, ALL_PASSED, held=True)
    assert compare(blocked, NO_REPLAY, held=True, before=[before]) == ()
