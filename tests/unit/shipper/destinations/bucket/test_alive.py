"""Signs of life: who puts them, what they say, and what a failure to put one is."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from logship.bucket.epoch_record import read_epoch
from logship.bucket.sign_of_life import SignOfLife, read_sign
from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn
from shipper.destinations import Lost
from shipper.destinations.bucket.alive import NOTE_NAME, Heard, heard_after, sign_of
from shipper.destinations.bucket.destination import BucketDestination
from tests.integration.destination_contract import Shipping, facts
from tests.support.bucket_far_end import BucketFarEnd
from tests.support.link_frames import SEGMENT_BYTES, at, profile
from tests.support.waiting import until

S = SEGMENT_BYTES
EVERY = 0.02


@pytest.fixture
async def shipping(rig: BucketFarEnd) -> AsyncIterator[Shipping]:
    rig.options["alive_every_seconds"] = EVERY
    made = Shipping(rig)
    yield made
    await made.close()


def sign(rig: BucketFarEnd) -> SignOfLife | None:
    return read_sign(rig.store.real, "orders")


async def renewed(rig: BucketFarEnd, times: int = 2) -> SignOfLife:
    """The newest, once so many more were put."""
    for _ in range(times):
        before = sign(rig)
        await until(lambda: sign(rig) != before, "another sign")  # noqa: B023
    found = sign(rig)
    assert found is not None
    return found


async def unchanged(rig: BucketFarEnd, shipping: Shipping) -> None:
    """Nothing was put while as much else was as takes several signs."""
    before = sign(rig)
    for _ in range(3):
        await shipping.send(100)
        await shipping.hear_durable(shipping.sent)
    assert sign(rig) == before


def test_it_says_what_is_known_of_the_primary() -> None:
    heard = heard_after(Heard(), facts(timeline=3, flush_lsn=Lsn(5)), 70.0)
    made = sign_of(heard, True, 75.0, epoch=4, every_seconds=30.0)
    assert (made.epoch, made.sent_at, made.every_seconds, made.reachable) == (4, 75.0, 30.0, True)
    assert (made.timeline, made.flush_lsn, made.heard_at) == (3, 5, 70.0)
    assert made.cluster == str(profile().incarnation)


def test_of_a_primary_that_is_away_it_says_what_was_last_heard_and_when() -> None:
    heard = heard_after(Heard(), facts(timeline=3, flush_lsn=Lsn(5)), 70.0)
    gone = facts(timeline=3, flush_lsn=Lsn(0), reachable=False)
    assert heard_after(heard, gone, 90.0) == heard
    assert heard_after(heard, gone._replace(timeline=4), 90.0) == heard
    # An outbox tells what the primary wrote at least, and not when.
    more = heard_after(heard, gone._replace(flush_lsn=Lsn(8)), 90.0)
    assert (more.flush_lsn, more.at) == (8, 70.0)
    for never in (
        heard_after(Heard(), gone._replace(flush_lsn=Lsn(8)), 90.0),
        heard_after(heard, gone._replace(profile=profile(system_identifier=99)), 90.0),
    ):
        assert (never.flush_lsn, never.at) == (0, 0.0)


async def test_signs_come_whether_or_not_there_is_wal(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    first = await renewed(rig)
    record, _ = read_epoch(rig.store.real, "orders")
    assert record is not None and first.epoch == record.number
    assert first.every_seconds == EVERY and first.reachable
    shipping.destination.tell(facts(flush_lsn=Lsn(1234 * S)))
    assert (await renewed(rig)).flush_lsn == 1234 * S
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    await renewed(rig)


async def test_they_go_on_and_say_so_while_the_primary_is_away(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    held = await renewed(rig)
    await shipping.destination.close("the primary is lost")
    await shipping.connect(reachable=False, ships=False, flush_lsn=Lsn(0))
    away = await renewed(rig)
    assert (away.reachable, away.flush_lsn) == (False, held.flush_lsn)
    await shipping.connect()
    assert (await renewed(rig)).reachable


async def test_who_never_took_the_epoch_puts_none(rig: BucketFarEnd, shipping: Shipping) -> None:
    await shipping.connect(reachable=False, ships=False)
    assert not rig.store.calls
    other = rig.make_destination(shipper_id="shipper-b", state_directory=rig.state / "b")
    (rig.state / "b").mkdir()
    await shipping.connect()
    await renewed(rig)
    with pytest.raises(LogshipError) as caught:
        await other.connect(facts())
    assert caught.value.code is Code.EPOCH_HELD
    assert (await renewed(rig)).epoch == 1
    await other.close("refused")


async def test_a_connection_that_is_closed_puts_no_more(rig: BucketFarEnd) -> None:
    made = rig.make_destination(alive_every_seconds=EVERY)
    await made.connect(facts())
    await renewed(rig)
    await made.close("the shipper stops")
    assert made._signs._task is None


async def test_a_sign_that_fails_is_no_reason_to_stop_shipping(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await renewed(rig)
    rig.store.refusals.append(LogshipError(Code.BUCKET_REFUSED, "not this one"))
    await until(lambda: not rig.store.refusals, "a sign fails")
    await renewed(rig)
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))


async def test_a_fence_is_heard_of_also_by_who_writes_nothing(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await renewed(rig)
    rig.fence()
    (lost,) = await shipping.hear(Lost)
    assert lost.error.code is Code.FENCED
    last = sign(rig)
    with pytest.raises(LogshipError):
        await shipping.connect()
    assert sign(rig) == last


async def test_a_primary_that_is_no_continuation_of_the_log_gives_none(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    destination = shipping.destination
    assert isinstance(destination, BucketDestination)
    await shipping.connect()
    await renewed(rig)
    gap = GapFound(timeline=1, from_lsn=S, available_lsn=0, code="primary-behind", what="behind")
    destination.send_gap(gap)
    assert destination.standing() is not None
    await turns(destination, 2)  # one may have been on its way
    last = sign(rig)
    await turns(destination, 3)
    assert sign(rig) == last


async def turns(destination: BucketDestination, count: int) -> None:
    """Until signs would have been put so often."""
    for _ in range(count):
        due_at = destination._signs._due_at
        await until(lambda: destination._signs._due_at > due_at, "a turn")  # noqa: B023


async def test_a_setting_that_is_taken_away_is_said_once(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await renewed(rig)
    await shipping.close()
    rig.options["alive_every_seconds"] = 0.0
    after = Shipping(rig)
    await after.connect()
    await until(lambda: not (rig.state / NOTE_NAME).exists(), "it was said")
    found = sign(rig)
    assert found is not None and (found.every_seconds, found.epoch) == (0.0, 2)
    await unchanged(rig, after)
    await after.close()


async def test_who_takes_over_without_the_setting_says_so_too(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await renewed(rig)
    await shipping.close()
    rig.options["alive_every_seconds"] = 0.0
    (rig.state / "b").mkdir()
    rig.store.refusals.append(LogshipError(Code.BUCKET_REFUSED, "not the first time"))
    other = rig.make_destination(
        shipper_id="shipper-b", state_directory=rig.state / "b", take_over=True
    )
    while True:
        try:
            await other.connect(facts())
        except LogshipError:
            continue
        break
    await until(lambda: (found := sign(rig)) is not None and not found.every_seconds, "it was said")
    await other.close("over")


async def test_who_never_gave_signs_asks_for_nothing(rig: BucketFarEnd) -> None:
    quiet = Shipping(rig)
    await quiet.connect()
    await quiet.send(1000)
    await quiet.hear_durable(at(1, S + 1000))
    assert sign(rig) is None
    await quiet.close()
