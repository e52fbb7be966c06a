"""An instance that is attached to a bucket, and what it removes there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from applier.operations.bucket_retention import BucketRetention
from applier.operations.instance import Instance
from applier.retention.leases import HeldLease, Lease
from logship.bucket.keys import Keys, Place
from logship.bucket.seed_archive import PLAIN
from logship.errors import Code
from logship.frames import SeedBegin
from logship.identity import Incarnation
from logship.lsn import Lsn
from logship.objects import ObjectInfo
from tests.support.link_frames import SEGMENT_BYTES, hello
from tests.support.memory_store import MemoryStore
from tests.unit.applier.operations.conftest import Listener

S = SEGMENT_BYTES
START = SeedBegin(seed_id="aa", timeline=1, start_lsn=4 * S, estimated_bytes=0)
KEYS = Keys("orders", Incarnation(7301234567890123456, 17))


@pytest.fixture
def more_settings(request: pytest.FixtureRequest) -> str:
    wanted = getattr(request, "param", True)
    return f"retention.remove_from_bucket = {str(wanted).lower()}"


def filled() -> MemoryStore:
    store = MemoryStore()
    for number in range(2, 6):
        store.put(KEYS.wal(Place(1, Lsn(number * S))), b"x")
    return store


async def test_what_it_has_read_goes(instance: Instance, listener: Listener) -> None:
    await instance.hello(hello(), listener)
    await instance.arrival.begin(START)
    store = filled()
    instance.retention.bucket = BucketRetention(store, PLAIN)
    told = await instance.retention.run(dry_run=True)
    assert len(store.objects) == 4
    assert told["parts"]["bucket WAL"]["removed"][0]["pieces"] == 2
    assert (
        "bucket WAL"
        not in (await instance.retention.run(dry_run=False, with_bucket=False))["parts"]
    )
    await instance.retention.run(dry_run=False)
    assert list(store.objects) == [KEYS.wal(Place(1, Lsn(number * S))) for number in (4, 5)]


async def test_a_restore_here_keeps_the_bucket_s_wal(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    await instance.arrival.begin(START)
    store = filled()
    instance.retention.bucket = BucketRetention(store, PLAIN)
    restore = HeldLease.take(instance.directory)
    assert restore is not None
    restore.narrow(Lease(1, 3 * S, "aa"))
    await instance.retention.run(dry_run=False)
    assert list(store.objects) == [KEYS.wal(Place(1, Lsn(number * S))) for number in (3, 4, 5)]
    restore.release()
    await instance.retention.run(dry_run=False)
    assert list(store.objects) == [KEYS.wal(Place(1, Lsn(number * S))) for number in (4, 5)]


@pytest.mark.parametrize("more_settings", [False], indirect=True)
async def test_nothing_goes_unless_the_settings_say_so(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    await instance.arrival.begin(START)
    store = filled()
    instance.retention.bucket = BucketRetention(store, PLAIN)
    answer = await instance.retention.run(dry_run=False)
    assert "remove_from_bucket" in answer["parts"]["bucket"]["held"]
    assert len(store.objects) == 4


class Broken(MemoryStore):
    """Stands for a bug: it raises what no store is meant to."""

    def listing(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        raise ValueError("a bug")


async def test_a_bug_with_one_instance_is_alarmed_and_ends_nothing(
    instance: Instance, listener: Listener
) -> None:
    await instance.hello(hello(), listener)
    await instance.arrival.begin(START)
    instance.retention.bucket = BucketRetention(Broken(), PLAIN)
    await instance.retention.run_quietly()
    (alarm,) = [a for a in instance.alarms.as_list() if a["code"] == Code.RETENTION_FAILED]
    assert "a bug" in alarm["what"]
    instance.retention.bucket = BucketRetention(filled(), PLAIN)
    await instance.retention.run_quietly()
    assert not instance.alarms.has(Code.RETENTION_FAILED)
