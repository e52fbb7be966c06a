"""A rehearsal's report as JUnit XML, for a pipeline.  Pure.

A suite for the rehearsal, and in it for each step a case of the step itself (`protection`) and
one for each proof.  The step that could not be made, failed midway or could not be looked at is
an error, as nobody knows then; what was not run after it is skipped.  What the check said is the
step's output; findings against the rules fail nothing: they are properties of the suite, and in
the output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from logship.redaction import redact
from logship.rehearsal.outcome import Observation, Proof, Report, Result, StepOutcome
from logship.rehearsal.reports.words import (
    begun,
    grouped_findings,
    outage_facts,
    raised,
    state,
    summary,
    unseen_note,
    why_unseen,
)

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(report: Report) -> str:
    """The document, with its XML declaration."""
    ended = next((each for each in report.steps if each.not_run or each.not_seen), None)
    cases = [
        case
        for number, outcome in enumerate(report.steps)
        for case in _cases(f"rehearsal.{number} {outcome.title}", outcome, ended=outcome is ended)
    ]
    suite = ElementTree.Element(
        "testsuite",
        name=_text(report.plan.name),
        timestamp=begun(report).replace(" ", "T"),
        time=f"{report.seconds:.3f}",
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report):
        ElementTree.SubElement(properties, "property", name=name, value=_text(value))
    suite.extend(cases)
    root = ElementTree.Element("testsuites", suite.attrib)
    del root.attrib["timestamp"]
    root.append(suite)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _text(value: str) -> str:
    """Without secrets, and without what XML can't hold."""
    return _NOT_XML.sub("?", redact(value))


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "summary", summary(report)
    yield "engine", report.engine
    yield "logship", report.logship
    for note in report.plan.notes:
        yield "note", note
    for steps, finding in grouped_findings(report):
        name = f"finding.{finding.rule}" if finding.rule else "finding"
        yield name, f"{finding.text} (step {steps})"


def _cases(classname: str, outcome: StepOutcome, *, ended: bool) -> Iterator[ElementTree.Element]:
    """ended: whether the rehearsal came to its end by this step."""
    protection = _case(classname, "protection", outcome.outage.protection_seconds or 0.0)
    if outcome.unseen or (outcome.not_run and ended):
        kind = "not-run" if outcome.not_run else "not-seen"
        message = _text(outcome.not_run or why_unseen(outcome))
        ElementTree.SubElement(protection, "error", message=message, type=kind)
    elif outcome.not_run:
        ElementTree.SubElement(protection, "skipped", message=_text(outcome.not_run))
    elif not outcome.protected:
        message = f"{state(outcome).lower()}: {_why(outcome)}"
        ElementTree.SubElement(protection, "failure", message=_text(message), type="protection")
    output = "\n".join(_output(outcome))
    if output:
        ElementTree.SubElement(protection, "system-out").text = _text(output)
    yield protection
    for proof in Proof:
        # An upgrade looks at the old cluster and at the new.
        seen = [each for each in outcome.observations if each.proof is proof]
        for number, each in enumerate(seen or [Observation(proof, Result.NOT_RUN)], start=1):
            yield _proof_case(classname, f"{proof} {number}" if number > 1 else str(proof), each)


def _case(classname: str, name: str, seconds: float) -> ElementTree.Element:
    return ElementTree.Element(
        "testcase", classname=_text(classname), name=name, time=f"{seconds:.3f}"
    )


def _proof_case(classname: str, name: str, seen: Observation) -> ElementTree.Element:
    case = _case(classname, name, seen.seconds)
    if seen.result is Result.NOT_RUN:
        ElementTree.SubElement(case, "skipped", message=_text(seen.said or "not run"))
        return case
    if seen.result is Result.FAILED:
        first = seen.said.strip().partition("\n")[0] or "failed"
        kind = " ".join(sorted(seen.symptoms)) or "failed"
        failure = ElementTree.SubElement(case, "failure", message=_text(first), type=kind)
        failure.text = _text(seen.said)
    elif seen.said:
        ElementTree.SubElement(case, "system-out").text = _text(seen.said)
    return case


def _why(outcome: StepOutcome) -> str:
    if outcome.held:
        names = ", ".join(each.rule for each in raised(outcome.verdict))
        return f"the applier holds the standby: {names or '?'}"
    if refused := outcome.refused or outcome.verdict.refused:
        note = unseen_note(outcome)
        return f"{refused}; {note}" if note else refused
    failed = [str(each.proof) for each in outcome.observations if each.result is Result.FAILED]
    more = f"; not to be looked at further: {outcome.not_seen}" if outcome.not_seen else ""
    return ", ".join(failed) + f" failed{more}"


def _output(outcome: StepOutcome) -> Iterator[str]:
    if outcome.verdict.refused:
        yield f"refused: {outcome.verdict.refused}"
    for each in raised(outcome.verdict):
        yield f"check, {each.outcome}: {each.rule} ({each.compared}) {each.remedy}".rstrip()
    for what, amount in outage_facts(outcome.outage):
        yield f"{what}: {amount}"
    for finding in outcome.findings:
        yield f"finding against the rules: {finding.text}"
