"""A primary that is no continuation of a bucket's log: the image of a machine that still runs,
or one that was restored from older data."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from logship.bucket.keys import Place
from logship.bucket.wal_objects import Marker
from logship.errors import Code, LogshipError
from logship.frames import GapFound
from logship.lsn import Lsn
from shipper.agent.agent import Agent, SendSeed
from shipper.destinations import Rewind, SeedFinished, SeedWanted
from shipper.destinations.bucket import destination as bucket
from shipper.destinations.bucket.remembered import load_hint
from shipper.destinations.bucket.wishes import ORDER_NAME
from shipper.destinations.several import destination as several_module
from shipper.destinations.several.destination import SeveralDestinations, SeveralMember
from shipper.destinations.several.members import Role
from shipper.destinations.several.spill import SpillRule
from shipper.health import State
from tests.integration.destination_contract import Seed, Shipping, facts
from tests.support.bucket_far_end import KEYS, BucketFarEnd
from tests.support.fake_bucket import FakeBucket
from tests.support.fakes import FakeSource
from tests.support.link_frames import SEGMENT_BYTES, at, sealed_wal, wal_bytes
from tests.support.waiting import until

S = SEGMENT_BYTES


@pytest.fixture
async def origin(rig: BucketFarEnd) -> AsyncIterator[Shipping]:
    made = Shipping(rig)
    yield made
    await made.close()


def image_of(rig: BucketFarEnd, name: str = "image") -> Path:
    """The state directory as the image of a disk has it."""
    image = rig.state.with_name(name)
    # A state file may be on its way to its name just now.
    shutil.copytree(rig.state, image, ignore=shutil.ignore_patterns(".*.tmp"))
    return image


def started_from(rig: BucketFarEnd, state: Path) -> Shipping:
    """A new process on the same hardware."""
    rig.state = state
    return Shipping(rig)


def contents(rig: BucketFarEnd) -> dict[str, bytes]:
    """Of the log, as it lies there."""
    found = {}
    for each in rig.store.real.listing(KEYS.root):
        fetched = rig.store.real.get(each.key)
        assert fetched is not None
        found[each.key] = fetched.data
    return found


async def ship(shipping: Shipping, size_bytes: int) -> None:
    await shipping.send(size_bytes)
    await shipping.hear_durable(shipping.sent)


async def refusal(shipping: Shipping, **changes: object) -> LogshipError:
    with pytest.raises(LogshipError) as caught:
        await shipping.connect(**changes)
    return caught.value


def part(shipping: Shipping, code: Code) -> None:
    lsn = shipping.sent.lsn
    shipping.destination.send_gap(
        GapFound(timeline=1, from_lsn=lsn, available_lsn=0, code=code, what="it is behind")
    )


async def take_no_seed(send: SendSeed, system_identifier: int) -> None:
    raise AssertionError("nobody asked for one")


def remembers_that_it_parted(rig: BucketFarEnd) -> bool:
    known = load_hint(rig.state / "bucket.json", rig.store.name, KEYS.incarnation)
    return known is not None and known.parted is not None


# --- an image that starts while its origin runs, or after -------------------------------------


@pytest.mark.parametrize("runs", [True, False])
async def test_an_image_that_is_behind_its_origins_log_neither_writes_nor_takes_the_epoch(
    rig: BucketFarEnd, origin: Shipping, runs: bool
) -> None:
    await origin.connect()
    await ship(origin, 1000)
    state, image = rig.state, image_of(rig)
    await ship(origin, 500)
    if not runs:
        await origin.close()
    before = contents(rig)
    epoch = rig.store.real.get("orders/epoch")
    copy = started_from(rig, image)
    error = await refusal(copy, flush_lsn=Lsn(S + 1000))
    assert (error.code, error.retryable) == (Code.EPOCH_HELD, False)
    assert "0/1005DC" in error.what
    assert "0/1003E8" in error.what
    assert "--take-over" in error.hint
    # Once it has written more of its own, here and in another process:
    for again in (copy, started_from(rig, image)):
        assert (await refusal(again)).code is Code.EPOCH_HELD
        await again.close()
    assert contents(rig) == before
    assert rig.store.real.get("orders/epoch") == epoch
    if not runs:
        origin = started_from(rig, state)
        await origin.connect()
        assert origin.sent == at(1, S + 1500)
    await ship(origin, 300)
    assert rig.wal_of(1) == wal_bytes(1, S, 1800)
    await origin.close()


async def test_a_primary_that_stands_in_for_its_origin_goes_on_when_told_to(
    rig: BucketFarEnd, origin: Shipping
) -> None:
    await origin.connect()
    await ship(origin, 1000)
    image = image_of(rig)
    await ship(origin, 500)
    await origin.close()
    assert (await refusal(started_from(rig, image), flush_lsn=Lsn(S + 1))).code is Code.EPOCH_HELD
    rig.options["take_over"] = True
    told = Shipping(rig)
    assert (await told.connect(flush_lsn=Lsn(S + 1))).position == at(1, S + 1500)
    await told.close()
    rig.options["take_over"] = False
    later = Shipping(rig)
    assert (await later.connect(flush_lsn=Lsn(S + 1))).position == at(1, S + 1500)
    part(later, Code.PRIMARY_BEHIND)
    await later.close()
    # Its own image, started once the log has gone on, was told of another end.
    image = image_of(rig, "image of it")
    third = Shipping(rig)
    assert (await third.connect(flush_lsn=Lsn(S + 1))).position is None
    await Seed(start_lsn=7 * S + 40).send(third.destination)
    (rewind,) = await third.hear(Rewind)
    third.go_on_at(rewind.position)
    await ship(third, 200)
    await third.close()
    copy = started_from(rig, image)
    assert (await refusal(copy, flush_lsn=Lsn(S + 1))).code is Code.EPOCH_HELD


async def test_what_was_no_continuation_while_it_shipped_is_not_refused_when_it_starts_again(
    rig: BucketFarEnd, origin: Shipping
) -> None:
    await origin.connect()
    await ship(origin, 1000)
    part(origin, Code.PRIMARY_BEHIND)
    await until(lambda: remembers_that_it_parted(rig), "it is remembered")
    await origin.close()
    before = contents(rig)
    restarted = Shipping(rig)
    assert (await restarted.connect(flush_lsn=Lsn(S + 1))).position is None
    assert contents(rig) == before
    await restarted.close()


async def test_a_timeline_before_the_logs_is_behind_it(rig: BucketFarEnd, origin: Shipping) -> None:
    await origin.connect(timeline=2)
    image = image_of(rig)
    origin.destination.send_history(2, b"1\t0/100064\tno recovery target specified\n")
    origin.sent = at(2, S)
    await ship(origin, 100)
    copy = started_from(rig, image)
    assert (await refusal(copy, timeline=1)).code is Code.EPOCH_HELD
    assert (await refusal(copy, timeline=1)).code is Code.EPOCH_HELD
    # It was another server that was asked by mistake.
    assert (await copy.connect(timeline=2)).position == at(2, S + 100)
    await copy.close()


async def test_an_archive_whose_primary_is_away_waits_for_it_unless_it_has_archived_as_much(
    rig: BucketFarEnd, origin: Shipping
) -> None:
    await origin.connect()
    await ship(origin, 1000)
    epoch = rig.store.real.get("orders/epoch")
    copy = started_from(rig, image_of(rig))
    for flush_lsn in (Lsn(0), Lsn(S + 999)):
        error = await refusal(copy, reachable=False, flush_lsn=flush_lsn)
        assert (error.code, error.retryable) == (Code.PRIMARY_UNREACHABLE, True)
    assert rig.store.real.get("orders/epoch") == epoch
    await ship(origin, 1)
    await origin.close()
    # It gave nothing up: it may be the right one.
    accepted = await copy.connect(reachable=False, flush_lsn=Lsn(S + 1001))
    assert accepted.position == at(1, S + 1001)
    await copy.close()


async def test_an_image_whose_last_place_retention_has_passed_is_behind_all_the_same(
    rig: BucketFarEnd, origin: Shipping
) -> None:
    await origin.connect()
    await ship(origin, 1000)
    await until((rig.state / "bucket.json").exists, "its last place is remembered")
    image = image_of(rig)
    await ship(origin, 3 * S)
    first = KEYS.segment(1, S, S)
    await until(lambda: rig.store.real.describe(first), "its parts are joined")
    old = [Place(1, Lsn(0)), *(place for place, _, _ in rig.objects() if place.lsn < 3 * S)]
    assert rig.store.real.delete([KEYS.wal(place) for place in old]) == []
    assert rig.store.real.delete([first]) == []
    epoch = rig.store.real.get("orders/epoch")
    assert epoch is not None
    error = await refusal(started_from(rig, image), flush_lsn=Lsn(S + 1000))
    assert error.code is Code.EPOCH_HELD
    assert str(Lsn(4 * S + 1000)) in error.what
    assert rig.store.real.get("orders/epoch") == epoch


# --- found while it ships -----------------------------------------------------------------------


CODES = [Code.PRIMARY_BEHIND, Code.NOT_IN_HISTORY, Code.TIMELINE_DIVERGED]


@pytest.mark.parametrize("code", CODES)
async def test_what_is_no_continuation_writes_nothing_also_once_it_has_come_as_far(
    rig: BucketFarEnd, origin: Shipping, code: Code
) -> None:
    rig.options["seed_every_hours"] = 1e-9
    await origin.connect()
    await ship(origin, 1000)
    before = contents(rig)
    part(origin, code)
    await until(lambda: remembers_that_it_parted(rig), "it is remembered")
    again = await origin.connect()
    assert (again.position, again.durable, again.seed_wanted) == (None, None, False)
    await origin.close()
    restarted = Shipping(rig)
    accepted = await restarted.connect()
    assert (accepted.position, accepted.durable, accepted.seed_wanted) == (None, None, False)
    restarted.go_on_at(at(1, S + 1000))
    part(restarted, code)
    assert contents(rig) == before
    assert not restarted.heard(SeedWanted)
    await restarted.close()


async def test_who_asks_how_a_shipper_is_hears_that_its_primary_is_no_continuation(
    rig: BucketFarEnd, origin: Shipping
) -> None:
    agent = Agent(FakeSource(start_lsn=S), origin.destination, take_no_seed)
    agent._health.is_now(State.SHIPPING)
    link = FakeBucket(at(1, S))
    several = SeveralDestinations(
        [
            SeveralMember("link", Role.REQUIRED, link),
            SeveralMember("bucket", Role.REQUIRED, origin.destination),
        ]
    )
    await several.connect(facts())
    several.resume(at(1, S))
    several.send_span(1, S, sealed_wal(1, S, 1000), S + 1000)
    assert agent.health_report("main")["healthy"]
    assert several.away() == {}
    origin.sent = at(1, S + 1000)
    part(origin, Code.PRIMARY_BEHIND)
    said = agent.health_report("main")
    assert (said["healthy"], said["state"]) == (False, "shipping")
    assert said["error"]["code"] == "primary-behind"
    assert "shipper seed" in said["error"]["hint"]
    (error,) = several.away().values()
    assert error is not None and error.as_dict() == said["error"]
    several.tell(facts())
    (road,) = link.told[-1].other_roads
    assert (road.name, road.state) == ("bucket", "refused")
    await several.close("the test is over")
    again = await origin.connect()
    assert again.position is None
    assert not agent.health_report("main")["healthy"]


async def test_a_bucket_that_only_spills_takes_nothing_of_what_is_no_continuation(
    rig: BucketFarEnd, origin: Shipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several_module, "REFUSED_RETRY_SECONDS", 0.05)
    await origin.connect()
    await ship(origin, 1000)
    part(origin, Code.PRIMARY_BEHIND)
    await until(lambda: remembers_that_it_parted(rig), "it is remembered")
    await origin.close()
    before = contents(rig)
    link = FakeBucket(at(1, S))
    several = SeveralDestinations(
        [
            SeveralMember("link", Role.REQUIRED, link),
            SeveralMember("bucket", Role.SPILL, rig.make_destination()),
        ],
        spill=SpillRule(100_000, 0.0),
    )
    link.away = True
    # Restored, it has come past the place, then past the segment.
    for slot_lsn in (S + 500, 3 * S + 500):
        told = facts(flush_lsn=Lsn(9 * S), slot_restart_lsn=Lsn(slot_lsn))
        with pytest.raises(LogshipError) as caught:
            await several.connect(told)
        assert caught.value.retryable, "the link may come back"
        (road,) = several._flow.roads("link")
        assert (road.state, "never wrote" in road.what) == ("refused", True)
        assert contents(rig) == before
    await several.close("the test is over")
    assert remembers_that_it_parted(rig)


@pytest.mark.parametrize("written", ["primary-behind", "wal-removed"])
async def test_a_log_that_ends_with_a_gap_already_is_parted_from_too(
    rig: BucketFarEnd, origin: Shipping, written: str
) -> None:
    rig.put_wal(at(1, S), 1000)
    end = Place(1, Lsn(S + 1000))
    rig.put_marker(end, Marker(kind="gap", code=written, what="written before"))
    accepted = await origin.connect()
    if written == "wal-removed":
        assert accepted.position == at(1, S + 1000)
        origin.go_on_at(at(1, S + 1000))
        part(origin, Code.PRIMARY_BEHIND)
        await origin.close()
        accepted = await origin.connect()
    await origin.close()
    assert (accepted.position, accepted.seed_wanted) == (None, False)
    restarted = Shipping(rig)
    assert (await restarted.connect()).position is None
    restarted.go_on_at(at(1, S + 1000))
    await restarted.send(500)
    await Seed("5eed0", start_lsn=S + 40).send(restarted.destination)
    await restarted.hear(SeedFinished)
    assert not restarted.heard(Rewind), "it begins where the log was another's"
    assert rig.wal_of(1) == wal_bytes(1, S, 1000)
    await Seed(start_lsn=7 * S + 40).send(restarted.destination)
    (rewind,) = await restarted.hear(Rewind)
    restarted.go_on_at(rewind.position)
    await ship(restarted, 200)
    heads = [head.marker for _, head, _ in rig.objects()]
    kinds = [(marker.kind, marker.code) for marker in heads if marker is not None]
    assert kinds == [("gap", written), ("seed", "")]
    await restarted.close()


async def test_a_seed_that_was_ordered_leads_the_log_to_what_was_restored(
    rig: BucketFarEnd, origin: Shipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "LOOK_SECONDS", 0.02)
    await origin.connect()
    await ship(origin, 1000)
    part(origin, Code.PRIMARY_BEHIND)
    await origin.close()
    restarted = Shipping(rig)
    await restarted.connect()
    (rig.state / ORDER_NAME).touch()
    await restarted.hear(SeedWanted)
    with capture_logs() as logs:
        await Seed("5eed0", start_lsn=S + 4000).send(restarted.destination)
        await restarted.hear(SeedFinished)
    assert any("begins before" in each["event"] for each in logs)
    assert not restarted.heard(Rewind), "it begins where the log was another's"
    await Seed(start_lsn=7 * S + 40).send(restarted.destination)
    (rewind,) = await restarted.hear(Rewind)
    assert rewind.position == at(1, 7 * S)
    restarted.go_on_at(rewind.position)
    await ship(restarted, 200)
    heads = [head.marker for _, head, _ in rig.objects()]
    kinds = [(marker.kind, marker.code) for marker in heads if marker is not None]
    assert kinds == [("gap", "primary-behind"), ("seed", "")]
    await restarted.close()
    third = Shipping(rig)
    assert (await third.connect()).position == at(1, 7 * S + 200)
    await third.close()
