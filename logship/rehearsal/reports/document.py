"""A rehearsal's report as one JSON object.  Pure.

Secrets are taken out of its texts: plans and servers' own words may hold some.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from logship.redaction import names_a_secret, redact
from logship.rehearsal.outcome import Observation, Report, RuleFinding, StepOutcome, Verdict
from logship.rehearsal.plan import Plan, Step
from logship.rehearsal.reports.words import (
    begun,
    check_outcome,
    state,
    summary,
    why_unseen,
)


def document_of(report: Report) -> dict[str, Any]:
    """The report.  docs/rehearsals.md explains its keys."""
    document = {
        "name": report.plan.name,
        "protected": report.protected,
        "summary": summary(report),
        "engine": report.engine,
        "logship": report.logship,
        "begun_at": begun(report),
        "seconds": round(report.seconds, 3),
        "plan": _plan(report.plan),
        "steps": [_outcome(each) for each in report.steps],
        "findings": [_finding(each) for each in report.findings],
    }
    return {name: _clean(name, value) for name, value in document.items()}


def _clean(name: str, value: Any) -> Any:
    """`value` as JSON has it, without what is secret in it."""
    if isinstance(value, dict):
        return {str(key): _clean(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(name, each) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return "***" if value and names_a_secret(name) else redact(str(value))


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "notes": plan.notes,
        "start": asdict(plan.start),
        "database": asdict(plan.database),
        "steps": [_step(each) for each in plan.steps],
    }


def _step(step: Step) -> dict[str, Any]:
    return {**asdict(step), "title": step.title}


def _outcome(outcome: StepOutcome) -> dict[str, Any]:
    step = outcome.step
    return {
        "title": outcome.title,
        "kind": None if step is None else step.kind,
        "side": None if step is None else step.side,
        "state": state(outcome).lower(),
        "protected": outcome.protected,
        "held": outcome.held,
        "not_run": outcome.not_run or None,
        "not_seen": why_unseen(outcome) or None,
        "check": _check(outcome.verdict),
        "observations": [_observation(each) for each in outcome.observations],
        "symptoms": sorted(outcome.symptoms),
        "outage": asdict(outcome.outage),
        "findings": [_finding(each) for each in outcome.findings],
        "details": outcome.details,
    }


def _check(verdict: Verdict) -> dict[str, Any]:
    return {
        "outcome": check_outcome(verdict),
        "refused": verdict.refused or None,
        "rules": [asdict(each) for each in verdict.rules],
    }


def _observation(observation: Observation) -> dict[str, Any]:
    return {
        "proof": observation.proof,
        "result": observation.result,
        "said": observation.said,
        "symptoms": sorted(observation.symptoms),
        "seconds": round(observation.seconds, 3),
    }


def _finding(finding: RuleFinding) -> dict[str, Any]:
    return {"rule": finding.rule or None, "text": finding.text}
