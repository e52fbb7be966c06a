"""Verdicts, results and durations of a rehearsal in words.  Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from logship.rehearsal.outcome import (
    NEEDED,
    Observation,
    Outage,
    Proof,
    Report,
    Result,
    RuleFinding,
    RuleSaid,
    StepOutcome,
    Verdict,
)
from logship.status_words import duration, size

RESULT_WORDS = {Result.PASSED: "ok", Result.FAILED: "FAILED", Result.NOT_RUN: "-"}


def state(step: StepOutcome) -> str:
    """How protection stands after a step, in one or two words."""
    if step.not_run:
        return "not run"
    if step.unseen:
        return "not seen"
    if step.protected:
        return "protected"
    if step.refused:
        return "refused"
    return "held" if step.held else "BROKEN"


def check_outcome(verdict: Verdict) -> str:
    """The worst that the check said: "refused", "block", "warn", "pass", "-" if it said nothing."""
    if verdict.refused:
        return "refused"
    outcomes = {each.outcome for each in verdict.rules}
    for word in ("block", "warn"):
        if word in outcomes:
            return word
    return "pass" if verdict.rules else "-"


def proof_results(step: StepOutcome) -> dict[Proof, Result]:
    """The worst result of each proof: an upgrade looks at the old cluster and at the new, and what
    is not known of one is not known."""
    results = dict.fromkeys(Proof, Result.NOT_RUN)
    for result in (Result.PASSED, Result.NOT_RUN, Result.FAILED):
        results.update({each.proof: result for each in step.observations if each.result is result})
    return results


def not_looked_at(step: StepOutcome) -> list[tuple[str, str]]:
    """Proofs that could not be made, and why: ("amcheck, collations", …).  Not those that another's
    failure leaves nothing to look at."""
    if any(each.proof in NEEDED and each.result is Result.FAILED for each in step.observations):
        return []
    proofs: dict[str, list[Observation]] = {}
    for each in step.observations:
        if each.result is Result.NOT_RUN:
            proofs.setdefault(each.said or "nobody says why", []).append(each)
    return [(", ".join(each.proof for each in seen), why) for why, seen in proofs.items()]


def why_unseen(step: StepOutcome) -> str:
    """Why nobody knows more of it, though it was begun; "": it is known."""
    if step.not_seen or not step.unseen:
        return step.not_seen
    lacking = [f"{proofs} not looked at: {why}" for proofs, why in not_looked_at(step)]
    return "; ".join(lacking) or "nothing was looked at"


def unseen_note(step: StepOutcome) -> str:
    """What a machine did not do that it must, and when; "" if all did."""
    if step.refused and step.not_seen:
        return f"what would come of it could not be tried: {step.not_seen}"
    if step.unfinished or not step.not_seen:
        return step.not_seen
    return f"made, but not to be looked at: {step.not_seen}"


def raised(verdict: Verdict) -> list[RuleSaid]:
    """The rules that did not pass."""
    return [each for each in verdict.rules if each.outcome != "pass"]


def summary(report: Report) -> str:
    """One sentence: whether protection would survive, and if not, where it ends."""
    known = [each for each in report.steps if not each.not_run and not each.unseen]
    broken = [each for each in known if not each.protected]
    if broken:
        return f"protection would break: {'; '.join(map(_broken, broken))}"
    if not report.steps:
        return "nothing was rehearsed"
    for step in report.steps:
        if step.unseen:
            return f"not shown whether protection would survive: {_unseen(step)}"
    # Before the first step nothing is made.
    steps = [each for each in report.steps if each.step is not None]
    left_out = sum(bool(each.not_run) for each in steps)
    if left_out:
        counted = f"{left_out} of {len(steps)} steps" if len(steps) > 1 else "the step"
        return f"not shown whether protection would survive: {counted} could not be made"
    seen = [each for step in known for each in step.observations]
    lacking = {each.proof for each in seen if each.result is Result.NOT_RUN}
    if lacking:
        names = ", ".join(proof for proof in Proof if proof in lacking)
        return f"protection would survive; not looked at everywhere: {names}"
    return "protection would survive"


def _broken(step: StepOutcome) -> str:
    if step.refused:
        return f"{step.title} is refused"
    return f"{state(step).lower()} after {step.title}"


def _unseen(step: StepOutcome) -> str:
    if step.unfinished:
        return f"{step.title} was begun and failed"
    came = "the state" if step.step is None else "what came of"
    return f"{came} {step.title} could not be looked at"


def trial_note(step: StepOutcome) -> str:
    """Why what was observed is of a trial; "" if it is of what the step really left."""
    if step.held:
        return "the applier holds the standby; what follows was tried on a copy, without its check"
    if step.refused:
        tried = "; what follows was tried on a copy that has it" if step.observations else ""
        return f"the applier goes on without it{tried}"
    return ""


def time_of(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def outage_facts(outage: Outage) -> list[tuple[str, str]]:
    """What a step cost, as (what, how much), without what is not known."""
    facts = [
        ("no commit for", time_of(outage.writes_seconds)),
        ("durable again after", time_of(outage.protection_seconds)),
        ("replayed again after", time_of(outage.standby_seconds)),
        ("at most exposed", "-" if outage.exposed_bytes is None else size(outage.exposed_bytes)),
    ]
    return [(what, amount) for what, amount in facts if amount != "-"]


def grouped_findings(report: Report) -> list[tuple[str, RuleFinding]]:
    """Each finding against the rules once, with the numbers of its steps: ("0, 2", …)."""
    numbers: dict[RuleFinding, list[str]] = {}
    for number, step in enumerate(report.steps):
        for finding in step.findings:
            numbers.setdefault(finding, []).append(str(number))
    return [(", ".join(at), finding) for finding, at in numbers.items()]


def begun(report: Report) -> str:
    """When the rehearsal began: "2026-03-01 12:00:00Z"."""
    return datetime.fromtimestamp(report.begun_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
