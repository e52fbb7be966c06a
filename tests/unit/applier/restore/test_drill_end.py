"""A drill that ends before the WAL that is kept does has not shown that it can be recovered."""

from __future__ import annotations

from pathlib import Path

import pytest

from applier.restore.drilling import check_end
from applier.restore.intervals import Interval
from applier.restore.window import make_window
from logship.errors import Code, LogshipError
from logship.lsn import Lsn
from tests.unit.applier.restore.test_finding import ALONE, START, Made, seed_choice

MANY = 300


@pytest.fixture
def wal(tmp_path: Path) -> Made:
    made = Made(tmp_path / "wal")
    made.seeded()
    return made


@pytest.mark.parametrize("more_bytes", range(0, 9000, 1000))
def test_whole_wal_is_recovered_to_its_end(wal: Made, more_bytes: int) -> None:
    wal.commit(1)
    wal.commit(2, more_bytes=more_bytes)
    records, close = wal.records()
    check_end(records, wal.window(records))
    close()


def test_so_is_wal_that_ends_within_a_record(wal: Made) -> None:
    mark = wal.commit(1)
    wal.commit(2, more_bytes=20_000)
    del wal.factory.data[-5_000:]
    records, close = wal.records()
    window = wal.window(records)
    assert window.stretches[-1].latest_lsn == mark.end_lsn
    check_end(records, window)
    close()


def test_damage_before_the_end_is_no_end(wal: Made) -> None:
    marks = [wal.commit(number) for number in range(MANY)]
    damaged = marks[-10]
    wal.factory.data[damaged.start_lsn - START] = 0  # a record of no size: "the end"
    records, close = wal.records()
    window = wal.window(records)
    assert window.stretches[-1].latest_lsn == damaged.start_lsn
    with pytest.raises(LogshipError, match="the WAL is not whole") as caught:
        check_end(records, window)
    assert caught.value.code is Code.STORE_DAMAGED
    close()


def test_what_lies_behind_a_hole_and_no_seed_is_not_recovered(wal: Made) -> None:
    wal.commit(1)
    records, close = wal.records()
    seed = seed_choice(START + 40, wal.seed_end)
    window = make_window(records.kept, ALONE, [seed], None)
    end = window.stretches[-1].wal.end
    check_end(records, window._replace(lost=(Interval(START - 200, START - 100),)))
    with pytest.raises(LogshipError, match=f"from {Lsn(end)} to {Lsn(end + 100)}") as caught:
        check_end(records, window._replace(lost=(Interval(end, end + 100),)))
    assert caught.value.code is Code.DRILL_FAILED and caught.value.hint
    close()
