"""Carries a plan out: builds both sides, and for each step asks, changes, and looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from logship import __version__
from logship.errors import LogshipError
from logship.rehearsal.agreement import compare
from logship.rehearsal.engine import Engine
from logship.rehearsal.outcome import (
    Observation,
    Outage,
    Report,
    RuleFinding,
    StepOutcome,
    Verdict,
)
from logship.rehearsal.plan import Kind, Plan, Step
from logship.rehearsal.proving import prove
from logship.rehearsal.site.stage import Stage, build
from logship.rehearsal.steps import Change, Made
from logship.rehearsal.steps.image import ImageChange
from logship.rehearsal.steps.major import MajorUpgrade
from logship.rehearsal.steps.outage import Measure
from logship.rehearsal.steps.parameters import ParameterChange
from logship.rehearsal.steps.primary import Checksums, Statements
from logship.rehearsal.steps.versions import LogshipChange

_CHANGES: dict[Kind, Callable[[Step], Change]] = {
    Kind.IMAGE: ImageChange,
    Kind.MAJOR: MajorUpgrade,
    Kind.PARAMETERS: ParameterChange,
    Kind.SQL: Statements,
    Kind.CHECKSUMS: Checksums,
    Kind.LOGSHIP: LogshipChange,
}


def open_engine(name: str) -> Engine:
    """The engine called "docker" or "local".

    Raises LogshipError: there is no container engine, or what it needs is not installed.
    """
    # Each wants packages of its own.
    if name == "local":
        from logship.rehearsal.engine.local import LocalEngine

        return LocalEngine()
    from logship.rehearsal.engine.containers import ContainerEngine

    return ContainerEngine()


def close(engine: Engine, say: Callable[[str], None]) -> None:
    """Remove all that was made on `engine`.  What can't be is told by `say`, and that is all: what
    was seen is of more interest."""
    try:
        engine.close()
    except Exception as error:  # whoever it is of
        say(f"not all that was made could be removed: {error}")


def rehearse(plan: Plan, engine: Engine, say: Callable[[str], None]) -> Report:
    """Carry out `plan` on machines of `engine`, which the caller closes.

    say: is told what goes on, a line at a time.

    Raises LogshipError: nothing could be rehearsed, as what is to be changed could not even be
    built.  A step that can't be made, fails midway or can't be looked at is in the report, and
    ends it.
    """
    begun_at, began = time.time(), time.monotonic()
    for line in engine.remove_left_behind():
        say(line)
    for note in plan.notes:
        say(note)
    _look_ahead(plan, engine, say)
    stage = build(plan, engine, say)
    outcomes: list[StepOutcome] = [_before(stage)]
    ended = ""
    for step in plan.steps:
        if ended:
            outcomes.append(StepOutcome(step, Verdict(), (), not_run=ended))
            continue
        outcomes.append(_told_once(_step(stage, step, outcomes), outcomes))
        ended = _end(outcomes[-1])
    return Report(
        plan, engine.name, begun_at, time.monotonic() - began, tuple(outcomes), __version__
    )


def _end(outcome: StepOutcome) -> str:
    """Why nothing is made after such a step; "": the next one is."""
    if outcome.not_run:
        return "a step before it could not be made"
    if outcome.unfinished:
        return "a step before it was begun and failed"
    return "what came of a step before it could not be looked at" if outcome.not_seen else ""


def _look_ahead(plan: Plan, engine: Engine, say: Callable[[str], None]) -> None:
    """Say before anything is built which steps name an image that can't be had, or that lacks
    the major to go to.

    Raises LogshipError for one of a container engine.  On a host the other steps may be worth
    their while: its one operating system is the limit of what can be made there.
    """
    for number, step in enumerate(plan.steps, start=1):
        if step.kind in (Kind.IMAGE, Kind.MAJOR):
            try:
                facts = engine.facts(step.to)
                if step.kind is Kind.MAJOR:
                    facts.bin_of(step.to_major, step.to)
            except LogshipError as error:
                if engine.can_change_system:
                    raise
                say(f"step {number} ({step.title}) will not be made: {error}")


def _told_once(outcome: StepOutcome, before: Sequence[StepOutcome]) -> StepOutcome:
    """Without findings against a rule that warns as it did when there was one against it: a
    warning that stands from the first step on says nothing of the others."""
    told = {_said(each, finding) for each in before for finding in each.findings if finding.rule}
    findings = tuple(each for each in outcome.findings if _said(outcome, each) not in told)
    return replace(outcome, findings=findings)


def _said(outcome: StepOutcome, finding: RuleFinding) -> tuple[str, str]:
    """The rule of a finding, and what it said before the step; of one that passed, what broke."""
    said = {each.rule: each.outcome for each in outcome.verdict.rules}
    raised = said.get(finding.rule, "pass")
    return finding.rule, finding.text if raised == "pass" else raised


def _before(stage: Stage) -> StepOutcome:
    stage.say("before the first step: is all well?")
    verdict = stage.recovery.compat()
    proven = prove(stage)
    findings = compare(verdict, proven.observations, held=proven.held)
    return StepOutcome(None, verdict, proven.observations, held=proven.held, findings=findings)


def _step(stage: Stage, step: Step, before: Sequence[StepOutcome]) -> StepOutcome:
    stage.say(step.title)
    verdict, made, outage = Verdict(), None, Outage()
    seen: tuple[Observation, ...] = ()
    begun = False
    change = _CHANGES[step.kind](step)
    try:
        stage.say("  the version check is asked, on copies")
        verdict = change.foresee(stage)
        # Copies were made of what was stopped for it.
        stage.wait_protected()
        stage.say("  the step is made")
        with Measure(stage) as measure:
            begun = True
            made = change.make(stage)
            _wait_protected(measure, made)
        if not made.refused:
            outage = measure.outage(is_new_cluster=made.is_new_cluster)
        stage.say("  looking at what came of it")
        seen = made.look()
        proven = prove(stage, step.parameters if made.refused else None)
    except LogshipError as error:
        if not begun:
            return StepOutcome(step, verdict, (), not_run=f"it can't be made: {error}")
        if made is None:
            failed = f"it was begun and failed: {error}"
            return StepOutcome(step, verdict, (), not_seen=failed, unfinished=True)
        return StepOutcome(
            step,
            verdict,
            seen,
            refused=made.refused,
            outage=outage,
            not_seen=str(error),
            details=dict(made.details),
        )
    observations = (*seen, *proven.observations)
    return StepOutcome(
        step,
        verdict,
        observations,
        held=proven.held,
        refused=made.refused,
        outage=outage,
        findings=compare(verdict, observations, held=proven.held, before=before),
        details=dict(made.details),
    )


def _wait_protected(measure: Measure, made: Made) -> None:
    try:
        measure.wait_protected()
    except LogshipError:
        made.drop()
        raise
