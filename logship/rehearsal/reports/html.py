"""A rehearsal's report as one HTML page, which needs nothing else: no script, font or picture.

Needs jinja2, of the extra `rehearse`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from logship import __version__
from logship.errors import Code, UsageError
from logship.redaction import redact
from logship.rehearsal.engine import CURRENT_LOGSHIP
from logship.rehearsal.outcome import Proof, Report, StepOutcome
from logship.rehearsal.reports.words import (
    RESULT_WORDS,
    begun,
    check_outcome,
    grouped_findings,
    outage_facts,
    proof_results,
    raised,
    state,
    summary,
    time_of,
    trial_note,
    unseen_note,
)

_TEMPLATE = "page.html.j2"


def check_html_can_be_made() -> None:
    """Raises UsageError without jinja2: before a rehearsal, not after it."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise UsageError(
            Code.USAGE,
            "an HTML page needs jinja2, which is not installed",
            "pip install 'logship[rehearse]'",
        ) from None


def html_page(report: Report) -> str:
    """The page.  Raises UsageError without jinja2."""
    check_html_can_be_made()
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    text = (files(__package__) / _TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(
        report=report,
        version=__version__,
        summary=summary(report),
        begun=begun(report),
        length=time_of(report.seconds),
        proofs=list(Proof),
        facts=_facts(report),
        findings=grouped_findings(report),
        steps=[_step(outcome) for outcome in report.steps],
    )


def _clean(value: Any) -> Any:
    # What the page itself marked up is a kind of str too, and must stay that.
    if type(value) is not str:
        return value
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in redact(value))


def _facts(report: Report) -> list[tuple[str, str]]:
    """What there was before the first step."""
    start, database = report.plan.start, report.plan.database
    if database.instance:
        source = f"a copy of the instance {database.instance}"
    elif database.schema:
        source = f"{database.schema.name}, and generated tables of {database.rows} rows"
    else:
        source = f"generated tables of {database.rows} rows"
    facts = [
        ("primary", f"{start.primary}, {_program('shipper', start.shipper)}"),
        ("recovery server", f"{start.standby}, {_program('applier', start.applier)}"),
        ("database", source),
    ]
    if not database.instance:
        locale = database.locale + (f", ICU {database.icu_locale}" if database.icu_locale else "")
        facts.append(("locale", locale))
    for whose, parameters in (
        ("parameters of the primary", database.parameters),
        ("parameters of the standby", start.standby_parameters),
    ):
        if parameters:
            text = ", ".join(f"{name} = {value}" for name, value in parameters.items())
            facts.append((whose, text))
    return facts


def _program(name: str, logship: str) -> str:
    return f"this {name}" if logship == CURRENT_LOGSHIP else f"the {name} of {logship}"


def _step(outcome: StepOutcome) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "state": state(outcome),
        "check": "-" if outcome.not_run else check_outcome(outcome.verdict),
        "raised": raised(outcome.verdict),
        "cells": [RESULT_WORDS[result] for result in proof_results(outcome).values()],
        "unseen": unseen_note(outcome),
        "trial": trial_note(outcome),
        "outage": outage_facts(outcome.outage),
        "writes": time_of(outcome.outage.writes_seconds),
        "protection": time_of(outcome.outage.protection_seconds),
    }
