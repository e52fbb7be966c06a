"""What would be lost is said truthfully, also across timelines."""

from __future__ import annotations

from applier.operations.exposure import exposure_bytes
from applier.operations.record import Heard
from logship.lsn import Lsn, Position
from logship.wal import History, HistoryEntry


def heard(timeline: int, lsn: int) -> Heard:
    return Heard(timeline=timeline, lsn=lsn, at=0.0)


def test_on_one_timeline_it_is_the_difference() -> None:
    assert exposure_bytes(heard(1, 5000), Position(1, Lsn(4000)), {}) == 1000
    assert exposure_bytes(heard(1, 5000), Position(1, Lsn(5000)), {}) == 0


def test_more_durable_than_heard_is_no_negative_loss() -> None:
    assert exposure_bytes(heard(1, 5000), Position(1, Lsn(6000)), {}) == 0


def test_a_primary_never_heard_is_not_known_rather_than_nothing() -> None:
    assert exposure_bytes(None, Position(1, Lsn(6000)), {}) is None
    assert exposure_bytes(heard(1, 5000), None, {}) is None


def test_what_was_heard_before_a_switch_that_is_here_is_here() -> None:
    assert exposure_bytes(heard(1, 9000), Position(2, Lsn(6000)), {}) == 0


def test_a_new_timeline_that_never_arrived_is_lost_from_its_fork_on() -> None:
    histories = {2: History(2, (HistoryEntry(1, Lsn(7000)),))}
    # We hold more of the old timeline than the new primary ever had: that is not its WAL.
    assert exposure_bytes(heard(2, 8000), Position(1, Lsn(9000)), histories) == 1000
    assert exposure_bytes(heard(2, 8000), Position(1, Lsn(6000)), histories) == 2000


def test_a_fork_that_is_not_known_here_is_not_known() -> None:
    assert exposure_bytes(heard(2, 8000), Position(1, Lsn(9000)), {}) is None
