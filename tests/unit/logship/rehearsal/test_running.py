"""How a rehearsal ends: with all steps, or with the one of which nobody knows more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, cast

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal import running
from logship.rehearsal.engine import Engine, ImageFacts
from logship.rehearsal.outcome import Observation, Outage, Proof, Report, Result, RuleSaid, Verdict
from logship.rehearsal.plan import Kind, Plan, Side, Start, Step
from logship.rehearsal.proving import Proven
from logship.rehearsal.reports.words import state, summary
from logship.rehearsal.steps import Made

WELL = Proven(tuple(Observation(proof, Result.PASSED) for proof in Proof))
STANDING = Verdict((RuleSaid("known-bad-minors", "warn"),))
SEEN_APART = Observation(Proof.PROMOTE, Result.PASSED, "of the old cluster")


class Anything:
    """A stage, an engine, a measure: whatever is asked of it is done."""

    name = "local"
    recovery = property(lambda self: self)

    def __enter__(self) -> Anything:
        return self

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None: ...

    def remove_left_behind(self) -> tuple[str, ...]:
        return ("removed what was left",)

    def wait_protected(self) -> None: ...

    def compat(self) -> Verdict:
        return STANDING

    def outage(self, *, is_new_cluster: bool) -> Outage:
        return Outage(writes_seconds=1.0)


class Changes:
    """fails: what does not go well: "foresee", "make", "wait", "look", "prove" or "".
    refused: what a command says that does not take them."""

    def __init__(self, fails: str, refused: str = "") -> None:
        self.fails = fails
        self.refused = refused
        self.dropped = False

    def __call__(self, step: Step) -> Changes:
        return self

    def _do(self, what: str) -> None:
        if what == self.fails:
            raise LogshipError(Code.REHEARSAL_FAILED, f"{what} did not go well")

    def foresee(self, stage: Any) -> Verdict:
        self._do("foresee")
        return STANDING

    def make(self, stage: Any) -> Made:
        self._do("make")
        return Made(self.refused, look=self.look, drop=self.drop, details={"a": 1})

    def look(self) -> tuple[Observation, ...]:
        self._do("look")
        return (SEEN_APART,)

    def drop(self) -> None:
        self.dropped = True

    def wait_protected(self) -> None:
        self._do("wait")

    def prove(self) -> Iterator[Proven]:
        yield WELL
        while True:
            self._do("prove")
            yield WELL


def rehearsed(monkeypatch: pytest.MonkeyPatch, fails: str) -> Report:
    return rehearsed_with(monkeypatch, Changes(fails))


def rehearsed_with(monkeypatch: pytest.MonkeyPatch, changes: Changes) -> Report:
    proven = changes.prove()
    measure = type("Measured", (Anything,), {"wait_protected": changes.wait_protected})
    monkeypatch.setitem(running._CHANGES, Kind.SQL, changes)
    monkeypatch.setattr(running, "build", lambda plan, engine, say: Anything())
    monkeypatch.setattr(running, "prove", lambda stage, refused=None: next(proven))
    monkeypatch.setattr(running, "Measure", lambda stage: measure())
    steps = (Step(Kind.SQL, Side.PRIMARY, sql="one"), Step(Kind.SQL, Side.PRIMARY, sql="two"))
    plan = Plan("two", Start("a", "a"), steps)
    return running.rehearse(plan, cast(Engine, Anything()), print)


def test_all_steps_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = rehearsed(monkeypatch, "")
    before, one, two = report.steps
    assert report.protected
    assert one.observations == (SEEN_APART, *WELL.observations)
    assert (one.outage, one.details) == (Outage(writes_seconds=1.0), {"a": 1})
    assert [each.rule for each in before.findings] == ["known-bad-minors"]
    assert capsys.readouterr().out.startswith("removed what was left\n")
    assert (one.findings, two.findings) == ((), ()), "a standing warning is told once"


def test_what_can_not_be_made_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _, one, two = rehearsed(monkeypatch, "foresee").steps
    assert one.not_run.startswith("it can't be made: foresee did not go well")
    assert not one.not_seen and not one.protected
    assert two.not_run == "a step before it could not be made"


def test_what_was_begun_and_failed_is_not_told_as_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    report = rehearsed(monkeypatch, "make")
    _, one, two = report.steps
    assert one.not_seen.startswith("it was begun and failed: make did not go well")
    assert one.unfinished and not one.not_run and not one.protected
    assert one.verdict == STANDING
    assert summary(report).endswith(f": {one.title} was begun and failed")
    assert two.not_run == "a step before it was begun and failed"


@pytest.mark.parametrize("fails", ["wait", "prove"])
def test_what_was_refused_and_can_not_be_tried_stays_refused(
    monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    report = rehearsed_with(monkeypatch, Changes(fails, refused="too few"))
    _, one, two = report.steps
    assert (one.refused, one.outage) == ("too few", Outage())
    assert one.not_seen.startswith(f"{fails} did not go well")
    assert state(one) == "refused"
    assert summary(report) == f"protection would break: {one.title} is refused"
    assert two.not_run == "what came of a step before it could not be looked at"


@pytest.mark.parametrize(("fails", "seen"), [("wait", ()), ("look", ()), ("prove", (SEEN_APART,))])
def test_what_was_made_and_can_not_be_looked_at_is_not_told_as_not_made(
    monkeypatch: pytest.MonkeyPatch, fails: str, seen: tuple[Observation, ...]
) -> None:
    changes = Changes(fails)
    _, one, two = rehearsed_with(monkeypatch, changes).steps
    assert changes.dropped is (fails == "wait"), "a look takes away what it looked at"
    assert one.not_seen.startswith(f"{fails} did not go well")
    assert not one.not_run and not one.protected
    assert (one.observations, one.verdict) == (seen, STANDING)
    assert two.not_run == "what came of a step before it could not be looked at"


def test_an_image_without_the_major_is_told_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class WithImages(Anything):
        can_change_system = True

        def facts(self, image: str) -> ImageFacts:
            return ImageFacts("", "", {"16.9": PurePosixPath("/16")})

    def build(*_: object) -> Any:
        raise AssertionError("it was built")

    monkeypatch.setattr(running, "build", build)
    step = Step(Kind.MAJOR, Side.PRIMARY, to="postgres:16.9", to_major=17)
    plan, engine = Plan("one", Start("a", "a"), (step,)), WithImages()
    with pytest.raises(LogshipError) as caught:
        running.rehearse(plan, cast(Engine, engine), print)
    assert caught.value.code is Code.NO_INSTALLATION
    assert caught.value.what == "postgres:16.9 has no PostgreSQL 17 (it has: 16.9)"
    engine.can_change_system = False
    said: list[str] = []
    with pytest.raises(AssertionError, match="it was built"):
        running.rehearse(plan, cast(Engine, engine), said.append)
    assert said[-1].startswith(f"step 1 ({step.title}) will not be made: postgres:16.9 has no")
