"""Destination `bucket` over a store in a directory and on a real S3 server: the contract, and
what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from logship.bucket.epoch_record import read_epoch
from logship.bucket.keys import Place
from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn
from shipper.destinations import Acked, Lost, Rewind, SeedFinished, SeedWanted
from shipper.destinations.bucket.destination import BucketDestination
from shipper.destinations.bucket.wishes import ORDER_NAME
from tests.integration.destination_contract import (
    DestinationContract,
    Seed,
    Shipping,
    facts,
    given,
)
from tests.support.bucket_far_end import KEYS, BucketFarEnd
from tests.support.link_frames import SEGMENT_BYTES, at, profile, sealed_wal, wal_bytes
from tests.support.s3_server import S3Bucket
from tests.support.waiting import until

pytestmark = pytest.mark.integration

S = SEGMENT_BYTES


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[BucketFarEnd]:
    made = BucketFarEnd(tmp_path)
    yield made
    made.store.vanish()


@pytest.fixture
async def shipping(rig: BucketFarEnd) -> AsyncIterator[Shipping]:
    made = Shipping(rig)
    yield made
    await made.close()


class TestBucketDestination(DestinationContract):
    pass


class TestBucketDestinationOnS3(DestinationContract):
    @pytest.fixture
    def rig(self, tmp_path: Path, s3_bucket: S3Bucket) -> Iterator[BucketFarEnd]:
        store = s3_bucket.store()
        made = BucketFarEnd(tmp_path, store)
        yield made
        made.store.vanish()
        store.close()


def restarted(rig: BucketFarEnd, **options: Any) -> Shipping:
    """Another process with the same state directory."""
    rig.options |= options
    return Shipping(rig)


def objects(rig: BucketFarEnd) -> list[tuple[Place, int]]:
    """Spans as one who follows finds them: (place, raw bytes)."""
    return [(place, head.raw_bytes) for place, head, _ in rig.objects() if head.marker is None]


def markers(rig: BucketFarEnd) -> list[str]:
    return [head.marker.kind for _, head, _ in rig.objects() if head.marker is not None]


def gap(lsn: int, *, code: str = "wal-removed") -> GapFound:
    return GapFound(timeline=1, from_lsn=lsn, available_lsn=9 * S, code=code, what="it is gone")


# --- requests -----------------------------------------------------------------------------


async def test_nothing_is_asked_of_the_bucket_while_nothing_is_written(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    before = rig.store.calls.copy()
    for number in range(5):
        shipping.destination.tell(facts(flush_lsn=Lsn(S + number), slot_wal_status="extended"))
        shipping.destination.tell(facts(profile=profile(max_connections=500 + number)))
        await asyncio.sleep(0.05)
    assert rig.store.calls == before


async def test_a_primary_that_is_away_is_no_reason_to_ask(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    accepted = await shipping.connect(reachable=False, ships=False)
    assert accepted.position is None
    assert not accepted.seed_wanted
    assert not rig.store.calls
    assert read_epoch(rig.store.real, "orders") == (None, "")
    with pytest.raises(LogshipError, match="away"):
        await shipping.destination.room(1)


async def test_what_is_written_within_the_delay_is_one_object(rig: BucketFarEnd) -> None:
    shipping = restarted(rig, max_delay_seconds=0.3)
    await shipping.connect()
    await shipping.send(30_000, span_bytes=300)
    await shipping.hear_durable(at(1, S + 30_000))
    assert objects(rig) == [(Place(1, Lsn(S)), 30_000)]
    await shipping.close()


async def test_no_object_crosses_a_segments_end_or_is_larger_than_allowed(
    rig: BucketFarEnd,
) -> None:
    shipping = restarted(rig, max_object_bytes=300_000, max_delay_seconds=0.1)
    await shipping.connect()
    await shipping.send(2 * S + 5, span_bytes=100_000)
    await shipping.hear_durable(at(1, 3 * S + 5))
    sizes = [size for _, size in objects(rig)]
    assert max(sizes) <= 300_000
    assert {int(place.lsn) for place, _ in objects(rig)} >= {S, 2 * S, 3 * S}
    assert rig.wal_of(1) == wal_bytes(1, S, 2 * S + 5)
    await shipping.close()


async def test_a_full_window_does_not_wait_for_the_delay(rig: BucketFarEnd) -> None:
    shipping = restarted(rig, max_delay_seconds=600.0)
    await shipping.connect()
    await shipping.send(3 * rig.window_bytes, span_bytes=100_000)
    assert len(objects(rig)) >= 2
    await shipping.close()


async def test_the_steady_state_never_lists(rig: BucketFarEnd) -> None:
    shipping = restarted(rig, compact_grace_seconds=0.05, max_object_bytes=300_000)
    await shipping.connect()
    before = rig.store.calls["listing"] + rig.store.calls["folders"]
    await shipping.send(3 * S, span_bytes=100_000)
    await shipping.hear_durable(at(1, 4 * S))
    await until(lambda: rig.store.calls["delete"] == 3, "the parts of the segments are removed", 60)
    assert rig.store.calls["listing"] + rig.store.calls["folders"] == before
    await shipping.close()


async def test_a_head_says_what_the_primary_was(rig: BucketFarEnd, shipping: Shipping) -> None:
    await shipping.connect(timeline=1)
    shipping.destination.tell(facts(timeline=1, flush_lsn=Lsn(S + 1)))
    await shipping.send(500)
    await shipping.hear_durable(at(1, S + 500))
    ((_, head, _),) = list(rig.objects())
    record, _ = read_epoch(rig.store.real, "orders")
    assert record is not None
    assert (head.flush_lsn, head.flush_timeline) == (S + 500, 1)
    assert (head.protection, head.epoch) == ("async", record.number)
    assert rig._profile(head.profile) == profile()
    assert head.sent_at > 0


# --- the bucket goes away -----------------------------------------------------------------


async def test_a_short_absence_loses_no_connection_and_nothing_is_read_again(
    rig: BucketFarEnd,
) -> None:
    shipping = restarted(rig, patience_seconds=60.0)
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    rig.vanish()
    calls = sum(rig.store.calls.values())
    await shipping.send(50_000, span_bytes=10_000)
    await until(lambda: sum(rig.store.calls.values()) > calls + 2, "it tries again")
    rig.come_back()
    await shipping.hear_durable(at(1, S + 51_000))
    assert not shipping.heard(Lost)
    assert not shipping.heard(Rewind)
    assert rig.wal_of(1) == wal_bytes(1, S, 51_000)
    await shipping.close()


async def test_an_answer_that_was_lost_costs_nothing(rig: BucketFarEnd) -> None:
    def lose() -> None:
        raise LogshipError(Code.BUCKET_UNREACHABLE, "no answer", retryable=True)

    shipping = restarted(rig, patience_seconds=60.0)
    await shipping.connect()
    for step in range(3):
        rig.store.after_put.append(("", lose))
        await shipping.send(1000)
        await shipping.hear_durable(at(1, S + 1000 * (step + 1)))
    assert rig.wal_of(1) == wal_bytes(1, S, 3000)
    assert not shipping.heard(Lost)
    await shipping.close()


# --- what stands there already ------------------------------------------------------------


async def test_a_hole_that_a_crash_left_is_filled_and_what_lies_beyond_it_adopted(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    rig.put_wal(at(1, S + 1000), 500)
    rig.put_wal(at(1, S + 1500), 700)
    rig.put_wal(at(1, 2 * S), 300)
    accepted = await shipping.connect()
    assert accepted.position == accepted.durable == at(1, S)
    await shipping.send(S + 5000)
    await shipping.hear_durable(at(1, 2 * S + 5000))
    assert rig.wal_of(1) == wal_bytes(1, S, S + 5000)
    found = objects(rig)
    for place in (
        (Place(1, Lsn(S)), 1000),
        (Place(1, Lsn(S + 1000)), 500),
        (Place(1, Lsn(S + 1500)), 700),
        (Place(1, Lsn(2 * S)), 300),
    ):
        assert place in found
    assert len(list(rig.store.real.listing(KEYS.all_wal))) == len(found) + 1, (
        "none lies over another"
    )


@pytest.mark.parametrize("stray_at", [S + 60, S + 100])
async def test_what_lies_beyond_a_hole_past_the_end_of_a_timeline_does_not_stand_in_the_way(
    rig: BucketFarEnd, shipping: Shipping, stray_at: int
) -> None:
    """A primary died while it shipped, and its standby, which had less, was promoted."""
    rig.put_wal(at(1, stray_at), 5000)
    await shipping.connect(timeline=2)
    shipping.destination.send_history(2, b"1\t0/100064\tno recovery target specified\n")
    await shipping.send(100)
    shipping.sent = at(2, S)
    await shipping.send(3000)
    await shipping.hear_durable(at(2, S + 3000))
    assert rig.wal_of(1) == wal_bytes(1, S, 100)
    assert rig.wal_of(2) == wal_bytes(2, S, 3000)
    assert not shipping.heard(Lost)


async def test_other_bytes_beyond_a_hole_are_a_conflict_and_stay(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    rig.put_wal(at(1, S + 1000), 500, of_timeline=7)
    key = KEYS.wal(Place(1, Lsn(S + 1000)))
    before = rig.store.real.get(key)
    await shipping.connect()
    await shipping.send(5000)
    (lost,) = await shipping.hear(Lost)
    assert lost.error.code is Code.WAL_CONFLICT
    assert not lost.error.retryable
    assert "0/1003E8" in lost.error.what
    assert rig.store.real.get(key) == before
    assert all(ack.durable <= at(1, S + 1000) for ack in shipping.heard(Acked))


@pytest.mark.parametrize("size_bytes", [400, 1000, 6000])
async def test_wal_that_a_former_writer_put_in_our_place_is_compared_and_adopted(
    rig: BucketFarEnd, shipping: Shipping, size_bytes: int
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    rig.put_wal(at(1, S + 1000), size_bytes)
    await shipping.send(1000)
    if size_bytes != 1000:
        (lost,) = await shipping.hear(Lost)
        assert (lost.error.code, lost.error.retryable) == (Code.LINK_LOST, True)
        assert (await shipping.connect_patiently()).position == at(1, S + 1000)
        await shipping.send(9000)
        await shipping.hear_durable(at(1, S + 10_000))
        assert rig.wal_of(1) == wal_bytes(1, S, 10_000)
    else:
        await shipping.hear_durable(at(1, S + 2000))
    assert (Place(1, Lsn(S + 1000)), size_bytes) in objects(rig)


@pytest.mark.parametrize("size_bytes", [400, 1000, 6000])
async def test_other_wal_in_our_place_is_a_conflict(
    rig: BucketFarEnd, shipping: Shipping, size_bytes: int
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    rig.put_wal(at(1, S + 1000), size_bytes, of_timeline=7)
    await shipping.send(1000)
    (lost,) = await shipping.hear(Lost)
    if size_bytes != 1000:
        assert (await shipping.connect_patiently()).position == at(1, S + 1000)
        await shipping.send(9000)
        (lost,) = await shipping.hear(Lost)
    assert lost.error.code is Code.WAL_CONFLICT
    assert len(rig.wal_of(1)) == 1000 + size_bytes, "nothing was overwritten or added"


async def test_a_history_that_differs_is_a_conflict(rig: BucketFarEnd, shipping: Shipping) -> None:
    await shipping.connect()
    shipping.destination.send_history(2, b"1\t0/200064\tno recovery target specified\n")
    await until(lambda: given(rig, "history"), "it arrived")
    await shipping.connect()
    shipping.destination.send_history(2, b"1\t0/200064\tno recovery target specified\n")
    shipping.destination.send_history(2, b"1\t0/200999\tno recovery target specified\n")
    (lost,) = await shipping.hear(Lost)
    assert lost.error.code is Code.HISTORY_CONFLICT
    assert given(rig, "history") == [(2, b"1\t0/200064\tno recovery target specified\n")]


# --- one writer ---------------------------------------------------------------------------


async def test_a_second_shipper_is_refused_and_after_a_take_over_the_first_stops(
    rig: BucketFarEnd, shipping: Shipping, tmp_path: Path
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    (tmp_path / "other").mkdir()
    other = {"shipper_id": "shipper-b", "state_directory": tmp_path / "other"}
    second = rig.make_destination(**other)
    with pytest.raises(LogshipError) as caught:
        await second.connect(facts())
    assert caught.value.code is Code.EPOCH_HELD
    assert not caught.value.retryable
    third = rig.make_destination(**other, take_over=True)
    assert (await third.connect(facts())).position == at(1, S + 1000)
    await shipping.send(1000)
    (lost,) = await shipping.hear(Lost)
    assert lost.error.code is Code.EPOCH_LOST
    assert "shipper-" in lost.error.what
    calls = rig.store.calls.copy()
    with pytest.raises(LogshipError) as caught:
        await shipping.connect()
    assert caught.value.code is Code.EPOCH_LOST
    assert rig.store.calls == calls
    assert rig.wal_of(1) == wal_bytes(1, S, 1000)
    for each in (second, third):
        await each.close("the test is over")


# --- starting again -----------------------------------------------------------------------


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_restart_goes_on_where_the_log_ends(
    rig: BucketFarEnd, shipping: Shipping, remembers: bool
) -> None:
    await shipping.connect()
    await shipping.send(2 * S + 700, span_bytes=50_000)
    await shipping.hear_durable(at(1, 3 * S + 700))
    await shipping.close()
    if not remembers:
        (rig.state / "bucket.json").unlink()
    again = restarted(rig)
    rig.store.calls.clear()
    accepted = await again.connect()
    assert accepted.position == accepted.durable == at(1, 3 * S + 700)
    if remembers:
        assert rig.store.calls["describe"] <= 5, "the last place is remembered"
    await again.send(1000)
    await again.hear_durable(at(1, 3 * S + 1700))
    assert rig.wal_of(1) == wal_bytes(1, S, 2 * S + 1700)
    await again.close()


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_restart_after_a_switch_goes_on_with_the_new_timeline(
    rig: BucketFarEnd, shipping: Shipping, remembers: bool
) -> None:
    await shipping.connect()
    await shipping.send(S + 100)
    shipping.destination.send_history(2, b"1\t0/200064\tno recovery target specified\n")
    shipping.sent = at(2, 2 * S)
    await shipping.send(300)
    await shipping.hear_durable(at(2, 2 * S + 300))
    assert markers(rig) == ["timeline"]
    await shipping.close()
    if not remembers:
        (rig.state / "bucket.json").unlink()
    again = restarted(rig)
    accepted = await again.connect(timeline=2)
    assert accepted.position == at(2, 2 * S + 300)
    assert accepted.known_timelines == {2}
    await again.close()


async def test_what_is_remembered_of_another_bucket_is_not_believed(
    rig: BucketFarEnd, shipping: Shipping, tmp_path: Path
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    await shipping.close()
    (tmp_path / "elsewhere").mkdir()
    elsewhere = BucketFarEnd(tmp_path / "elsewhere")
    elsewhere.without_wal()
    elsewhere.state = rig.state
    again = Shipping(elsewhere)
    assert (await again.connect()).position is None
    await again.close()


# --- gaps, seeds --------------------------------------------------------------------------


async def test_a_gap_is_said_once_and_wal_that_comes_after_all_goes_on_there(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    for code in ("wal-removed", "slot-lost"):
        shipping.destination.send_gap(gap(S + 1000, code=code))
    await until(lambda: given(rig, "gap"), "it arrived")
    accepted = await shipping.connect()
    assert accepted.position == at(1, S + 1000)
    shipping.destination.send_gap(gap(S + 1000))
    shipping.go_on_at(at(1, S + 1000))
    await shipping.send(500)
    await shipping.hear_durable(at(1, S + 1500))
    assert markers(rig) == ["gap"]
    assert rig.wal_of(1) == wal_bytes(1, S, 1500)


async def test_after_a_gap_the_log_goes_on_with_a_seed(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    shipping.destination.send_gap(gap(S + 1000))
    await Seed(start_lsn=7 * S + 40).send(shipping.destination)
    (rewind,) = await shipping.hear(Rewind)
    assert rewind.position == at(1, 7 * S)
    shipping.go_on_at(rewind.position)
    await shipping.send(2000)
    await shipping.hear_durable(at(1, 7 * S + 2000))
    await shipping.hear(SeedFinished)
    assert markers(rig) == ["gap", "seed"]
    assert rig.wal_of(1) == wal_bytes(1, S, 1000) + wal_bytes(1, 7 * S, 2000)
    again = restarted(rig)
    assert (await again.connect()).position == at(1, 7 * S + 2000)
    await again.close()


async def test_a_gap_that_is_found_while_a_seed_is_on_its_way_leads_to_it(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    await Seed(start_lsn=7 * S + 40).send(shipping.destination)
    assert not shipping.heard(Rewind), "the log is whole"
    shipping.destination.send_gap(gap(S + 1000))
    (rewind,) = await shipping.hear(Rewind)
    assert rewind.position == at(1, 7 * S)
    shipping.go_on_at(rewind.position)
    await shipping.send(2000)
    await shipping.hear_durable(at(1, 7 * S + 2000))
    assert markers(rig) == ["gap", "seed"]


async def test_a_seed_that_begins_before_the_gap_closes_it(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    shipping.destination.send_gap(gap(S + 1000, code="slot-lost"))
    await Seed(start_lsn=S + 4000).send(shipping.destination)
    (rewind,) = await shipping.hear(Rewind)
    assert rewind.position == at(1, S + 1000)
    shipping.destination.send_gap(gap(S + 1000, code="slot-lost"))
    await asyncio.sleep(0.05)
    assert len(shipping.heard(Rewind)) == 1, "it does not go round and round"
    shipping.go_on_at(rewind.position)
    await shipping.send(9000)
    await shipping.hear_durable(at(1, S + 10_000))
    assert markers(rig) == ["gap"]
    assert rig.wal_of(1) == wal_bytes(1, S, 10_000)


async def test_the_loss_of_the_connection_while_the_log_turns_to_a_seed_is_mended(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    shipping.destination.send_gap(gap(S + 1000))
    await until(lambda: given(rig, "gap"), "it arrived")
    rig.vanish()
    await Seed(start_lsn=7 * S + 40).send(shipping.destination)
    await shipping.hear(Lost)
    rig.come_back()
    assert (await shipping.connect_patiently()).position == at(1, 7 * S)
    await shipping.send(500)
    await shipping.hear_durable(at(1, 7 * S + 500))
    assert markers(rig) == ["gap", "seed"]


async def test_a_spill_skips_what_went_another_way(rig: BucketFarEnd, shipping: Shipping) -> None:
    await shipping.connect()
    await shipping.send(1000)
    destination = shipping.destination
    assert isinstance(destination, BucketDestination)
    shipping.sent = destination.skip_to(at(1, 5 * S + 70), "the link is down")
    assert shipping.sent == at(1, 5 * S)
    await shipping.send(2000)
    await shipping.hear_durable(at(1, 5 * S + 2000))
    assert markers(rig) == ["gap", "timeline"]
    assert rig.wal_of(1) == wal_bytes(1, S, 1000) + wal_bytes(1, 5 * S, 2000)
    assert destination.skip_to(at(1, 5 * S + 2000), "again") == at(1, 5 * S + 2000)
    await shipping.send(10)
    await shipping.hear_durable(at(1, 5 * S + 2010))
    assert markers(rig) == ["gap", "timeline"]


async def test_a_seed_is_wanted_while_there_is_none_when_it_is_old_and_when_it_is_ordered(
    rig: BucketFarEnd,
) -> None:
    shipping = restarted(rig, seed_every_hours=1e-9)
    assert (await shipping.connect()).seed_wanted
    await Seed().send(shipping.destination)
    await shipping.hear(SeedFinished)
    assert not (await shipping.connect()).seed_wanted
    (wanted,) = await shipping.hear(SeedWanted)
    assert "hours old" in wanted.why
    await shipping.close()

    ordered = restarted(rig, seed_every_hours=0.0)
    (rig.state / ORDER_NAME).touch()
    assert not (await ordered.connect()).seed_wanted
    (wanted,) = await ordered.hear(SeedWanted)
    assert "asked" in wanted.why
    await Seed("5eed2", start_lsn=4 * S + 40).send(ordered.destination)
    await ordered.hear(SeedFinished)
    await until(lambda: not (rig.state / ORDER_NAME).exists(), "the order is carried out")
    await ordered.close()


async def test_a_seed_that_ends_while_the_connection_is_lost_is_heard_with_the_next(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await shipping.send(1000)
    await shipping.hear_durable(at(1, S + 1000))
    seed = Seed(start_lsn=S + 40)
    await seed.send(shipping.destination, last=3)
    rig.vanish()
    await shipping.send(500)
    await shipping.hear(Lost)
    rig.come_back()
    shipping._stop_listening()
    await seed.send(shipping.destination, first=3)
    destination = shipping.destination
    assert isinstance(destination, BucketDestination)
    await until(lambda: not destination._seeds.seed_id, "the seed is whole")
    await shipping.connect()
    await shipping.hear(SeedFinished)
    assert shipping.heard(SeedFinished) == [SeedFinished("5eed1", "")]


async def test_spans_that_do_not_fit_are_asked_for_again(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    shipping.destination.send_span(1, S + 77, sealed_wal(1, S + 77, 100), 0)
    (rewind,) = await shipping.hear(Rewind)
    assert rewind.position == at(1, S)
    shipping.go_on_at(rewind.position)
    await shipping.send(100)
    await shipping.hear_durable(at(1, S + 100))
