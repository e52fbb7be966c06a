"""The end of a bucket's log: where it leads, and what a restart finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from logship.bucket.keys import Place
from logship.bucket.wal_objects import Marker
from logship.errors import Code, LogshipError
from logship.frames import GapFound, SeedAborted
from logship.lsn import Lsn, Position
from logship.objects import ConditionFailedError
from shipper.destinations import Lost, Rewind, SeedFinished
from shipper.destinations.bucket import destination as bucket
from shipper.destinations.bucket.destination import BucketDestination
from shipper.destinations.bucket.remembered import Remembered, load_hint
from shipper.destinations.bucket.wishes import ORDER_NAME, SeedWishes
from tests.integration.destination_contract import Seed, Shipping, given
from tests.support.bucket_far_end import KEYS, BucketFarEnd
from tests.support.link_frames import SEGMENT_BYTES, at, wal_bytes
from tests.support.memory_store import MemoryStore
from tests.support.waiting import until

S = SEGMENT_BYTES
OLD_SEED = "01d5eed"


@pytest.fixture
async def shipping(rig: BucketFarEnd) -> AsyncIterator[Shipping]:
    made = Shipping(rig)
    yield made
    await made.close()


async def ship(shipping: Shipping, size_bytes: int) -> None:
    await shipping.send(size_bytes)
    await shipping.hear_durable(shipping.sent)


def leave_gap(shipping: Shipping) -> None:
    lsn = shipping.sent.lsn
    shipping.destination.send_gap(
        GapFound(timeline=1, from_lsn=lsn, available_lsn=9 * S, code="slot-lost", what="it is gone")
    )


def markers(rig: BucketFarEnd) -> list[tuple[str, str]]:
    heads = [head.marker for _, head, _ in rig.objects()]
    return [(marker.kind, marker.seed) for marker in heads if marker is not None]


# --- a seed that the log leads to, and that never is complete ---------------------------------


async def led_to_a_seed(rig: BucketFarEnd, shipping: Shipping) -> None:
    """There is an older seed; after a gap the log leads to another, of which a part is there."""
    await shipping.connect()
    await Seed(OLD_SEED, start_lsn=S + 40).send(shipping.destination)
    await shipping.hear(SeedFinished)
    await ship(shipping, 1000)
    leave_gap(shipping)
    await Seed(start_lsn=7 * S + 40).send(shipping.destination, last=3)
    (rewind,) = await shipping.hear(Rewind)
    assert rewind.position == at(1, 7 * S)
    shipping.go_on_at(rewind.position)
    await ship(shipping, 500)
    assert markers(rig) == [("gap", ""), ("seed", "5eed1")]


@pytest.mark.parametrize("remembers", [True, False])
async def test_a_restart_wants_a_seed_while_the_one_that_the_log_leads_to_is_unfinished(
    rig: BucketFarEnd, shipping: Shipping, remembers: bool
) -> None:
    await led_to_a_seed(rig, shipping)
    await shipping.close()
    if not remembers:
        (rig.state / "bucket.json").unlink()
        rig.store.real.put(f"{KEYS.all_seeds}zzz/strange", b"")
    again = Shipping(rig)
    accepted = await again.connect()
    assert accepted.position == at(1, 7 * S + 500)
    assert accepted.seed_wanted
    await ship(again, S)
    await Seed("5eed2", start_lsn=8 * S + 40).send(again.destination)
    await again.hear(SeedFinished)
    assert not (await again.connect()).seed_wanted
    await again.close()
    third = Shipping(rig)
    assert not (await third.connect()).seed_wanted
    assert rig.wal_of(1) == wal_bytes(1, S, 1000) + wal_bytes(1, 7 * S, S + 500)
    await third.close()


async def test_a_seed_that_its_maker_gave_up_is_wanted_again_by_the_next_connection(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await led_to_a_seed(rig, shipping)
    aborted = SeedAborted(seed_id="5eed1", code="x", what="the primary restarted")
    await shipping.destination.send_seed(aborted, b"")
    await until(lambda: given(rig, "seed_stopped"), "it is given up")
    assert (await shipping.connect()).seed_wanted


async def test_a_seed_that_the_log_leads_to_and_that_is_complete_is_not_wanted_again(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await led_to_a_seed(rig, shipping)
    await Seed(start_lsn=7 * S + 40).send(shipping.destination, first=3)
    await shipping.hear(SeedFinished, count=2)
    assert not (await shipping.connect()).seed_wanted
    await shipping.close()
    again = Shipping(rig)
    assert not (await again.connect()).seed_wanted
    await again.close()


async def test_a_gap_does_not_lead_to_a_seed_that_has_failed(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await ship(shipping, 1000)
    await Seed(start_lsn=7 * S + 40).send(shipping.destination, last=3)
    aborted = SeedAborted(seed_id="5eed1", code="x", what="the primary restarted")
    await shipping.destination.send_seed(aborted, b"")
    leave_gap(shipping)
    await until(lambda: given(rig, "gap"), "it arrived")
    await Seed("5eed2", start_lsn=8 * S + 40).send(shipping.destination)
    (rewind,) = await shipping.hear(Rewind)
    assert rewind.position == at(1, 8 * S)
    shipping.go_on_at(rewind.position)
    await ship(shipping, 100)
    assert markers(rig) == [("gap", ""), ("seed", "5eed2")]
    assert rig.wal_of(1) == wal_bytes(1, Lsn(S), 1000) + wal_bytes(1, 8 * S, 100)


# --- the log leads forward --------------------------------------------------------------------


@pytest.mark.parametrize(("first_bytes", "skipped_bytes"), [(1000, 1500), (S, S + 70), (900, 800)])
async def test_a_skip_within_the_segment_that_is_being_written_goes_on_where_the_log_ends(
    rig: BucketFarEnd, shipping: Shipping, first_bytes: int, skipped_bytes: int
) -> None:
    await shipping.connect()
    await ship(shipping, first_bytes)
    destination = shipping.destination
    assert isinstance(destination, BucketDestination)
    shipping.sent = destination.skip_to(at(1, S + skipped_bytes), "the link is down")
    assert shipping.sent == at(1, S + first_bytes)
    await ship(shipping, 2000)
    assert markers(rig) == []
    assert rig.wal_of(1) == wal_bytes(1, S, first_bytes + 2000)
    await shipping.close()
    again = Shipping(rig)
    assert (await again.connect()).position == at(1, S + first_bytes + 2000)
    await again.close()


async def test_a_skip_to_an_older_timeline_goes_on_where_the_log_ends(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect(timeline=2)
    shipping.destination.send_history(2, b"1\t0/100064\tno recovery target specified\n")
    shipping.sent = at(2, S)
    await ship(shipping, 100)
    destination = shipping.destination
    assert isinstance(destination, BucketDestination)
    assert destination.skip_to(at(1, 9 * S), "the link is down") == at(2, S + 100)


@pytest.mark.parametrize("kind", ["timeline", "seed"])
@pytest.mark.parametrize("to", [at(1, S), at(1, S + 1000)])
async def test_a_log_that_leads_back_is_said_to_be_damaged(
    rig: BucketFarEnd, shipping: Shipping, kind: str, to: Position
) -> None:
    rig.put_wal(at(1, S), 1000)
    rig.put_marker(Place(1, Lsn(S + 1000)), Marker(kind="gap", code="wal-removed"))
    rig.put_marker(
        Place(1, Lsn(S + 1000), 1), Marker(kind=kind, timeline=to.timeline, lsn=to.lsn, seed="5eed")
    )
    with pytest.raises(LogshipError, match="leads back") as caught:
        await asyncio.wait_for(shipping.connect(), 10)
    assert caught.value.code is Code.OBJECT_DAMAGED


# --- what is remembered -----------------------------------------------------------------------


async def test_the_end_of_the_log_is_written_down_by_one_at_a_time(
    rig: BucketFarEnd, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bucket, "HINT_SECONDS", 0.0)
    rig.options |= {"max_object_bytes": 1000, "uploads_at_once": 16}
    shipping = Shipping(rig)
    await shipping.connect()
    for _ in range(5):
        await ship(shipping, 50_000)
        await shipping.destination.close("lost")
        await shipping.connect()
    await shipping.close()
    assert "can't be written" not in capsys.readouterr().out
    known = load_hint(rig.state / "bucket.json", rig.store.name, KEYS.incarnation)
    assert known == Remembered(Place(1, Lsn(S + 250_000)))


# --- what stands at the log's end already -----------------------------------------------------


async def test_a_marker_of_an_earlier_process_that_came_late_is_heeded(
    rig: BucketFarEnd, shipping: Shipping
) -> None:
    await shipping.connect()
    await ship(shipping, 1000)
    rig.put_marker(Place(1, Lsn(S + 1000)), Marker(kind="gap", code="wal-removed"))
    await shipping.send(500)
    await shipping.hear(Lost)
    assert (await shipping.connect_patiently()).position == at(1, S + 1000)
    await ship(shipping, 500)
    assert markers(rig) == [("gap", "")]
    assert rig.wal_of(1) == wal_bytes(1, S, 1500)


@pytest.mark.parametrize("key", [KEYS.history(2), KEYS.wal(Place(1, Lsn(S)))])
async def test_a_refusal_because_of_an_object_that_is_not_there_is_no_conflict(
    tmp_path: Path, key: str
) -> None:
    """A server may answer so while another request for the same key is under way."""

    class Hesitant(MemoryStore):
        def put(self, at_key: str, *args: Any, **options: Any) -> str:
            if at_key == key and refused.pop():
                raise ConditionFailedError(self.name, at_key)
            return super().put(at_key, *args, **options)

    refused = [False, True, True]
    rig = BucketFarEnd(tmp_path, Hesitant())
    rig.options["patience_seconds"] = 60.0
    shipping = Shipping(rig)
    await shipping.connect()
    history = b"1\t0/200064\tno recovery target specified\n"
    shipping.destination.send_history(2, history)
    await ship(shipping, 100)
    assert rig._histories() == {2: history}
    assert not shipping.heard(Lost)
    await shipping.close()


# --- wishes -----------------------------------------------------------------------------------


def test_an_order_that_nobody_heard_is_passed_on_again_by_the_next_connection(
    tmp_path: Path,
) -> None:
    order = tmp_path / ORDER_NAME
    wishes = SeedWishes(order, 0.0)
    order.touch()
    wishes.found(1000.0)
    assert wishes.due(2000.0)
    assert not wishes.due(2002.0), "once"
    wishes.found(1000.0)
    assert wishes.due(2004.0)
    wishes.begun()
    wishes.found(1000.0)
    assert not wishes.due(2006.0)
