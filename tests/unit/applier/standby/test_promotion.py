"""When everything received was replayed; where a timeline forked."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.standby.probes import NOT_PAUSED, Positions
from applier.standby.promotion import ReplayWatch, fork_of
from logship.errors import Code, LogshipError
from logship.lsn import Lsn

END = Lsn(1000)


def seen(
    replayed: int | None, received: int | None, *, idle: bool, in_recovery: bool = True
) -> Positions:
    return Positions(
        in_recovery=in_recovery,
        received=None if received is None else Lsn(received),
        replayed=None if replayed is None else Lsn(replayed),
        replay_pause=NOT_PAUSED,
        timeline=1,
        replay_idle=idle,
    )


def test_replay_at_the_end_is_done_at_once() -> None:
    assert ReplayWatch(END).done(seen(1000, None, idle=False), 0.0)


def test_a_server_out_of_recovery_has_replayed_all_it_had() -> None:
    assert ReplayWatch(END).done(seen(None, None, idle=False, in_recovery=False), 0.0)


def test_a_tail_in_mid_record_is_done_when_replay_stays_idle() -> None:
    watch = ReplayWatch(END)
    assert not watch.done(seen(990, 1000, idle=True), 0.0)
    assert not watch.done(seen(990, 1000, idle=True), 0.005)
    assert watch.done(seen(990, 1000, idle=True), 0.02)


def test_idle_before_all_was_received_is_not_done() -> None:
    watch = ReplayWatch(END)
    for now in (0.0, 1.0, 2.0):
        assert not watch.done(seen(900, 950, idle=True), now)
        assert not watch.done(seen(None, None, idle=True), now)


@pytest.mark.parametrize("between", [seen(990, 1000, idle=False), seen(995, 1000, idle=True)])
def test_replay_that_moved_between_two_looks_is_not_done(between: Positions) -> None:
    watch = ReplayWatch(END)
    assert not watch.done(seen(990, 1000, idle=True), 0.0)
    assert not watch.done(between, 0.5)
    assert not watch.done(seen(995, 1000, idle=True), 0.505)


def test_it_looks_seldom_while_much_is_left() -> None:
    watch = ReplayWatch(Lsn(100 << 20))
    far = watch.pause_seconds(seen(1000, 100 << 20, idle=False))
    near = watch.pause_seconds(seen((100 << 20) - 10, 100 << 20, idle=False))
    assert far > 5 * near


def test_a_fork_is_read_from_the_new_timelines_history(tmp_path: Path) -> None:
    wal = tmp_path / "pg_wal"
    wal.mkdir()
    (wal / "00000003.history").write_text("1\t0/3000000\tx\n2\t0/4000028\tno recovery target\n")
    assert fork_of(tmp_path, 3) == Lsn.parse("0/4000028")
    with pytest.raises(LogshipError) as caught:
        fork_of(tmp_path, 4)
    assert caught.value.code is Code.PROMOTE_FAILED
