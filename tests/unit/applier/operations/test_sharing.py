"""Who shares the host's memory, and who is told when another is promoted."""

from __future__ import annotations

from applier.budgets.memory import Shares
from applier.operations.sharing import Sharing
from applier.settings import BudgetsSettings

SETTINGS = BudgetsSettings(memory_mb=1000, standby_floor_mb=64, cgroups="off")


def joined(*names: str) -> Sharing:
    made = Sharing(SETTINGS)
    for name in names:
        made.join(name)
    return made


def test_without_a_total_there_are_no_shares() -> None:
    assert Sharing(BudgetsSettings()).shares("a", promoted=True) is None


def test_shares_follow_who_is_there_and_who_is_promoted() -> None:
    sharing = joined("a", "b", "c", "d", "e")
    assert sharing.shares("a", promoted=True) == Shares(100, 600)
    sharing.promoted("b", lambda: None)
    assert sharing.shares("a", promoted=False) == Shares(100, 600)
    assert sharing.shares("a", promoted=True) == Shares(100, 350)
    sharing.leave("b")
    assert sharing.shares("a", promoted=True) == Shares(125, 625)


def test_who_was_promoted_before_is_told_once_of_each_that_comes_after() -> None:
    sharing, told = joined("a", "b", "c"), []
    for name in ("a", "b", "b", "a", "c"):
        sharing.promoted(name, lambda name=name: told.append(name))  # type: ignore[misc]
    assert told == ["a", "a", "b"]


def test_one_that_runs_no_server_here_shares_nothing() -> None:
    sharing, told = joined("a", "b"), []
    sharing.promoted("a", lambda: told.append("a"))
    sharing.promoted("stranger", lambda: told.append("stranger"))
    assert told == []
    assert sharing.shares("a", promoted=True) == Shares(250, 750)
