"""Finished segments become one object, and the small ones go after the grace time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from logship.bucket.keys import Place
from logship.errors import Code
from logship.frames import GapFound
from logship.lsn import Lsn
from logship.objects.encryption import Identities, Recipients, generate_identity, is_sealed
from shipper.destinations import Lost
from shipper.destinations.bucket import segments as rooms
from tests.integration.destination_contract import Shipping
from tests.support.bucket_far_end import KEYS, BucketFarEnd
from tests.support.link_frames import SEGMENT_BYTES, at, wal_bytes
from tests.support.memory_store import MemoryStore
from tests.support.waiting import until

S = SEGMENT_BYTES
LATER = 3600.0


@pytest.fixture
def rig(rig: BucketFarEnd) -> BucketFarEnd:
    rig.options["max_object_bytes"] = 300_000
    return rig


async def started(rig: BucketFarEnd, **options: Any) -> Shipping:
    """A process."""
    rig.options |= options
    shipping = Shipping(rig)
    await shipping.connect()
    return shipping


async def ship(shipping: Shipping, size_bytes: int) -> None:
    await shipping.send(size_bytes, span_bytes=100_000)
    await shipping.hear_durable(shipping.sent)


def segments(rig: BucketFarEnd) -> list[str]:
    prefix = KEYS.all_segments
    return [each.key.removeprefix(prefix) for each in rig.store.real.listing(prefix)]


def parts_of(rig: BucketFarEnd, number: int) -> int:
    """Small objects of the segment with that number."""
    prefix = KEYS.wal_of(1)
    places = [
        Place.parse(each.key.removeprefix(KEYS.all_wal)) for each in rig.store.real.listing(prefix)
    ]
    return sum(place.lsn // S == number for place in places)


async def test_a_finished_segment_is_joined_and_its_parts_stay_for_the_grace_time(
    rig: BucketFarEnd,
) -> None:
    shipping = await started(rig, compact_grace_seconds=LATER)
    await ship(shipping, S - 1)
    assert segments(rig) == []
    await ship(shipping, 2)
    await until(lambda: segments(rig), "it is joined")
    assert segments(rig) == ["00000001/000000010000000000000001"]
    assert parts_of(rig, 1) >= 4
    fetched = rig._get_segment(Place(1, Lsn(S)))
    assert fetched is not None
    assert fetched[1] == wal_bytes(1, S, S)
    await shipping.close()


async def test_after_the_grace_time_the_log_is_followed_through_the_joined_segment(
    rig: BucketFarEnd,
) -> None:
    shipping = await started(rig, compact_grace_seconds=0.05)
    await ship(shipping, 2 * S + 500)
    await until(lambda: parts_of(rig, 1) == parts_of(rig, 2) == 0, "the parts are gone")
    assert parts_of(rig, 3) == 1
    assert rig.wal_of(1) == wal_bytes(1, S, 2 * S + 500)
    await shipping.close()
    (rig.state / "bucket.json").unlink()
    again = await started(rig)
    assert again.sent == at(1, 3 * S + 500)
    await again.close()


async def test_a_segment_that_is_one_object_anyway_is_left_alone(rig: BucketFarEnd) -> None:
    shipping = await started(
        rig, max_object_bytes=16 << 20, max_delay_seconds=30.0, window_bytes=64 << 20
    )
    await ship(shipping, 2 * S)
    await asyncio.sleep(0.1)
    assert segments(rig) == []
    assert not (rig.state / "bucket-segments.json").exists()
    await shipping.close()


async def test_what_is_to_be_removed_is_remembered_over_a_restart(rig: BucketFarEnd) -> None:
    shipping = await started(rig, compact_grace_seconds=0.6)
    await ship(shipping, S + 1)
    await until(lambda: segments(rig), "it is joined")
    await until(lambda: (rig.state / "bucket-segments.json").exists(), "it is written down")
    assert parts_of(rig, 1)
    await shipping.close()
    again = await started(rig)
    await until(lambda: parts_of(rig, 1) == 0, "the parts are gone")
    await again.close()


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_segment_that_was_begun_by_an_earlier_process(
    rig: BucketFarEnd, sealed: bool
) -> None:
    """It is fetched again, unless it can't be read."""
    first = await started(rig, compact_grace_seconds=0.05)
    await ship(first, S // 2)
    await first.close()
    second = await started(rig, sealed=sealed)
    await ship(second, S + S // 2)
    await until(lambda: parts_of(rig, 2) == 0, "the next one is joined")
    assert segments(rig)[-1] == "00000001/000000010000000000000002"
    if sealed:
        assert len(segments(rig)) == 1
        assert parts_of(rig, 1) >= 4
    else:
        await until(lambda: parts_of(rig, 1) == 0, "this one too")
    assert rig.wal_of(1) == wal_bytes(1, S, 2 * S)
    await second.close()


async def test_what_is_too_much_to_keep_is_fetched(
    rig: BucketFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "MAX_KEPT_BYTES", 100)
    shipping = await started(rig, compact_grace_seconds=0.05)
    gets = rig.store.calls["get"]
    await ship(shipping, S)
    await until(lambda: segments(rig), "it is joined")
    assert rig.store.calls["get"] > gets
    assert rig.wal_of(1) == wal_bytes(1, S, S)
    await shipping.close()


async def test_markers_within_a_segment_stay(rig: BucketFarEnd) -> None:
    shipping = await started(rig, compact_grace_seconds=0.05)
    await ship(shipping, 1000)
    shipping.destination.send_gap(
        GapFound(timeline=1, from_lsn=S + 1000, available_lsn=0, code="slot-lost", what="gone")
    )
    shipping.go_on_at(at(1, S + 1000))
    await ship(shipping, S)
    await until(lambda: parts_of(rig, 1) == 1, "only the marker is left")
    await shipping.close()


async def test_a_bucket_that_is_away_delays_it(rig: BucketFarEnd) -> None:
    shipping = await started(rig, compact_grace_seconds=0.05, patience_seconds=60.0)
    await ship(shipping, S - 1)
    rig.store.after_put.append(("", rig.store.vanish))
    await shipping.send(1)
    await until(lambda: not rig.store.after_put, "the last object is stored")
    await asyncio.sleep(0.05)
    assert segments(rig) == []
    rig.come_back()
    await until(lambda: parts_of(rig, 1) == 0, "the parts are gone")
    await shipping.close()


async def test_sealed_objects_are_read_with_the_identity_alone(
    rig: BucketFarEnd, tmp_path: Path
) -> None:
    pair = generate_identity()
    file = tmp_path / "identity"
    file.write_text(pair.file_text)
    file.chmod(0o600)
    rig.seal = Recipients([pair.recipient]).seal
    rig.opens = Identities([file])
    shipping = await started(rig, compact_grace_seconds=0.05, sealed=True)
    await ship(shipping, S + 700)
    await until(lambda: parts_of(rig, 1) == 0, "the parts are gone")
    assert rig.wal_of(1) == wal_bytes(1, S, S + 700)
    stored = [rig.store.real.get(each.key) for each in rig.store.real.listing(KEYS.root)]
    bodies = [each.data for each in stored if each is not None and each.data]
    # The rig's own object, from before, is not.
    assert sum(not is_sealed(body) for body in bodies) == 1
    assert len(bodies) >= 4, "a segment, an object, a profile"
    await shipping.close()


@pytest.mark.parametrize("other", [False, True])
async def test_sealed_objects_beyond_a_hole_are_compared_by_their_heads(
    rig: BucketFarEnd, other: bool
) -> None:
    rig.seal = Recipients([generate_identity().recipient]).seal
    rig.put_wal(at(1, S + 1000), 500, of_timeline=7 if other else 0)
    shipping = await started(rig, sealed=True)
    await shipping.send(5000)
    if other:
        (lost,) = await shipping.hear(Lost)
        assert lost.error.code is Code.WAL_CONFLICT
    else:
        await shipping.hear_durable(at(1, S + 5000))
    await shipping.close()


async def test_parts_stay_where_the_joined_segment_is_gone(rig: BucketFarEnd) -> None:
    with capture_logs() as logs:
        shipping = await started(rig, compact_grace_seconds=0.5)
        await ship(shipping, S + 1)
        await until(lambda: segments(rig), "it is joined")
        assert not rig.store.real.delete([f"{KEYS.all_segments}{segments(rig)[0]}"])
        await until(lambda: any("stay" in each["event"] for each in logs), "it is seen")
    assert parts_of(rig, 1) >= 4
    assert rig.wal_of(1) == wal_bytes(1, S, S + 1)
    await shipping.close()


async def test_what_was_joined_in_another_bucket_is_not_removed_here(
    rig: BucketFarEnd, tmp_path: Path
) -> None:
    class Elsewhere(MemoryStore):
        @property
        def name(self) -> str:
            return "elsewhere://"

    shipping = await started(rig, compact_grace_seconds=1.0)
    await ship(shipping, S + 1)
    memory = rig.state / "bucket-segments.json"
    await until(
        lambda: memory.exists() and b'"remove_at":1' in memory.read_bytes(), "it is written down"
    )
    await shipping.close()
    (tmp_path / "elsewhere").mkdir()
    elsewhere = BucketFarEnd(tmp_path / "elsewhere", Elsewhere())
    elsewhere.state = rig.state
    for lsn in range(S, 2 * S, S // 4):
        elsewhere.put_wal(at(1, lsn), S // 4)
    segment = rig.store.real.get(KEYS.segment(1, S, S))
    assert segment is not None
    elsewhere.store.real.put(KEYS.segment(1, S, S), segment.data, segment.metadata)
    again = await started(elsewhere)
    await asyncio.sleep(1.2)  # nothing is to happen then
    assert parts_of(elsewhere, 1) == 4
    await again.close()
    elsewhere.store.vanish()
