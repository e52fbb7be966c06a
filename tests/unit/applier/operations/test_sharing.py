"""Who shares the host's memory, and who is told when another is promoted."""

from __future__ import annotations

from applier.budgets.memory import Shares
from applier.operations.sharing import Sharing
from applier.settings import InstanceSettings
from applier.settings_budgets import BudgetsSettings

SETTINGS = BudgetsSettings(memory_mb=1000, standby_floor_mb=64, cgroups="off")


def of(*names: str) -> dict[str, InstanceSettings]:
    return {name: InstanceSettings(port=5433) for name in names}


def test_without_a_total_there_are_no_shares() -> None:
    assert Sharing(BudgetsSettings(), dict).shares("a", promoted=True) is None


def test_shares_follow_who_is_there_and_who_is_promoted() -> None:
    instances = of("a", "b", "c", "d", "e")
    sharing = Sharing(SETTINGS, lambda: instances)
    assert sharing.shares("a", promoted=True) == Shares(100, 600)
    sharing.promoted("b", lambda: None)
    assert sharing.shares("a", promoted=False) == Shares(100, 600)
    assert sharing.shares("a", promoted=True) == Shares(100, 350)
    del instances["b"]
    assert sharing.shares("a", promoted=True) == Shares(125, 625)


def test_one_that_runs_no_server_here_shares_nothing() -> None:
    instances = of("a", "b")
    instances["stored"] = InstanceSettings(port=5434, run_standby=False)
    sharing = Sharing(SETTINGS, lambda: instances)
    sharing.promoted("stored", lambda: None)
    assert sharing.shares("a", promoted=True) == Shares(250, 750)


def test_who_was_promoted_before_is_told_once_of_each_that_comes_after() -> None:
    told: list[str] = []
    sharing = Sharing(SETTINGS, lambda: of("a", "b", "c"))
    for name in ("a", "b", "b", "a", "c"):
        sharing.promoted(name, lambda name=name: told.append(name))  # type: ignore[misc]
    assert told == ["a", "a", "b"]


def test_who_was_removed_is_told_nothing_and_who_has_its_name_now_is_a_standby() -> None:
    told: list[str] = []
    sharing = Sharing(SETTINGS, lambda: of("a", "b"))
    sharing.promoted("a", lambda: told.append("the first a"))
    sharing.left("a")
    sharing.left("never promoted")
    assert sharing.shares("b", promoted=True) == Shares(250, 750)
    sharing.promoted("b", lambda: told.append("b"))
    assert told == []
    sharing.promoted("a", lambda: told.append("the second a"))
    assert told == ["b"]


def test_who_is_taken_up_again_hears_in_the_place_of_what_it_was() -> None:
    told: list[str] = []
    sharing = Sharing(SETTINGS, lambda: of("a", "b"))
    sharing.promoted("a", lambda: told.append("before"))
    sharing.promoted("a", lambda: told.append("now"))
    sharing.promoted("b", lambda: None)
    assert told == ["now"]
