"""What signs of life mean, by the clock of who looks at them."""

from __future__ import annotations

import msgspec
import pytest

from applier.receivers.bucket.signs import RETRY_SECONDS, SILENT_INTERVALS, Signs
from logship.bucket.sign_of_life import SignOfLife
from logship.errors import Code, LogshipError

EVERY = 10.0
SIGN = SignOfLife(
    epoch=1,
    sent_at=1700000000.0,
    every_seconds=EVERY,
    cluster="1-17",
    reachable=True,
    timeline=1,
    flush_lsn=100,
    heard_at=1699999990.0,
)


def renewed(sign: SignOfLife = SIGN, seconds: float = EVERY) -> SignOfLife:
    return msgspec.structs.replace(sign, sent_at=sign.sent_at + seconds)


@pytest.fixture
def signs() -> Signs:
    return Signs("orders", "s3://wal", 1.0)


def silent(signs: Signs) -> LogshipError | None:
    standing = signs.standing()
    return standing.silent if standing is not None else None


def fresh(signs: Signs) -> bool:
    standing = signs.standing()
    return standing is not None and standing.is_fresh


def test_where_there_is_none_it_is_not_looked_for_again(signs: Signs) -> None:
    signs.came(None, 0.0)
    assert signs.standing() is None
    assert signs.pause_seconds is None and not signs.is_expected


def test_one_that_is_there_is_looked_at_as_often_as_it_is_renewed(signs: Signs) -> None:
    signs.came(SIGN, 0.0)
    assert signs.pause_seconds == EVERY


def test_it_is_looked_at_no_oftener_than_the_bucket_is_polled() -> None:
    signs = Signs("orders", "s3://wal", 60.0)
    signs.came(SIGN, 0.0)
    assert signs.pause_seconds == 60.0
    for now in (60.0, 120.0):
        signs.came(SIGN, now)
        assert silent(signs) is None
    signs.came(SIGN, 180.0)
    assert silent(signs) is not None


def test_a_first_sign_may_be_of_long_ago_and_only_the_next_one_tells(signs: Signs) -> None:
    signs.came(SIGN, 0.0)
    assert not fresh(signs) and silent(signs) is None
    signs.came(renewed(), EVERY)
    assert fresh(signs) and silent(signs) is None


def test_unchanged_for_three_intervals_is_silent_until_it_changes(signs: Signs) -> None:
    signs.came(SIGN, 5.0)
    signs.came(SIGN, 5.0 + SILENT_INTERVALS * EVERY - 0.1)
    assert silent(signs) is None
    signs.came(SIGN, 5.0 + SILENT_INTERVALS * EVERY)
    error = silent(signs)
    assert error is not None and error.code is Code.SHIPPER_SILENT
    assert "2023-11-14 22:13:20Z" in error.what and "each 10 s" in error.what
    assert "orders/alive" in error.hint
    assert not fresh(signs)
    signs.came(renewed(seconds=500.0), 500.0)
    assert silent(signs) is None and fresh(signs)


def test_a_clock_of_the_shippers_that_is_wrong_is_of_no_matter(signs: Signs) -> None:
    for number in range(10):
        signs.came(renewed(seconds=-86400.0 * number), number * EVERY)
        assert silent(signs) is None


def test_while_the_bucket_does_not_answer_nobody_is_silent(signs: Signs) -> None:
    signs.came(SIGN, 0.0)
    signs.came(renewed(), EVERY)
    signs.failed()
    assert not fresh(signs) and signs.pause_seconds == EVERY
    signs.came(renewed(), 1000.0)
    assert silent(signs) is None and not fresh(signs)
    signs.came(renewed(), 1000.0 + SILENT_INTERVALS * EVERY)
    assert silent(signs) is not None


def test_after_a_bucket_that_did_not_answer_only_the_next_sign_but_one_tells(signs: Signs) -> None:
    signs.came(SIGN, 0.0)
    signs.failed()
    signs.came(renewed(), 1000.0)
    assert not fresh(signs)
    signs.came(renewed(seconds=2 * EVERY), 1000.0 + EVERY)
    assert fresh(signs)


def test_who_is_silent_stays_so_while_the_bucket_does_not_answer(signs: Signs) -> None:
    signs.came(SIGN, 0.0)
    signs.came(SIGN, SILENT_INTERVALS * EVERY)
    signs.failed()
    assert silent(signs) is not None
    signs.came(SIGN, 1000.0)
    assert silent(signs) is not None


def test_whether_there_is_one_is_asked_again_where_the_bucket_did_not_say(signs: Signs) -> None:
    signs.failed()
    assert signs.pause_seconds == RETRY_SECONDS
    signs.came(None, 1.0)
    assert signs.pause_seconds is None


@pytest.mark.parametrize("last", [None, msgspec.structs.replace(SIGN, every_seconds=0.0)])
def test_one_that_is_taken_back_or_removed_is_not_missed(
    signs: Signs, last: SignOfLife | None
) -> None:
    signs.came(SIGN, 0.0)
    signs.came(SIGN, SILENT_INTERVALS * EVERY)
    assert silent(signs) is not None
    signs.came(last, 100.0)
    assert signs.standing() is None and not signs.is_expected
    assert signs.pause_seconds is None
