"""The state machine of a standby's life, as transcripts: event, then commands."""

from __future__ import annotations

import pytest

from applier.standby.life import (
    FIRST_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    STEADY_SECONDS,
    ConfigurationChanged,
    Exited,
    LifeState,
    StandbyLife,
    Start,
    Started,
    Stop,
    Tick,
    WantRunning,
    WantStopped,
)


@pytest.fixture
def life() -> StandbyLife:
    return StandbyLife(0.0)


@pytest.fixture
def running(life: StandbyLife) -> StandbyLife:
    assert life.handle(WantRunning(), 0.0) == [Start()]
    assert life.handle(Started(7), 1.0) == []
    assert (life.state, life.pid) == (LifeState.RUNNING, 7)
    return life


def test_nothing_happens_to_a_standby_nobody_wants(life: StandbyLife) -> None:
    assert life.handle(Tick(), 1000.0) == []
    assert life.state is LifeState.STOPPED


def test_a_server_that_an_earlier_applier_left_running_can_be_stopped(life: StandbyLife) -> None:
    assert life.handle(WantStopped(), 1.0) == [Stop()]
    assert life.handle(Exited("stopped"), 2.0) == []
    assert life.state is LifeState.STOPPED


def test_wanting_twice_starts_once(running: StandbyLife) -> None:
    assert running.handle(WantRunning(), 2.0) == []


def test_a_crash_is_followed_by_a_start_after_the_backoff(running: StandbyLife) -> None:
    assert running.handle(Exited("PANIC"), 5.0) == []
    assert (running.state, running.last_failure) == (LifeState.WAITING, "PANIC")
    assert running.deadline == 5.0 + FIRST_BACKOFF_SECONDS
    assert running.handle(Tick(), 5.5) == []
    assert running.handle(Tick(), 5.0 + FIRST_BACKOFF_SECONDS) == [Start()]
    assert running.restarts == 1


def test_the_backoff_doubles_up_to_its_cap(running: StandbyLife) -> None:
    now, waits = 5.0, []
    for _ in range(9):
        running.handle(Exited("again"), now)
        assert running.deadline is not None
        waits.append(running.deadline - now)
        now = running.deadline
        assert running.handle(Tick(), now) == [Start()]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert waits[-1] == MAX_BACKOFF_SECONDS


@pytest.mark.parametrize(
    ("ran_seconds", "wait_seconds"), [(STEADY_SECONDS, 1.0), (STEADY_SECONDS - 1, 2.0)]
)
def test_only_a_steady_run_resets_the_backoff(
    running: StandbyLife, ran_seconds: float, wait_seconds: float
) -> None:
    running.handle(Exited("first"), 2.0)
    running.handle(Tick(), 3.0)
    running.handle(Started(8), 4.0)
    running.handle(Exited("second"), 4.0 + ran_seconds)
    assert running.deadline == 4.0 + ran_seconds + wait_seconds


def test_news_of_an_earlier_process_is_ignored(running: StandbyLife) -> None:
    assert running.handle(Exited("old news", pid=6), 5.0) == []
    assert running.state is LifeState.RUNNING
    running.handle(Exited("new", pid=7), 6.0)
    assert running.state is LifeState.WAITING
    running.handle(Exited("repeated", pid=7), 6.5)
    assert (running.last_failure, running.deadline) == ("new", 7.0)


def test_a_stop_is_final(running: StandbyLife) -> None:
    assert running.handle(WantStopped(), 5.0) == [Stop()]
    assert running.handle(Exited("stopped"), 6.0) == []
    assert (running.state, running.deadline) == (LifeState.STOPPED, None)


def test_a_stop_while_waiting_needs_no_command(running: StandbyLife) -> None:
    running.handle(Exited("PANIC"), 5.0)
    assert running.handle(WantStopped(), 5.1) == []
    assert running.handle(Tick(), 100.0) == []
    assert running.state is LifeState.STOPPED


def test_a_stop_while_starting_comes_after_the_start(life: StandbyLife) -> None:
    life.handle(WantRunning(), 0.0)
    assert life.handle(WantStopped(), 0.1) == []
    assert life.handle(Started(7), 1.0) == [Stop()]


def test_wanted_again_while_stopping_starts_after_the_stop(running: StandbyLife) -> None:
    running.handle(WantStopped(), 5.0)
    assert running.handle(WantRunning(), 5.1) == []
    assert running.handle(Exited("stopped"), 6.0) == [Start()]


def test_another_configuration_means_stop_and_start_at_once(running: StandbyLife) -> None:
    assert running.handle(ConfigurationChanged(), 5.0) == [Stop()]
    assert running.handle(Exited("stopped"), 6.0) == [Start()]
    assert running.handle(Started(8), 7.0) == []
    assert (running.restarts, running.last_failure) == (0, "")


def test_a_configuration_that_changes_during_a_start_is_applied_after_it(
    life: StandbyLife,
) -> None:
    life.handle(WantRunning(), 0.0)
    assert life.handle(ConfigurationChanged(), 0.1) == []
    assert life.handle(Started(7), 1.0) == [Stop()]
    assert life.handle(Exited("stopped"), 2.0) == [Start()]
    assert life.handle(Started(8), 3.0) == []


def test_a_crash_for_want_of_configuration_does_not_wait(running: StandbyLife) -> None:
    running.handle(Exited("insufficient parameter settings"), 5.0)
    assert running.handle(ConfigurationChanged(), 5.0) == [Start()]


def test_a_configuration_change_wakes_nothing_that_is_stopped(life: StandbyLife) -> None:
    assert life.handle(ConfigurationChanged(), 1.0) == []
    assert life.state is LifeState.STOPPED
