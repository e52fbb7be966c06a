"""A report of a rehearsal in which everything happened that one can tell of."""

from __future__ import annotations

from logship.rehearsal.agreement import RULE_GUARDS
from logship.rehearsal.outcome import (
    Observation,
    Outage,
    Proof,
    Report,
    Result,
    RuleFinding,
    RuleSaid,
    StepOutcome,
    Symptom,
    Verdict,
)
from logship.rehearsal.plan import Database, Kind, Plan, Side, Start, Step
from logship.rehearsal.plan.flags import Flags, plan_of_flags

WELL = tuple(
    Observation(proof, Result.PASSED, said, seconds=1.25)
    for proof, said in {
        Proof.FLOW: "18 MB in 240 commits, replayed 0.1 s after the last",
        Proof.PROMOTE: "opened in 0.8 s on timeline 2",
        Proof.CONTENTS: "14 tables of 3 databases are equal",
        Proof.AMCHECK: "31 indexes, 14 tables",
        Proof.COLLATIONS: "2 collations, 4000 strings",
        Proof.EXTENSIONS: "plpgsql, pg_trgm",
    }.items()
)
_BROKEN = Observation(
    Proof.FLOW,
    Result.FAILED,
    "the server ended:\n"
    'FATAL:  could not access file "pg_stat_<statements>": No such file or directory\n'
    "DETAIL:  connection to host=db password=hunter2 \x1b[31mfailed\x00",
    frozenset({Symptom.START}),
    3.5,
)


def _passed(*others: RuleSaid) -> Verdict:
    names = {each.rule for each in others}
    rules = [RuleSaid(rule, "pass", "a", "a") for rule in RULE_GUARDS if rule not in names]
    return Verdict((*others, *rules))


def good_report() -> Report:
    """Two steps, both well."""
    plan = plan_of_flags(Flags(from_image="postgres:16.9", to_image="postgres:16.14"))
    return Report(
        plan,
        "docker",
        1_772_366_400.0,
        92.4,
        (
            StepOutcome(None, _passed(), WELL),
            *(
                StepOutcome(step, _passed(), WELL, outage=Outage(1.2 * n, 2.5, 3.0, 4_096))
                for n, step in enumerate(plan.steps)
            ),
        ),
        "0.1.0",
    )


def bad_report() -> Report:
    """A step that warned for nothing, one that is held and breaks, one that was not made."""
    steps = (
        Step(Kind.IMAGE, Side.STANDBY, to="registry.example/postgres:16.14-<bookworm>"),
        Step(
            Kind.PARAMETERS,
            Side.PRIMARY,
            parameters={"shared_preload_libraries": "pg_stat_statements"},
        ),
        Step(Kind.IMAGE, Side.PRIMARY, to="postgres:16.14-trixie"),
    )
    plan = Plan(
        "Libraries & <libc>",
        Start("postgres:16.9", "postgres:16.9", standby_parameters={"work_mem": "64MB"}),
        steps,
        Database(locale="en_US.UTF-8", parameters={"max_connections": "200"}),
        ("standby first: a newer minor may write WAL that an older one does not know",),
    )
    warned = RuleSaid("known-bad-minors", "warn", "16.9", "16.14", "Faults.", "take 16.15")
    blocked = RuleSaid(
        "preload-libraries", "block", "pg_stat_statements", "-", "It is loaded.", "install it"
    )
    held = (_BROKEN, *(Observation(proof, Result.NOT_RUN) for proof in list(Proof)[1:]))
    return Report(
        plan,
        "docker",
        1_772_366_400.0,
        754.0,
        (
            StepOutcome(None, _passed(), WELL),
            StepOutcome(
                steps[0],
                _passed(warned),
                WELL,
                outage=Outage(None, 0.4, 6.1, 16_777_216),
                findings=(RuleFinding("known-bad-minors", "known-bad-minors warned for nothing"),),
            ),
            StepOutcome(
                steps[1], _passed(blocked), held, held=True, outage=Outage(2.1, 2.6, None, 81_920)
            ),
            StepOutcome(steps[2], Verdict(), (), not_run="a step before it broke protection"),
        ),
        "0.1.0",
    )


def refused_report() -> Report:
    """A change that the applier's settings would not even take, and that breaks unforeseen."""
    step = Step(Kind.PARAMETERS, Side.STANDBY, parameters={"max_connections": "10"})
    order = Observation(Proof.COLLATIONS, Result.FAILED, "a, B / B, a", frozenset({Symptom.ORDER}))
    seen = tuple(order if each.proof is Proof.COLLATIONS else each for each in WELL)
    said = "max_connections is the primary's"
    outcome = StepOutcome(step, Verdict(refused=said), seen, refused=said)
    return Report(
        Plan("Fewer connections", Start("a", "a"), (step,)), "local", 0.0, 9.0, (outcome,), "x"
    )
