"""What is told of an upgrade that was made, whatever the recovery server then does."""

from __future__ import annotations

from typing import Any, cast

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.outcome import Observation, Proof, Result
from logship.rehearsal.plan import Kind, Side, Step
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps import Made, major

OLD, NEW = "7000000000000000001-16", "7000000000000000002-17"
SEEN = Observation(Proof.PROMOTE, Result.PASSED, "opened")


def cluster(name: str) -> dict[str, Any]:
    identifier, _, number = name.partition("-")
    return {"system_identifier": int(identifier), "major": int(number)}


SUCCEEDED = {"incarnation": cluster(NEW), "previous": [cluster(OLD)], "phase": "seeding"}


def gone(what: str) -> LogshipError:
    return LogshipError(Code.REHEARSAL_FAILED, f"{what} did not go well")


class Site:
    """Stage, primary, recovery server and its copy.

    fails: what does not go well.  answers: what the recovery server says, one after the other, and
    then the last again and again; None: it does not answer.
    """

    def __init__(self, fails: str = "", answers: tuple[Any, ...] = (SUCCEEDED,)) -> None:
        self.fails = fails
        self.answers = list(answers)
        self.removed = False
        self.name = OLD
        self.server = self.primary = self.recovery = self

    def __getattr__(self, name: str) -> Any:
        def done(*_: object) -> Site:
            if name == self.fails:
                raise gone(name)
            return self

        return done

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def status(self) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise gone("status")
        return answer

    def remove(self) -> None:
        self.removed = True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(major, "time", Clock())
    monkeypatch.setattr(major, "take_reference", lambda server: None)
    monkeypatch.setattr(major, "promote_copy", lambda copy, reference, old: (SEEN,))


def made(site: Site) -> Made:
    step = Step(Kind.MAJOR, Side.PRIMARY, to="both", to_major=17)
    return major.MajorUpgrade(step).make(cast(Stage, site))


def test_a_status_that_is_not_had_once_ends_nothing() -> None:
    site = Site(answers=(SUCCEEDED | {"previous": []}, None, SUCCEEDED))
    upgrade = made(site)
    assert upgrade.details == {"incarnation_before": OLD, "incarnation": NEW}
    (seen,) = upgrade.look()
    assert (seen.result, seen.said) == (
        Result.PASSED,
        f"of {OLD}, kept until the cut-over: opened",
    )
    assert site.removed


@pytest.mark.parametrize(
    ("answer", "why"),
    [(None, "nobody answered"), ({"phase": "blocked"}, "the instance is blocked")],
)
def test_an_old_cluster_that_is_not_found_was_not_looked_at(answer: Any, why: str) -> None:
    upgrade = made(Site(answers=(answer,)))
    assert upgrade.details == {"incarnation_before": OLD}
    (seen,) = upgrade.look()
    assert (seen.proof, seen.result) == (Proof.PROMOTE, Result.NOT_RUN)
    assert seen.said.startswith(f"of {OLD}: the upgraded cluster did not take the place of {OLD}")
    assert f"within 120 s; {why}" in seen.said


@pytest.mark.parametrize("fails", ["resume_writes", "ship", "stopped_copy"])
def test_what_fails_after_pg_upgrade_does_not_undo_it(fails: str) -> None:
    upgrade = made(Site(fails))
    assert (upgrade.is_new_cluster, upgrade.details) == (True, {"incarnation_before": OLD})
    with pytest.raises(LogshipError, match=f"{fails} did not go well"):
        upgrade.look()


def test_what_fails_before_it_ended_is_no_upgrade() -> None:
    with pytest.raises(LogshipError, match="upgrade_major did not go well"):
        made(Site("upgrade_major"))


def test_the_copy_goes_where_nobody_looks() -> None:
    site = Site()
    made(site).drop()
    assert site.removed
