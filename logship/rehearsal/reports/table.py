"""A rehearsal for a terminal: a row for each step, and below it what is to be told.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from logship.redaction import redact
from logship.rehearsal.outcome import Observation, Proof, Report, Result, RuleSaid, StepOutcome
from logship.rehearsal.reports.words import (
    RESULT_WORDS,
    check_outcome,
    grouped_findings,
    not_looked_at,
    outage_facts,
    proof_results,
    raised,
    state,
    summary,
    time_of,
    trial_note,
    unseen_note,
)
from logship.terminal import Line, Tone

_SPACE = "  "
_MOST_TITLE = 48
"""Characters of a step's title in the table; below it, all of it is told."""
_MOST_SAID_LINES = 8

_PROOFS = {
    Proof.FLOW: "FLOW",
    Proof.PROMOTE: "PROMOTE",
    Proof.CONTENTS: "CONTENTS",
    Proof.AMCHECK: "AMCHECK",
    Proof.COLLATIONS: "COLLATIONS",
    Proof.EXTENSIONS: "EXTENSIONS",
}
_COSTS = ("NO COMMIT", "DURABLE AGAIN", "PROTECTION")
_HEADER = ("", "STEP", "CHECK", *_PROOFS.values(), *_COSTS)
_NARROW_HEADER = ("", "STEP", "CHECK", "PROOFS", *_COSTS)
_LEAST_TITLE = 16


def table_lines(report: Report, width: int | None = None) -> list[Line]:
    """The whole report.

    width: of the terminal.  Where the table would be wider, its proofs are one column, and titles
    are cut further.  Other lines may be wider; they are text.
    """
    numbered = list(enumerate(report.steps))
    table, most_title = _fitting_table(numbered, width)
    lines = [Line(""), *table]
    for number, outcome in numbered:
        told = list(_told(outcome))
        if told or len(outcome.title) > most_title:
            lines += [Line(""), Line(f"{number}  {outcome.title}", Tone.HEADING), *told]
    lines += [Line(""), _last_line(report)]
    return [Line(_printable(redact(each.text)), each.tone) for each in lines]


def _printable(text: str) -> str:
    """Without what a terminal would obey: much of it is what servers said."""
    one_line = re.sub(r"\s*[\r\n]\s*", " ", text)
    return "".join(each if each.isprintable() else "?" for each in one_line)


def _fitting_table(
    numbered: Sequence[tuple[int, StepOutcome]], width: int | None
) -> tuple[list[Line], int]:
    """The table, and how many characters of a title it has."""
    table = _table(numbered, _HEADER, _MOST_TITLE)
    if not _too_wide(table, width):
        return table, _MOST_TITLE
    table = _table(numbered, _NARROW_HEADER, _MOST_TITLE)
    most_title = max(len(outcome.title) for _, outcome in numbered)
    most_title = min(_MOST_TITLE, most_title) - _too_wide(table, width)
    most_title = max(_LEAST_TITLE, most_title)
    return _table(numbered, _NARROW_HEADER, most_title), most_title


def _too_wide(table: Sequence[Line], width: int | None) -> int:
    """By how many characters."""
    return 0 if width is None else max(0, max(len(line.text) for line in table) - width)


def _table(
    numbered: Sequence[tuple[int, StepOutcome]], header: tuple[str, ...], most_title: int
) -> list[Line]:
    each_proof = header is _HEADER
    rows = [header, *(_row(number, each, most_title, each_proof) for number, each in numbered)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    texts = [
        _SPACE.join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    tones = [Tone.HEADING, *(_tone(outcome) for _, outcome in numbered)]
    return [Line(text, tone) for text, tone in zip(texts, tones, strict=True)]


def _row(number: int, outcome: StepOutcome, most_title: int, each_proof: bool) -> tuple[str, ...]:
    results = proof_results(outcome)
    title = outcome.title
    proofs = (
        tuple(RESULT_WORDS[results[proof]] for proof in _PROOFS)
        if each_proof
        else (_proofs_at_once([results[proof] for proof in _PROOFS]),)
    )
    return (
        str(number),
        title if len(title) <= most_title else title[: most_title - 1] + "…",
        "-" if outcome.not_run else check_outcome(outcome.verdict),
        *proofs,
        time_of(outcome.outage.writes_seconds),
        time_of(outcome.outage.protection_seconds),
        state(outcome),
    )


def _proofs_at_once(results: Sequence[Result]) -> str:
    """Those that failed stand below the table by name."""
    if failed := results.count(Result.FAILED):
        return f"{failed} {RESULT_WORDS[Result.FAILED]}"
    passed = results.count(Result.PASSED)
    counted = str(passed) if passed == len(results) else f"{passed} of {len(results)}"
    return f"{counted} {RESULT_WORDS[Result.PASSED]}" if passed else "-"


def _tone(outcome: StepOutcome) -> Tone:
    if outcome.not_run:
        return Tone.FAINT
    if not outcome.protected:
        return Tone.BAD
    return Tone.WARNING if outcome.findings or raised(outcome.verdict) else Tone.PLAIN


def _told(outcome: StepOutcome) -> Iterator[Line]:
    """What the row of a step leaves out."""
    if outcome.not_run:
        yield Line(f"   not run: {outcome.not_run}", Tone.FAINT)
        return
    if len(outcome.title) > _MOST_TITLE or outcome.outage.exposed_bytes:
        cost = ", ".join(f"{what} {amount}" for what, amount in outage_facts(outcome.outage))
        if cost:
            yield Line(f"   {cost}")
    if note := unseen_note(outcome):
        yield Line(f"   {note}", Tone.BAD)
    if outcome.verdict.refused:
        yield Line(f"   refused: {outcome.verdict.refused}", Tone.BAD)
    for said in raised(outcome.verdict):
        yield from _rule_lines(said)
    if note := trial_note(outcome):
        yield Line(f"   {note}", Tone.BAD)
    for each in outcome.observations:
        if each.result is Result.FAILED:
            yield from _failure_lines(each)
    for proofs, why in not_looked_at(outcome):
        yield Line(f"   {proofs}: not looked at: {why}", Tone.WARNING)
    for finding in outcome.findings:
        yield Line(f"   finding against the rules: {finding.text}", Tone.WARNING)


def _rule_lines(said: RuleSaid) -> Iterator[Line]:
    tone = Tone.BAD if said.outcome == "block" else Tone.WARNING
    yield Line(f"   check, {said.outcome}: {said.rule} ({said.compared})", tone)
    if said.remedy:
        yield Line(f"      {said.remedy}")


def _failure_lines(observation: Observation) -> Iterator[Line]:
    symptoms = ", ".join(sorted(observation.symptoms))
    yield Line(f"   {observation.proof}: failed" + (f" ({symptoms})" if symptoms else ""), Tone.BAD)
    said = [line.rstrip() for line in observation.said.splitlines() if line.strip()]
    for line in said[:_MOST_SAID_LINES]:
        yield Line(f"      {line}")
    if len(said) > _MOST_SAID_LINES:
        left_out = len(said) - _MOST_SAID_LINES
        yield Line(f"      … {left_out} more lines: --json has them", Tone.FAINT)


def _last_line(report: Report) -> Line:
    text = f"{summary(report)} ({report.engine}, {time_of(report.seconds)})"
    if count := len(grouped_findings(report)):
        text += f"; {count} finding{'' if count == 1 else 's'} against the rules"
    return Line(text, Tone.HEADING if report.protected else Tone.BAD)
