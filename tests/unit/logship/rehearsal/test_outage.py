"""What a step cost: how much WAL only the primary had, and how long nothing was committed."""

from __future__ import annotations

import contextlib
import threading
from typing import cast

import pytest

from logship.errors import Code, LogshipError
from logship.rehearsal.engine import Engine
from logship.rehearsal.site.primary import Primary, Written
from logship.rehearsal.site.recovery import Progress, Recovery
from logship.rehearsal.site.stage import Stage
from logship.rehearsal.steps import outage
from logship.rehearsal.steps.outage import Exposure, Measure


def test_nothing_is_known_before_both_sides_answered() -> None:
    exposure = Exposure()
    exposure.see(100, None)
    assert exposure.most_bytes is None
    exposure.see(None, 100)
    assert exposure.most_bytes == 0


def test_a_side_that_is_down_is_where_it_was_last_seen() -> None:
    exposure = Exposure()
    exposure.see(100, 100)
    exposure.see(150, None)
    exposure.see(None, 140)
    assert exposure.most_bytes == 50
    exposure.see(160, 160)
    assert exposure.most_bytes == 50, "the most, not the last"


def test_what_is_durable_before_the_primary_says_so_is_no_exposure() -> None:
    exposure = Exposure()
    exposure.see(100, 120)
    assert exposure.most_bytes == 0


class Clock:
    """Of everybody: it goes on when somebody lets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Committing:
    """A primary on which somebody commits at all times but while the writer is stopped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = 0.0

    def flush_lsn(self) -> int:
        return 100

    def start_writer(self) -> None:
        self._since = self._clock.now

    def stop_writer(self) -> Written:
        since, now = self._since, self._clock.now
        return Written(9, 0.0, since, now, begun_at=since, ended_at=now)


class Following:
    def durable_lsn(self) -> int:
        return 90

    def wait_protected(self, lsn: str, timeout_seconds: float) -> Progress:
        return Progress(1.0, 2.0)


class DownWhenTheThreadLooks(Following):
    """As one that the step takes down before the watching thread has its first turn."""

    def durable_lsn(self) -> int:
        if threading.current_thread() is not threading.main_thread():
            raise LogshipError(Code.APPLIER_UNREACHABLE, "it is down", retryable=True)
        return super().durable_lsn()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("logship.rehearsal.site.stage.time", clock)
    monkeypatch.setattr(outage, "time", clock)
    return clock


def test_what_the_rehearsal_looks_at_meanwhile_costs_nothing(clock: Clock) -> None:
    primary, recovery = cast(Primary, Committing(clock)), cast(Recovery, Following())
    stage = Stage(cast(Engine, None), primary, recovery, print, 60.0)
    with Measure(stage) as measure:
        clock.passes(5.0)
        stage.pause_writes()
        with stage.looking():
            clock.passes(100.0)
        clock.passes(3.0)
        stage.resume_writes()
        with stage.looking():
            clock.passes(1000.0)
        measure.wait_protected()
    cost = measure.outage(is_new_cluster=True)
    assert cost.writes_seconds == pytest.approx(3.0)
    assert cost.protection_seconds == pytest.approx(9.0)
    assert cost.standby_seconds == pytest.approx(10.0)
    assert cost.exposed_bytes is None

    with Measure(stage) as measure:
        stage.pause_writes()
        clock.passes(2.0)
        stage.resume_writes()
        measure.wait_protected()
    cost = measure.outage(is_new_cluster=False)
    assert cost.writes_seconds == pytest.approx(2.0)
    assert cost.protection_seconds == pytest.approx(3.0), "what was looked at before is past"


def test_a_recovery_server_that_is_down_for_all_of_the_step_was_somewhere_before(
    clock: Clock,
) -> None:
    primary = cast(Primary, Committing(clock))
    recovery = cast(Recovery, DownWhenTheThreadLooks())
    stage = Stage(cast(Engine, None), primary, recovery, print, 60.0)
    with Measure(stage) as measure:
        measure.wait_protected()
    assert measure.outage(is_new_cluster=False).exposed_bytes == 10


class Lost(Committing):
    def stop_writer(self) -> Written:
        raise LogshipError(Code.REHEARSAL_FAILED, "the writer ended with 137: nothing")


@pytest.mark.parametrize("step_fails", [False, True])
def test_a_writer_that_is_lost_is_told_unless_the_step_itself_failed(
    clock: Clock, step_fails: bool
) -> None:
    told: list[str] = []
    stage = Stage(
        cast(Engine, None),
        cast(Primary, Lost(clock)),
        cast(Recovery, Following()),
        told.append,
        60.0,
    )
    measure = Measure(stage)
    with contextlib.suppress(ZeroDivisionError), measure:
        if step_fails:
            raise ZeroDivisionError
        measure.wait_protected()
    assert measure.outage(is_new_cluster=False).writes_seconds is None
    assert any("ended with 137" in each for each in told) is not step_fails
