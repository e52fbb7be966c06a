"""An alarm is raised once, says its newest words, and ends when its cause does."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from applier.operations.alarms import Alarms
from logship.errors import Code, LogshipError


@pytest.fixture
def alarms() -> Alarms:
    return Alarms("orders")


def codes(alarms: Alarms) -> list[str]:
    return [alarm["code"] for alarm in alarms.as_list()]


def test_an_alarm_says_what_is_wrong_and_what_to_do(alarms: Alarms) -> None:
    alarms.raise_error(LogshipError(Code.DISK_FULL, "no room", "make room"))
    assert alarms.as_list() == [{"code": "disk-full", "what": "no room", "hint": "make room"}]


def test_the_same_again_is_one_alarm_and_one_line_in_the_log(alarms: Alarms) -> None:
    with capture_logs() as logs:
        for _ in range(3):
            alarms.raise_error(LogshipError(Code.DISK_FULL, "no room", "make room"))
    assert codes(alarms) == ["disk-full"]
    (line,) = logs
    assert (line["log_level"], line["instance"], line["code"]) == ("error", "orders", "disk-full")


def test_new_words_renew_an_alarm(alarms: Alarms) -> None:
    with capture_logs() as logs:
        alarms.raise_error(LogshipError(Code.SLOT_LOST, "about to go"))
        alarms.raise_error(LogshipError(Code.SLOT_LOST, "gone"))
    assert [alarm["what"] for alarm in alarms.as_list()] == ["gone"]
    assert len(logs) == 2


def test_clearing_ends_one_alarm_and_is_logged_only_if_there_was_one(alarms: Alarms) -> None:
    alarms.raise_error(LogshipError(Code.DISK_FULL, "no room"))
    alarms.raise_error(LogshipError(Code.WAL_GAP, "a hole"))
    with capture_logs() as logs:
        alarms.clear(Code.DISK_FULL)
        alarms.clear(Code.DISK_FULL)
        alarms.clear(Code.STORE_FAILED)
    assert codes(alarms) == ["wal-gap"]
    assert len(logs) == 1


@pytest.mark.parametrize("status", ["unreserved", "lost"])
def test_a_slot_that_loses_wal_is_alarmed_before_and_after(alarms: Alarms, status: str) -> None:
    alarms.slot(status)
    assert codes(alarms) == ["slot-lost"]
    assert status in alarms.as_list()[0]["what"]
    assert alarms.as_list()[0]["hint"]


@pytest.mark.parametrize("status", ["reserved", "extended"])
def test_a_slot_that_is_well_again_ends_the_alarm(alarms: Alarms, status: str) -> None:
    alarms.slot("unreserved")
    alarms.slot(status)
    assert codes(alarms) == []


def test_a_slot_of_which_nothing_is_known_changes_nothing(alarms: Alarms) -> None:
    alarms.slot("")
    assert codes(alarms) == []
    alarms.slot("lost")
    alarms.slot("")
    assert codes(alarms) == ["slot-lost"]
